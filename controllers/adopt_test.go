// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// adopts declares a target that adopts the disks of another one.
func adopts(name, retained string) *v1alpha1.BareMetalTarget {
	bmt := newTarget(name)
	bmt.Spec.Machine.Disks[0].Source = &v1alpha1.DiskSource{Retained: retained}
	return bmt
}

// deleteRetained deletes a target and keeps its disks.
func (l *lab) deleteRetained(bmt *v1alpha1.BareMetalTarget) {
	l.t.Helper()
	update(l, l.target(bmt.Name), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.DiskRetention = v1alpha1.RetentionRetain })
	l.reconciled(bmt)
	l.must(l.client.Delete(l.ctx, l.target(bmt.Name)))
	l.waitGone(bmt)
}

// A target that is created again with the retained disks runs the system on them, with its
// identity, and is not installed.
func TestTargetAdoptsDisks(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-0"), newTarget("target-1"))
	old := l.becomesReady("target-1")
	system := l.waitMachine(old, func(m netbootapi.Machine) bool { return m.Boot == netbootapi.BootDisk })
	writeFile(t, plan.DiskPath(l.machineDir(old), 0), "installed system")
	l.deleteRetained(old)

	created := adopts("target-1", "target-1")
	created.Spec.Machine.Disks[0].Size = resource.MustParse("3Gi")
	l.create(created)
	target := l.waitPhase("target-1", v1alpha1.TargetBooting)
	if target.UID == old.UID {
		t.Fatal("got the same object, want another one")
	}
	l.waitEvent(target, v1alpha1.ReasonDisksAdopted, string(old.UID))
	if got := readFile(t, plan.DiskPath(l.machineDir(target), 0), 16); got != "installed system" {
		t.Errorf("got disk %q, want that of the deleted target", got)
	}
	if info, err := os.Stat(plan.DiskPath(l.machineDir(target), 0)); err != nil || info.Size() != 3<<30 {
		t.Errorf("got disk %v, %v, want it to be grown to 3Gi", info, err)
	}
	if diff := cmp.Diff(plan.BootOrder(false), l.state(target).BootOrder); diff != "" {
		t.Errorf("boot order (-want +got)\n%s", diff)
	}
	got := l.waitMachine(target, func(m netbootapi.Machine) bool { return m.Boot == netbootapi.BootDisk && m.PowerOn != "" })
	if got.MAC != system.MAC || got.Address != system.Address {
		t.Errorf("got addresses %s and %s, want those of the system, %s and %s", got.MAC, got.Address, system.MAC, system.Address)
	}
	if got.InstanceID != system.InstanceID || got.SeedToken != system.SeedToken || !got.SeedEnded {
		t.Errorf("got %+v, want the identity of the system, %+v, whose seed has ended", got.Control, system.Control)
	}
	if diff := cmp.Diff(old.Status.SSHHostKeys, target.Status.SSHHostKeys); diff != "" {
		t.Errorf("host keys (-want +got)\n%s", diff)
	}
	l.answers(target)
	target = l.waitPhase("target-1", v1alpha1.TargetReady)
	want := &v1alpha1.Adoption{
		Retained: string(old.UID), UID: string(old.UID), Attempt: 1, MAC: old.BootNICStatus().MAC, Address: old.BootNICStatus().Address(),
	}
	if diff := cmp.Diff(want, target.Status.Adoption); diff != "" {
		t.Errorf("status.adoption (-want +got)\n%s", diff)
	}
	if got := target.Status.InstalledGeneration; got != 1 {
		t.Errorf("got installed generation %d, want 1", got)
	}
	if names, err := filepath.Glob(filepath.Join(l.data, "retained", "*")); err != nil || len(names) > 0 {
		t.Errorf("got retained disks %v, %v, want none", names, err)
	}

	// The next installation is the target's own.
	l.restart()
	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.InstallGeneration = 2 })
	target = l.waitTarget("target-1", "installed again", func(bmt *v1alpha1.BareMetalTarget) bool {
		return bmt.Status.Phase == v1alpha1.TargetPXE && bmt.Status.DiskGeneration == 2
	})
	l.waitMachine(target, func(m netbootapi.Machine) bool { return m.Attempt == string(target.UID)+"-2" && m.MAC == system.MAC })
	l.becomesReady("target-1")
}

