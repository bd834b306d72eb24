// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"os"
	"testing"
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

func TestTargetReportsSerialLogDiagnosis(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.waitPhase("target-1", v1alpha1.TargetPXE)
	log := machine.NewPaths(l.data, l.runtime, string(target.UID)).SerialLog
	panicked := "[    1.0] Run /pxelab-installer as init process\r\n" +
		"[    1.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\r\n"
	l.must(os.WriteFile(log, []byte(panicked), 0o600))
	l.waitCondition(target, v1alpha1.ConditionProgressing, "False", v1alpha1.ReasonGuestPanicked,
		"Attempted to kill init! exitcode=0x00000100")
	l.waitEvents(target, v1alpha1.ReasonGuestPanicked)
	// The machine starts over.
	l.must(os.WriteFile(log, []byte(panicked+"BdsDxe: loading Boot0001\r\n"), 0o600))
	l.waitCondition(target, v1alpha1.ConditionProgressing, "True", v1alpha1.ReasonNetworkBoot, "")
}

func TestTargetReportsCloudInitFailure(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.waitPhase("target-1", v1alpha1.TargetPXE)
	l.installs(target, 10)
	l.finishes(target)
	l.waitPhase("target-1", v1alpha1.TargetBooting)
	l.sawTarget(target, func(m *netbootapi.MachineState) {
		m.CloudInit = &netbootapi.CloudInitState{
			UpdatedAt: time.Now().UTC(), EndedAt: time.Now().UTC(), Stage: "modules-final",
			Failures: []netbootapi.CloudInitFailure{{Stage: "modules-final", Module: "config-scripts_user"}},
		}
	})
	l.boots(target)
	target = l.waitPhase("target-1", v1alpha1.TargetFailed)
	l.waitCondition(target, v1alpha1.ConditionReady, "False", v1alpha1.ReasonCloudInitFailed, "scripts_user in stage modules-final")
	l.waitCondition(target, v1alpha1.ConditionInstalled, "True", v1alpha1.ReasonInstalled, "")
	if len(target.Status.SSHHostKeys) == 0 {
		t.Error("got no host keys, want some: without them the user cannot log in")
	}
}
