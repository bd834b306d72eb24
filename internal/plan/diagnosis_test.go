// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"strings"
	"testing"
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/seriallog"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

func TestTargetUsesDiagnosis(t *testing.T) {
	panicked := &seriallog.Finding{
		Kind: seriallog.KernelPanic, Ended: true, Explanation: "the kernel panicked",
		Lines: []string{"Kernel panic - not syncing"},
	}
	ipxe := &seriallog.Finding{Kind: seriallog.IPXEError, Explanation: "iPXE failed", Lines: []string{"Not found (https://ipxe.org/2d0c618e)"}}
	offer := &seriallog.Finding{Kind: seriallog.NoOffer, Explanation: "no valid DHCP offer came"}
	inGuest := running
	inGuest.GuestPanicked = true
	for name, c := range map[string]struct {
		seen      *netbootapi.MachineState
		machine   machine.State
		finding   *seriallog.Finding
		installed bool
		waited    time.Duration
		reason    string
		message   string
		// attemptFailed is the result of AttemptFailed.
		attemptFailed bool
	}{
		"panic, at once": {
			seen: seen(6), machine: running, finding: panicked, reason: v1alpha1.ReasonGuestPanicked,
			message: "the kernel panicked", attemptFailed: true,
		},
		"panic that QEMU reported": {
			seen: seen(6), machine: inGuest, reason: v1alpha1.ReasonGuestPanicked,
			message: "printed nothing on the serial console", attemptFailed: true,
		},
		"panic of an installed system": {
			seen: seen(6), machine: running, finding: panicked, installed: true, reason: v1alpha1.ReasonGuestPanicked,
			message: "the kernel panicked",
		},
		"iPXE error before the limit": {
			seen: seen(4), machine: running, finding: ipxe, reason: v1alpha1.ReasonNetworkBoot, message: "kernel and initrd",
		},
		"iPXE error after the limit": {
			seen: seen(4), machine: running, finding: ipxe, waited: time.Hour, reason: v1alpha1.ReasonIPXEError,
			message: "iPXE failed",
		},
		"explanation keeps the reason": {
			seen: seen(0), machine: running, finding: offer, waited: time.Hour, reason: v1alpha1.ReasonNoDiscover,
			message: "no valid DHCP offer came",
		},
		"no finding": {
			seen: seen(0), machine: running, waited: time.Hour, reason: v1alpha1.ReasonNoDiscover,
			message: "the firmware sent no DHCP DISCOVER",
		},
		"error reported by the installer": {
			seen: withInstall(netbootapi.InstallState{Stage: "Failed", Error: "no disk for the image, which needs 1 byte"}), machine: running,
			reason: v1alpha1.ReasonNoSpace, message: "larger disk", attemptFailed: true,
		},
		"no disk that fits": {
			seen:    withInstall(netbootapi.InstallState{Stage: "Failed", Error: "no disk fits the image, which needs 1 byte"}),
			machine: running, reason: v1alpha1.ReasonNoRootDisk, message: "no disk fits", attemptFailed: true,
		},
		"image that cannot be installed": {
			seen:    withInstall(netbootapi.InstallState{Stage: "Failed", Error: "the image cannot be installed: its partition 3 (LVM) is"}),
			machine: running, reason: v1alpha1.ReasonUnsupportedLayout, message: "LVM", attemptFailed: true,
		},
		"Ready ignores the log": {
			seen: withSSH(netbootapi.SSHState{Up: true, PowerOn: PowerOnID(epoch)}), machine: running, finding: panicked, installed: true,
			reason: v1alpha1.ReasonReady, message: readyMessage,
		},
	} {
		t.Run(name, func(t *testing.T) {
			target := &v1alpha1.BareMetalTarget{}
			target.Spec.InstallGeneration = 1
			target.Spec.Power = v1alpha1.PowerOn
			target.Spec.InstallTimeout.Duration = 24 * time.Hour
			record := targetdisk.Record{Attempt: first(1), Installed: c.installed}
			target.Status.InstalledGeneration = record.InstalledGeneration()
			o := TargetObservation{
				Record: record, Machine: c.machine, AgentConnected: true, Seen: c.seen, Diagnosis: c.finding,
				PowerOn: PowerOnID(epoch), StepSince: epoch, Now: epoch.Add(c.waited),
			}
			out := TargetStatus(target, o)
			if out.Reason != c.reason {
				t.Errorf("got reason %s, want %s", out.Reason, c.reason)
			}
			checkMessage(t, "outcome", out.Message, c.message)
			if text := MessageWithLog(out); out.Stalled && c.finding != nil {
				for _, l := range c.finding.Lines {
					if !strings.Contains(text, l) {
						t.Errorf("got %q, want it to contain %q", text, l)
					}
				}
			}
			if failed := AttemptFailed(target, o, out); failed != c.attemptFailed {
				t.Errorf("got attempt failed %t, want %t", failed, c.attemptFailed)
			}
		})
	}
}