// Disks that do not exist, are in use, or differ from what is declared are not adopted, and
// no blank ones are created in their place.
func TestTargetAdoptionIsRefused(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"), adopts("waits", "target-1"), adopts("lost", "target-9"))
	waits, lost := l.target("waits"), l.target("lost")
	l.waitCondition(lost, v1alpha1.ConditionValid, "False", v1alpha1.ReasonNoRetainedDisks, "no retained disks of a deleted target target-9")
	l.waitPhase("lost", v1alpha1.TargetFailed)
	old := l.waitPhase("target-1", v1alpha1.TargetPXE)
	l.waitCondition(waits, v1alpha1.ConditionReady, "False", v1alpha1.ReasonRetainedDisksInUse, "existing target target-1")
	byUID := adopts("by-uid", string(old.UID))
	l.create(byUID)
	l.waitCondition(byUID, v1alpha1.ConditionReady, "False", v1alpha1.ReasonRetainedDisksInUse, "existing target target-1")
	for _, o := range []*v1alpha1.BareMetalTarget{waits, lost, byUID} {
		l.reconciled(o)
		l.checkAlive(o, false)
		if _, err := os.Stat(l.machineDir(o)); err == nil {
			t.Errorf("%s: got a directory, want no disks", o.Name)
		}
		if got := l.target(o.Name).BootNICStatus().MAC; got != "" {
			t.Errorf("%s: got MAC address %s, want none before the adoption", o.Name, got)
		}
	}
	small := adopts("small", "target-1")
	small.Spec.Machine.Disks[0].Size = resource.MustParse("1Gi")
	update(l, l.target("waits"), func(bmt *v1alpha1.BareMetalTarget) {
		bmt.Annotations = map[string]string{v1alpha1.PausedAnnotation: ""}
	})
	l.must(l.client.Delete(l.ctx, byUID))
	l.waitGone(byUID)
	l.deleteRetained(old)
	l.create(small)
	l.waitCondition(small, v1alpha1.ConditionValid, "False", v1alpha1.ReasonRetainedDisksMismatch, "more than its declared size")
	l.must(l.client.Delete(l.ctx, small))
	l.waitGone(small)
	// What was not installed does not count as installed after the adoption.
	update(l, l.target("waits"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Annotations = nil })
	adopted := l.waitPhase("waits", v1alpha1.TargetPXE)
	if got := adopted.Status.InstalledGeneration; got != 0 || adopted.Status.Adoption == nil {
		t.Errorf("got installed generation %d and adoption %+v, want 0 and an adoption", got, adopted.Status.Adoption)
	}
	l.create(adopts("late", string(old.UID)))
	l.waitCondition(l.target("late"), v1alpha1.ConditionValid, "False", v1alpha1.ReasonNoRetainedDisks, "another target has adopted them")
}

// A manager that dies between the move of the disks and their record completes the adoption.
func TestTargetCompletesInterruptedAdoption(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	old := l.becomesReady("target-1")
	l.deleteRetained(old)
	l.stopManager()
	target := adopts("target-2", string(old.UID))
	l.create(target)
	dirs, err := filepath.Glob(filepath.Join(l.data, "retained", "*"))
	l.must(err)
	l.must(os.MkdirAll(filepath.Dir(l.machineDir(target)), 0o700))
	l.must(os.Rename(dirs[0], l.machineDir(target)))
	l.start()
	l.waitPhase("target-2", v1alpha1.TargetBooting)
	record, err := targetdisk.Load(l.machineDir(target))
	if err != nil || !record.Installed || record.Origin == nil || record.Origin.Retained != string(old.UID) {
		t.Errorf("got record %+v, %v, want an installed system with its origin", record, err)
	}
	l.answers(target)
	l.waitPhase("target-2", v1alpha1.TargetReady)
}
