// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/plan"
)

// twoDisks adds a second disk to a target.
func twoDisks(name string) *v1alpha1.BareMetalTarget {
	bmt := newTarget(name)
	bmt.Spec.Machine.Disks = append(bmt.Spec.Machine.Disks, v1alpha1.Disk{Name: "data", Size: resource.MustParse("3Gi")})
	return bmt
}

// A target is installed on the disk that spec.rootDisk selects, and boots from it until the
// next installation.
func TestTargetRootDisk(t *testing.T) {
	l := up(t)
	target := twoDisks("target-1")
	target.Spec.RootDisk = &v1alpha1.RootDiskHints{Name: "data"}
	l.create(target)
	target = l.waitPhase("target-1", v1alpha1.TargetPXE)
	if got := target.Status.RootDisk; got != "data" {
		t.Errorf("status: got root disk %q, want data", got)
	}
	boots := func(name string, disk int, netboot bool) {
		t.Helper()
		if diff := cmp.Diff(plan.TargetBootOrder(disk, netboot), l.state(target).BootOrder); diff != "" {
			t.Errorf("%s: boot order (-want +got)\n%s", name, diff)
		}
	}
	boots("blank", 1, true)
	served := l.waitMachine(target, func(m netbootapi.Machine) bool { return m.Boot == netbootapi.BootInstall })
	if want := (netbootapi.RootDisk{Serial: "data"}); served.RootDisk != want || served.RootDiskName != "data" {
		t.Errorf("netbootd: got root disk %+v named %q, want %+v named data", served.RootDisk, served.RootDiskName, want)
	}
	l.installs(target, 370)
	l.waitPhase("target-1", v1alpha1.TargetInstalling)
	// netbootd keeps what it has served, so this applies to the next installation.
	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.RootDisk = nil })
	l.reconciled(target)
	l.finishes(target)
	l.waitPhase("target-1", v1alpha1.TargetBooting)
	l.boots(target)
	target = l.waitPhase("target-1", v1alpha1.TargetReady)
	boots("installed", 1, false)
	if got := target.Status.RootDisk; got != "data" {
		t.Errorf("status of the installed target: got root disk %q, want data", got)
	}
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "False", v1alpha1.ReasonReinstallNeeded, "spec.rootDisk")
	if diff := cmp.Diff(pending(v1alpha1.AppliesAtInstall, "spec.rootDisk"), target.Status.PendingChanges); diff != "" {
		t.Errorf("pending changes (-want +got)\n%s", diff)
	}
	l.restart() // of the manager: the disk is recorded
	l.reconciled(target)
	boots("restarted", 1, false)

	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.InstallGeneration = 2 })
	target = l.waitTarget("target-1", "installed again", func(bmt *v1alpha1.BareMetalTarget) bool {
		return bmt.Status.Phase == v1alpha1.TargetPXE && bmt.Status.DiskGeneration == 2
	})
	boots("second installation", 0, true)
	target = l.becomesReady("target-1")
	boots("installed again", 0, false)
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "True", v1alpha1.ReasonUpToDate, "")
}

// Hints that no disk matches are reported before anything is started, and do not disturb a
// system that is installed.
func TestTargetWithoutMatchingRootDisk(t *testing.T) {
	l := up(t)
	size := resource.MustParse("4Gi")
	target := twoDisks("target-1")
	target.Spec.RootDisk = &v1alpha1.RootDiskHints{MinSize: &size}
	l.create(target)
	l.waitPhase("target-1", v1alpha1.TargetFailed)
	l.waitCondition(target, v1alpha1.ConditionValid, "False", v1alpha1.ReasonNoRootDisk,
		"disk0 (size 2Gi, less than minSize 4Gi), data (size 3Gi, less than minSize 4Gi)")
	l.checkAlive(target, false)
	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.RootDisk = nil })
	l.becomesReady("target-1")
	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) {
		bmt.Spec.RootDisk = &v1alpha1.RootDiskHints{Serial: "S1"}
	})
	l.waitCondition(target, v1alpha1.ConditionValid, "False", v1alpha1.ReasonNoRootDisk, "disk0 (it has no serial)")
	l.waitCondition(target, v1alpha1.ConditionReady, "True", v1alpha1.ReasonReady, "")
	l.checkStarts(target, 1)
}

// With spec.cleaning the disks are kept, and the plan contains what the installer erases.
func TestTargetCleaning(t *testing.T) {
	l := up(t)
	target := twoDisks("target-1")
	target.Spec.Cleaning = v1alpha1.CleaningFull
	l.create(target)
	target = l.becomesReady("target-1")
	for i := range 2 {
		writeFile(t, plan.DiskPath(l.machineDir(target), i), "old content")
	}
	update(l, target, func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.InstallGeneration = 2 })
	target = l.waitTarget("target-1", "installed again", func(bmt *v1alpha1.BareMetalTarget) bool {
		return bmt.Status.Phase == v1alpha1.TargetPXE && bmt.Status.DiskGeneration == 2
	})
	l.waitEvent(target, v1alpha1.ReasonInstallStarted, "the disks are kept, with spec.cleaning Full")
	for i := range 2 {
		if got := readFile(t, plan.DiskPath(l.machineDir(target), i), 11); got != "old content" {
			t.Errorf("disk %d: got %q, want it to be kept", i, got)
		}
	}
	if target.Status.InstalledGeneration != 0 {
		t.Errorf("got installed generation %d, want 0: what is on the disk is not the declared system", target.Status.InstalledGeneration)
	}
	if m := l.waitMachine(target, func(m netbootapi.Machine) bool { return m.Attempt == plan.AttemptID(target) }); m.Cleaning != "Full" {
		t.Errorf("netbootd: got cleaning %q, want Full", m.Cleaning)
	}
	l.becomesReady("target-1")
}

// Values of the network that an installed system keeps are pending, although the server
// follows them at once.
func TestTargetReportsNetworkChanges(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "True", v1alpha1.ReasonUpToDate, "")
	update(l, l.server("lab"), func(s *v1alpha1.ProvisioningServer) {
		s.Spec.Network.Domain = "other.internal"
		s.Spec.Network.DNS = []v1alpha1.IPv4{"10.88.0.9"}
		s.Spec.Network.Gateway = v1alpha1.GatewayNone
	})
	const field = "provisioningServer.spec.network."
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "False", v1alpha1.ReasonReinstallNeeded, field+"dns, "+field+"domain, "+field+"gateway")
	if diff := cmp.Diff(pending(v1alpha1.AppliesAtInstall, field+"dns", field+"domain", field+"gateway"), target.Status.PendingChanges); diff != "" {
		t.Errorf("pending changes (-want +got)\n%s", diff)
	}
	update(l, l.server("lab"), func(s *v1alpha1.ProvisioningServer) {
		s.Spec.Network.Domain = "lab.internal"
		s.Spec.Network.DNS = nil
		s.Spec.Network.Gateway = v1alpha1.GatewayNAT
	})
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "True", v1alpha1.ReasonUpToDate, "")
}