func TestCloudInitDecidesReady(t *testing.T) {
	up := netbootapi.SSHState{Up: true, PowerOn: PowerOnID(epoch)}
	failed := []netbootapi.CloudInitFailure{{Stage: "modules-final", Module: "config-scripts_user"}}
	for name, c := range map[string]struct {
		state     *netbootapi.CloudInitState
		phoneHome time.Duration // duration before now; negative for never
		wait      time.Duration
		phase     v1alpha1.TargetPhase
		reason    string
		message   string
	}{
		"no reports": {nil, 0, 0, v1alpha1.TargetReady, v1alpha1.ReasonReady, ""},
		"finished":   {&netbootapi.CloudInitState{EndedAt: epoch}, 0, 0, v1alpha1.TargetReady, v1alpha1.ReasonReady, ""},
		"finishing": {
			&netbootapi.CloudInitState{Stage: "modules-final"}, time.Second, 0, v1alpha1.TargetBooting, v1alpha1.ReasonBooting,
			"cloud-init finishing",
		},
		"report of the end is lost": {
			&netbootapi.CloudInitState{Stage: "modules-final"}, time.Minute, 0, v1alpha1.TargetReady, v1alpha1.ReasonReady, "",
		},
		"failed, finished": {
			&netbootapi.CloudInitState{EndedAt: epoch, Failures: failed}, 0, 0, v1alpha1.TargetFailed,
			v1alpha1.ReasonCloudInitFailed, "scripts_user in stage modules-final",
		},
		"failed, phoned home": {
			&netbootapi.CloudInitState{Failures: failed}, time.Hour, 0, v1alpha1.TargetFailed, v1alpha1.ReasonCloudInitFailed,
			"scripts_user in stage modules-final",
		},
		"failed without phoning home": {
			&netbootapi.CloudInitState{EndedAt: epoch, Failures: failed}, -1, 0, v1alpha1.TargetFailed,
			v1alpha1.ReasonCloudInitFailed, "scripts_user",
		},
		"failed and still running": {
			&netbootapi.CloudInitState{Failures: failed}, -1, 0, v1alpha1.TargetBooting, v1alpha1.ReasonBooting, "cloud-init",
		},
		"hangs": {
			&netbootapi.CloudInitState{Stage: "modules-final", Module: "config-package_update_upgrade_install"}, -1, time.Hour,
			v1alpha1.TargetBooting, v1alpha1.ReasonNoPhoneHome, "in stage modules-final, running package_update_upgrade_install",
		},
		"clock of the server is years ahead": {
			&netbootapi.CloudInitState{Stage: "modules-final"}, -1e8 * time.Second, 0, v1alpha1.TargetReady,
			v1alpha1.ReasonReady, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			target := &v1alpha1.BareMetalTarget{}
			target.Spec.InstallGeneration = 1
			target.Spec.Power = v1alpha1.PowerOn
			target.Status.InstalledGeneration = 1
			now := epoch.Add(c.wait)
			s := withSSH(up)
			s.CloudInit = c.state
			s.PhoneHome = nil
			if c.phoneHome != -1 {
				s.PhoneHome = &netbootapi.PhoneHome{At: now.Add(-c.phoneHome)}
			}
			o := TargetObservation{
				Record: holds("A"), Machine: running, AgentConnected: true, Seen: s, PowerOn: PowerOnID(epoch), StepSince: epoch,
				Now: now,
			}
			out := TargetStatus(target, o)
			if out.Phase != c.phase {
				t.Errorf("got phase %s, want %s", out.Phase, c.phase)
			}
			if out.Reason != c.reason {
				t.Errorf("got reason %s, want %s", out.Reason, c.reason)
			}
			checkMessage(t, "outcome", out.Message, c.message)
			if AttemptFailed(target, o, out) {
				t.Error("got a failed attempt for an installed target, want none: its disk must be kept")
			}
		})
	}
}
