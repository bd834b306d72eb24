// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// pending lists changes that apply at a time.
func pending(at v1alpha1.ChangeEffect, fields ...string) []v1alpha1.PendingChange {
	var out []v1alpha1.PendingChange
	for _, f := range fields {
		out = append(out, v1alpha1.PendingChange{Field: f, AppliesAt: at})
	}
	return out
}

// A spec that is edited and not followed is reported, until it is followed.
func TestTargetReportsPendingChanges(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "True", v1alpha1.ReasonUpToDate, "")
	check := func(name string, want []v1alpha1.PendingChange) {
		t.Helper()
		if diff := cmp.Diff(want, l.target("target-1").Status.PendingChanges); diff != "" {
			t.Errorf("%s: pending changes (-want +got)\n%s", name, diff)
		}
	}
	check("as installed", nil)
	// The same quantity in another unit does not count.
	memory := l.target("target-1").Spec.Machine.Memory
	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) {
		bmt.Spec.Machine.Memory = *resource.NewQuantity(memory.Value(), resource.DecimalSI)
	})
	l.reconciled(target)
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "True", v1alpha1.ReasonUpToDate, "")
	check("memory in another unit", nil)
	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Machine.CPUs = 3 })
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "False", v1alpha1.ReasonRestartNeeded, "spec.machine.cpus")
	check("CPUs", pending(v1alpha1.AppliesAtPowerOn, "spec.machine.cpus"))
	l.restart() // of the manager: what the machine was started from is recorded
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "False", v1alpha1.ReasonRestartNeeded, "spec.machine.cpus")
	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Hostname = "other" })
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "False", v1alpha1.ReasonReinstallNeeded, "spec.hostname")
	check("CPUs and host name", append(pending(v1alpha1.AppliesAtPowerOn, "spec.machine.cpus"), pending(v1alpha1.AppliesAtInstall, "spec.hostname")...))
	l.checkStarts(target, 1)
	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Power = v1alpha1.PowerOff })
	l.waitPhase("target-1", v1alpha1.TargetStopped)
	l.reconciled(target)
	check("off", pending(v1alpha1.AppliesAtInstall, "spec.hostname"))
	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) {
		bmt.Spec.Power = v1alpha1.PowerOn
		bmt.Spec.Hostname = ""
	})
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "True", v1alpha1.ReasonUpToDate, "")
	l.waitCondition(target, v1alpha1.ConditionMachineRunning, "True", v1alpha1.ReasonRunning, "")
	check("on again", nil)
	update(l, l.profile("debian"), func(p *v1alpha1.BootProfile) { p.Spec.Image.KernelArgs = []string{"quiet", "debug"} })
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "False", v1alpha1.ReasonProfileChanged, "profile debian has changed")
	check("profile", pending(v1alpha1.AppliesAtInstall, "bootProfile.spec.image.kernelArgs"))
}

func TestServerReportsPendingChanges(t *testing.T) {
	l := up(t)
	server := l.server("lab")
	l.waitCondition(server, v1alpha1.ConditionUpToDate, "True", v1alpha1.ReasonUpToDate, "")
	size := server.Spec.Machine.DiskSize
	update(l, l.server("lab"), func(s *v1alpha1.ProvisioningServer) {
		s.Spec.Machine.DiskSize = *resource.NewQuantity(size.Value(), resource.DecimalSI)
	})
	l.reconciled(server)
	l.waitCondition(server, v1alpha1.ConditionUpToDate, "True", v1alpha1.ReasonUpToDate, "")
	update(l, l.server("lab"), func(s *v1alpha1.ProvisioningServer) {
		s.Spec.Machine.CPUs = 3
		s.Spec.SSHAuthorizedKeys = []string{"ssh-ed25519 AAAA other"}
	})
	l.waitCondition(server, v1alpha1.ConditionUpToDate, "False", v1alpha1.ReasonRestartNeeded,
		"spec.machine.cpus, spec.sshAuthorizedKeys changed since the machine started")
	if diff := cmp.Diff(pending(v1alpha1.AppliesAtPowerOn, "spec.machine.cpus", "spec.sshAuthorizedKeys"), server.Status.PendingChanges); diff != "" {
		t.Errorf("pending changes (-want +got)\n%s", diff)
	}
	update(l, l.server("lab"), func(s *v1alpha1.ProvisioningServer) {
		s.Annotations = map[string]string{v1alpha1.RestartAnnotation: "now"}
	})
	l.waitCondition(server, v1alpha1.ConditionUpToDate, "True", v1alpha1.ReasonUpToDate, "")
	if got := server.Status.PendingChanges; got != nil {
		t.Errorf("restarted: got pending changes %v, want none", got)
	}
	l.checkStarts(server, 2)
}
