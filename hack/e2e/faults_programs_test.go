// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/process"
)

// goesOn checks that a target gets on, to the next phase or with its image, or
// stays Ready, in the machine and the installation that it was in.
func (x *trial) goesOn(before evidence) {
	x.Helper()
	name, phase := before.target.Name, before.target.Status.Phase
	if phase != v1alpha1.TargetReady {
		x.awaitTarget(name, "getting on from "+string(phase), x.struck, func(o *v1alpha1.BareMetalTarget) bool {
			return place(o.Status.Phase) > place(phase) || progressOf(o) > progressOf(before.target)
		})
	}
	x.sameMachine(before)
	x.sameInstallation(before)
	states, _ := x.w.since("target/"+name, x.struck)
	for _, m := range states {
		if p := m.obj.(*v1alpha1.BareMetalTarget).Status.Phase; place(p) < place(phase) {
			x.Errorf("%s fell back from %s to %s", name, phase, p)
			return
		}
	}
}

// managerKilled kills the manager while the first target is in a phase.
func managerKilled(phase v1alpha1.TargetPhase) func(*trial) {
	return func(x *trial) {
		x.bring(first, phase)
		before, objects := x.evidence(first), x.objects(x)
		var watched *bystander
		var mark string
		if phase == v1alpha1.TargetReady {
			watched, mark = x.bystander(), x.leaveMark(first)
		}
		x.strike()
		x.kill(x.program(x, manager))
		x.sameMachine(before)
		before = x.evidence(first) // the last that the old manager wrote
		x.startPrograms()
		x.recovered(time.Now())
		x.goesOn(before)
		x.untouched(watched)
		if phase == v1alpha1.TargetReady {
			x.findMark(first, mark)
		}
		x.sameObjects(objects)
	}
}

// switchAway takes the lab network away in the middle of a transfer: the
// switch is in the manager.
func switchAway(x *trial) {
	x.bring(first, v1alpha1.TargetInstalling)
	before := x.evidence(first)
	x.strike()
	x.kill(x.program(x, manager))
	x.stay(20 * time.Second)
	x.sameMachine(before)
	before = x.evidence(first) // the last that the old manager wrote
	x.ended()
	x.startPrograms()
	x.goesOn(before)
	x.recovered(time.Now())
}

func progressOf(o *v1alpha1.BareMetalTarget) int32 {
	if o.Status.Install == nil {
		return 0
	}
	return o.Status.Install.Percent
}

// stay keeps the lab as it is: how long something is away is part of the fault.
func (x *trial) stay(d time.Duration) {
	x.Helper()
	select {
	case <-time.After(d):
	case <-x.Context().Done():
		x.Fatal(x.Context().Err())
	}
}

// controlPlaneAway kills the control plane while a target is installed.
func controlPlaneAway(x *trial) {
	x.ready(first)
	watched := x.bystander()
	x.bring(second, v1alpha1.TargetPXE)
	before, objects, driver := x.evidence(second), x.objects(x), x.program(x, manager)
	x.strike()
	x.kill(x.program(x, controlPlane))
	x.stay(2 * time.Minute)
	x.ended()
	x.sameMachine(before)
	if !process.Alive(driver) {
		x.Fatal("the manager ended because the control plane was away; its log has why")
	}
	x.startPrograms()
	// The manager is back at work when it has seen a change of the declaration.
	x.update(x, first, func(s *v1alpha1.BareMetalTargetSpec) { s.DiskRetention = v1alpha1.RetentionRetain })
	_, at := x.awaitTarget(first, "seen by the manager", x.struck, func(o *v1alpha1.BareMetalTarget) bool {
		return o.Spec.DiskRetention == v1alpha1.RetentionRetain && o.Status.ObservedGeneration == o.Generation
	})
	x.recovered(at)
	x.update(x, first, func(s *v1alpha1.BareMetalTargetSpec) { s.DiskRetention = v1alpha1.RetentionDelete })
	x.goesOn(before)
	x.untouched(watched)
	x.sameObjects(objects)
}
