// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"strings"
	"testing"
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/diagnosis"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/storage"
)

func TestTheSerialLogSaysWhy(t *testing.T) {
	panicked := &diagnosis.Finding{Kind: diagnosis.KernelPanic, Ended: true, Explanation: "the kernel panicked", Lines: []string{"Kernel panic - not syncing"}}
	ipxe := &diagnosis.Finding{Kind: diagnosis.IPXEError, Explanation: "iPXE failed", Lines: []string{"Not found (https://ipxe.org/2d0c618e)"}}
	offer := &diagnosis.Finding{Kind: diagnosis.NoOffer, Explanation: "no valid DHCP offer came"}
	inGuest := running
	inGuest.GuestPanicked = true
	for name, c := range map[string]struct {
		seen      *agent.MachineState
		machine   qemu.State
		finding   *diagnosis.Finding
		installed bool
		waited    time.Duration
		reason    string
		message   string
		// attemptFailed is the word for who tries again.
		attemptFailed bool
	}{
		"panic, at once":                 {seen: seen(6), machine: running, finding: panicked, reason: v1alpha1.ReasonGuestPanicked, message: "the kernel panicked", attemptFailed: true},
		"panic that QEMU saw":            {seen: seen(6), machine: inGuest, reason: v1alpha1.ReasonGuestPanicked, message: "no word on the serial console", attemptFailed: true},
		"panic of an installed system":   {seen: seen(6), machine: running, finding: panicked, installed: true, reason: v1alpha1.ReasonGuestPanicked, message: "the kernel panicked"},
		"iPXE's error, not yet":          {seen: seen(4), machine: running, finding: ipxe, reason: v1alpha1.ReasonNetworkBoot, message: "kernel and initrd"},
		"iPXE's error, after a while":    {seen: seen(4), machine: running, finding: ipxe, waited: time.Hour, reason: v1alpha1.ReasonIPXEError, message: "iPXE failed"},
		"what explains keeps the reason": {seen: seen(0), machine: running, finding: offer, waited: time.Hour, reason: v1alpha1.ReasonNoDiscover, message: "no valid DHCP offer came"},
		"nothing in the log":             {seen: seen(0), machine: running, waited: time.Hour, reason: v1alpha1.ReasonNoDiscover, message: "the firmware sent no DHCP DISCOVER"},
		"the installer's own word": {
			seen: withInstall(agent.InstallState{Stage: "Failed", Error: "no disk for the image, which needs 1 byte"}), machine: running,
			reason: v1alpha1.ReasonNoSpace, message: "larger first disk", attemptFailed: true,
		},
		"a Ready machine prints what it likes": {
			seen: withSSH(agent.SSHState{Up: true, PowerOn: PowerOn(epoch)}), machine: running, finding: panicked, installed: true,
			reason: v1alpha1.ReasonReady, message: readyMessage,
		},
	} {
		t.Run(name, func(t *testing.T) {
			target := &v1alpha1.BareMetalTarget{}
			target.Spec.InstallGeneration, target.Spec.Power = 1, v1alpha1.PowerOn
			target.Spec.InstallTimeout.Duration = 24 * time.Hour
			record := storage.Record{Attempt: first(1), Installed: c.installed}
			target.Status.InstalledGeneration = record.InstalledGeneration()
			o := TargetObservation{
				Record: record, Machine: c.machine, AgentConnected: true, Seen: c.seen, Diagnosis: c.finding,
				PowerOn: PowerOn(epoch), StepSince: epoch, Now: epoch.Add(c.waited),
			}
			out := Target(target, o)
			if out.Reason != c.reason || !strings.Contains(out.Message, c.message) {
				t.Errorf("reason %s, message %q", out.Reason, out.Message)
			}
			if text := WithLines(out); out.Stalled && c.finding != nil {
				for _, l := range c.finding.Lines {
					if !strings.Contains(text, l) {
						t.Errorf("%q lacks %q", text, l)
					}
				}
			}
			if failed := AttemptFailed(target, o, out); failed != c.attemptFailed {
				t.Errorf("attempt failed: %v", failed)
			}
		})
	}
}

func TestCloudInitDecidesReady(t *testing.T) {
	up := agent.SSHState{Up: true, PowerOn: PowerOn(epoch)}
	failed := []agent.CloudInitFailure{{Stage: "modules-final", Module: "config-scripts_user"}}
	for name, c := range map[string]struct {
		state     *agent.CloudInitState
		phoneHome time.Duration // before now; negative for not yet
		wait      time.Duration
		phase     v1alpha1.TargetPhase
		reason    string
		message   string
	}{
		"no reports":                          {nil, 0, 0, v1alpha1.TargetReady, v1alpha1.ReasonReady, ""},
		"ended well":                          {&agent.CloudInitState{EndedAt: epoch}, 0, 0, v1alpha1.TargetReady, v1alpha1.ReasonReady, ""},
		"about to end":                        {&agent.CloudInitState{Stage: "modules-final"}, time.Second, 0, v1alpha1.TargetBooting, v1alpha1.ReasonBooting, "cloud-init ends"},
		"the end got lost":                    {&agent.CloudInitState{Stage: "modules-final"}, time.Minute, 0, v1alpha1.TargetReady, v1alpha1.ReasonReady, ""},
		"failed, ended":                       {&agent.CloudInitState{EndedAt: epoch, Failures: failed}, 0, 0, v1alpha1.TargetFailed, v1alpha1.ReasonCloudInitFailed, "scripts_user in stage modules-final"},
		"failed, phoned home":                 {&agent.CloudInitState{Failures: failed}, time.Hour, 0, v1alpha1.TargetFailed, v1alpha1.ReasonCloudInitFailed, "scripts_user in stage modules-final"},
		"failed, ended without phoning home":  {&agent.CloudInitState{EndedAt: epoch, Failures: failed}, -1, 0, v1alpha1.TargetFailed, v1alpha1.ReasonCloudInitFailed, "scripts_user"},
		"failed and goes on":                  {&agent.CloudInitState{Failures: failed}, -1, 0, v1alpha1.TargetBooting, v1alpha1.ReasonBooting, "cloud-init"},
		"hangs":                               {&agent.CloudInitState{Stage: "modules-final", Module: "config-package_update_upgrade_install"}, -1, time.Hour, v1alpha1.TargetBooting, v1alpha1.ReasonNoPhoneHome, "in stage modules-final, running package_update_upgrade_install"},
		"a server whose clock is years ahead": {&agent.CloudInitState{Stage: "modules-final"}, -1e8 * time.Second, 0, v1alpha1.TargetReady, v1alpha1.ReasonReady, ""},
	} {
		t.Run(name, func(t *testing.T) {
			target := &v1alpha1.BareMetalTarget{}
			target.Spec.InstallGeneration, target.Spec.Power, target.Status.InstalledGeneration = 1, v1alpha1.PowerOn, 1
			now := epoch.Add(c.wait)
			s := withSSH(up)
			s.CloudInit, s.PhoneHome = c.state, nil
			if c.phoneHome != -1 {
				s.PhoneHome = &agent.PhoneHome{At: now.Add(-c.phoneHome)}
			}
			o := TargetObservation{Record: holds("A"), Machine: running, AgentConnected: true, Seen: s, PowerOn: PowerOn(epoch), StepSince: epoch, Now: now}
			out := Target(target, o)
			if out.Phase != c.phase || out.Reason != c.reason || !strings.Contains(out.Message, c.message) {
				t.Errorf("%s, %s: %s", out.Phase, out.Reason, out.Message)
			}
			if AttemptFailed(target, o, out) {
				t.Error("an installed target's disk is not safe")
			}
		})
	}
}
