// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/process"
)

// continues checks that a target makes progress, to the next phase or with its image,
// or stays Ready, with the same process and the same installation.
func (x *trial) continues(before evidence) {
	x.Helper()
	name, phase := before.target.Name, before.target.Status.Phase
	if phase != v1alpha1.TargetReady {
		x.awaitTarget(name, "beyond "+string(phase), x.faultAt, func(o *v1alpha1.BareMetalTarget) bool {
			return phaseIndex(o.Status.Phase) > phaseIndex(phase) || progressOf(o) > progressOf(before.target)
		})
	}
	x.sameMachine(before)
	x.sameInstallation(before)
	states, _ := x.w.since("target/"+name, x.faultAt)
	for _, m := range states {
		if p := m.obj.(*v1alpha1.BareMetalTarget).Status.Phase; phaseIndex(p) < phaseIndex(phase) {
			x.Errorf("%s went back from phase %s to %s", name, phase, p)
			return
		}
	}
}

// managerKilled kills the manager in each of the phases of one installation of a target.
func managerKilled(name string, phases ...v1alpha1.TargetPhase) func(*trial) {
	return func(x *trial) {
		for _, phase := range phases {
			x.bringTo(name, phase)
			watched, before, objects := x.bystanders(), x.evidence(name), x.objects(x)
			x.markFault()
			x.kill(x.program(x, manager))
			x.sameMachine(before)
			before = x.evidence(name) // the last state that the old manager recorded
			x.startPrograms()
			x.recovered(time.Now())
			x.continues(before)
			x.untouched(watched...)
			x.sameObjects(objects)
		}
	}
}

// switchAway interrupts the lab network during a transfer: the manager runs the
// switch.
func switchAway(x *trial) {
	x.bringTo(first, v1alpha1.TargetInstalling)
	before := x.evidence(first)
	x.markFault()
	x.kill(x.program(x, manager))
	x.hold(20 * time.Second)
	x.sameMachine(before)
	before = x.evidence(first) // the last state that the old manager recorded
	x.markFaultEnd()
	x.startPrograms()
	x.continues(before)
	x.recovered(time.Now())
}

func progressOf(o *v1alpha1.BareMetalTarget) int32 {
	if o.Status.Install == nil {
		return 0
	}
	return o.Status.Install.Percent
}

// hold waits: the duration of an outage is part of the fault.
func (x *trial) hold(d time.Duration) {
	x.Helper()
	select {
	case <-time.After(d):
	case <-x.Context().Done():
		x.Fatal(x.Context().Err())
	}
}

// controlPlaneAway kills the control plane during an installation.
func controlPlaneAway(x *trial) {
	x.ready(calm)
	x.bringTo(slow, v1alpha1.TargetPXE)
	watched, before := x.bystanders(), x.evidence(slow)
	objects, managerProcess := x.objects(x), x.program(x, manager)
	x.markFault()
	x.kill(x.program(x, controlPlane))
	x.hold(2 * time.Minute)
	x.markFaultEnd()
	x.sameMachine(before)
	if !process.Alive(managerProcess) {
		x.Fatal("the manager exited during the outage of the control plane; see its log")
	}
	x.startPrograms()
	// The manager has recovered when it has observed a change of a spec.
	x.update(x, calm, func(s *v1alpha1.BareMetalTargetSpec) { s.DiskRetention = v1alpha1.RetentionRetain })
	_, at := x.awaitTarget(calm, "observed by the manager", x.faultAt, func(o *v1alpha1.BareMetalTarget) bool {
		return o.Spec.DiskRetention == v1alpha1.RetentionRetain && o.Status.ObservedGeneration == o.Generation
	})
	x.recovered(at)
	x.update(x, calm, func(s *v1alpha1.BareMetalTargetSpec) { s.DiskRetention = v1alpha1.RetentionDelete })
	x.continues(before)
	x.untouched(watched...)
	x.sameObjects(objects)
}
