// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/seriallog"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// TestReasonsFromRealLogs computes conditions from the serial logs of real guests
// and netbootd's observations of them.
func TestReasonsFromRealLogs(t *testing.T) {
	const (
		noSpace  = "no disk for the image, which needs 78643200 bytes (78.6 MB); disks found: vda 67.1 MB (67108864 bytes: too small)"
		checksum = "image sha256:0000000000000000000000000000000000000000000000000000000000000000: image stream is damaged: " +
			"its header has digest sha256:b8c0a67105a39e4c1e39a68049e4753f90e01e5"
		ioError = "writing the image to vda: writing 4096 bytes at 0 of vda: input/output error"
	)
	aborted := seen(2)
	aborted.Warnings = []netbootapi.Warning{{At: epoch, Reason: "TFTPAborted", Message: "ipxe.efi after 19968 of 996864 bytes"}}
	starts := withInstall(netbootapi.InstallState{Stage: "Start"})
	installError := func(text string) *netbootapi.MachineState {
		return withInstall(netbootapi.InstallState{Stage: "Failed", Error: text})
	}
	userData := seen(6)
	userData.CloudInitAt = epoch
	cloudInitFailed := withSSH(netbootapi.SSHState{})
	cloudInitFailed.CloudInit = &netbootapi.CloudInitState{
		EndedAt: epoch, Stage: "modules-final", Failures: []netbootapi.CloudInitFailure{{Stage: "modules-final", Module: "config-scripts_user"}},
	}
	for name, c := range map[string]struct {
		log       string
		seen      *netbootapi.MachineState
		installed bool
		// after is the time without progress after which the reason is reported.
		after  time.Duration
		reason string
		// line is a part of the log that the message quotes; explains is another part
		// of the message.
		line, explains string
	}{
		"no DISCOVER": {
			log: "ovmf-no-offer", seen: seen(0), after: 3 * time.Minute, reason: v1alpha1.ReasonNoDiscover,
			line: "PXE-E18: Server response timeout.",
		},
		"DISCOVER without REQUEST": {
			log: "ovmf-bad-offer", seen: seen(1), after: 2 * time.Minute, reason: v1alpha1.ReasonNoRequest,
			line: "PXE-E18: Server response timeout.", explains: "no other DHCP server",
		},
		"TFTP abort": {
			log: "ovmf-tftp-abort", seen: aborted, after: 3 * time.Minute, reason: v1alpha1.ReasonBootProgramNotFetched,
			line:     "PXE-E23: Client received TFTP error from server.",
			explains: "TFTPAborted: ipxe.efi after 19968 of 996864 bytes",
		},
		"TFTP falls silent": {
			log: "ovmf-tftp-silent", seen: seen(2), after: 3 * time.Minute, reason: v1alpha1.ReasonBootProgramNotFetched,
			line: "PXE-E18: Server response timeout.", explains: "the TFTP server stopped answering",
		},

		"iPXE: not found": {
			log: "ipxe-404", seen: seen(4), after: 5 * time.Minute, reason: v1alpha1.ReasonIPXEError,
			line: "Not found (https://ipxe.org/2d0c618e)", explains: `at its step "kernel"`,
		},
		"iPXE: timed out": {
			log: "ipxe-timeout", seen: seen(5), after: 5 * time.Minute, reason: v1alpha1.ReasonIPXEError,
			line: "Connection timed out (https://ipxe.org/4c0a6092)", explains: `at its step "initrd"`,
		},
		"iPXE: reset": {
			log: "ipxe-reset", seen: seen(4), after: 5 * time.Minute, reason: v1alpha1.ReasonIPXEError,
			line: "Connection reset (https://ipxe.org/0f0a6095)",
		},
		"iPXE: not trusted": {
			log: "ipxe-tls", seen: seen(4), after: 5 * time.Minute, reason: v1alpha1.ReasonIPXEError,
			line: "Permission denied (https://ipxe.org/0216eb8f)",
		},
		"iPXE: name unknown": {
			log: "ipxe-dns", seen: seen(4), after: 5 * time.Minute, reason: v1alpha1.ReasonIPXEError,
			line: "Error 0x3e11618e (https://ipxe.org/3e11618e)",
		},
		"iPXE: not executable": {
			log: "ipxe-exec", seen: seen(6), after: 5 * time.Minute, reason: v1alpha1.ReasonIPXEError,
			line: "Exec format error (https://ipxe.org/2e008081)",
		},
		"iPXE, then nothing": {
			log: "firmware-shell", seen: seen(4), after: 5 * time.Minute, reason: v1alpha1.ReasonNothingToBoot, line: "Shell>",
		},
		"panic: no installer": {
			log: "panic-rdinit", seen: seen(6), reason: v1alpha1.ReasonGuestPanicked,
			line: "Kernel panic - not syncing: VFS: Unable to mount root fs",
		},
		"panic: installer dies": {
			log: "panic-init-dies", seen: seen(6), reason: v1alpha1.ReasonGuestPanicked,
			line: "Kernel panic - not syncing: Attempted to kill init!",
		},
		"panic of the image": {
			log: "panic-noroot", seen: seen(6), installed: true, reason: v1alpha1.ReasonGuestPanicked,
			line: `VFS: Cannot open root device "/dev/vda1"`,
		},
		"initramfs shell": {
			log: "initramfs-shell", seen: seen(6), installed: true, reason: v1alpha1.ReasonInitramfsShell,
			line: "ALERT!  UUID=00000000-0000-4000-8000-000000000000 does not exist.",
		},
		"emergency mode": {
			log: "emergency-mode", seen: seen(6), installed: true, reason: v1alpha1.ReasonEmergencyMode,
			line: "Dependency failed for",
		},
		"dracut's shell": {
			log: "dracut-shell", seen: seen(6), installed: true, reason: v1alpha1.ReasonInitramfsShell,
			line: "Dependency failed for",
		},

		// The installer reports an error on the console and to netbootd, which may
		// not receive it.
		"installer error": {
			log: "installer-io-error", seen: starts, reason: v1alpha1.ReasonInstallerError, line: "pxelab: Failed " + ioError,
		},
		"installer error, reported": {
			log: "installer-io-error", seen: installError(ioError), reason: v1alpha1.ReasonInstallerError, line: ioError,
		},
		"no space": {log: "installer-no-space", seen: starts, reason: v1alpha1.ReasonNoSpace, line: "pxelab: Failed " + noSpace},
		"no space, reported": {
			log: "installer-no-space", seen: installError(noSpace), reason: v1alpha1.ReasonNoSpace, line: noSpace,
			explains: "larger disk",
		},
		"checksum": {
			log: "installer-checksum", seen: starts, reason: v1alpha1.ReasonChecksumMismatch, line: "pxelab: Failed " + checksum,
		},
		"checksum, reported": {
			log: "installer-checksum", seen: installError(checksum), reason: v1alpha1.ReasonChecksumMismatch, line: checksum,
			explains: "nothing unverified is booted",
		},

		"cloud-init failure, reported": {
			log: "cloudinit-script", seen: cloudInitFailed, installed: true, reason: v1alpha1.ReasonCloudInitFailed,
			line: "scripts_user", explains: "scripts_user in stage modules-final",
		},
		"cloud-init failure, not received": {
			log: "cloudinit-script", seen: userData, installed: true, after: 10 * time.Minute,
			reason: v1alpha1.ReasonCloudInitFailed, line: "Running module scripts_user", explains: "in its module scripts_user",
		},
		"SSH server failed": {
			log: "ssh-failed", seen: withSSH(netbootapi.SSHState{PowerOn: PowerOnID(epoch)}), installed: true,
			after: 5 * time.Minute, reason: v1alpha1.ReasonNoSSH, line: "OpenBSD Secure Shell server",
			explains: "could not be started",
		},
		"SSH never up": {
			log: "ssh-masked", seen: withSSH(netbootapi.SSHState{PowerOn: PowerOnID(epoch)}), installed: true,
			after: 5 * time.Minute, reason: v1alpha1.ReasonNoSSH, line: "Login Prompts",
			explains: "does the user-data switch it off",
		},
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := seriallog.Tail(filepath.Join("..", "seriallog", "testdata", "logs", c.log+".log"), 0)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(raw), c.line) {
				t.Fatalf("log %s: got no line with %q, want one", c.log, c.line)
			}
			finding, found := seriallog.Diagnose(raw)
			if !found {
				t.Fatal("got no finding in the log, want one")
			}
			target := &v1alpha1.BareMetalTarget{}
			target.Spec.InstallGeneration = 1
			target.Spec.Power = v1alpha1.PowerOn
			o := TargetObservation{
				Record: targetdisk.Record{Attempt: first(1), Installed: c.installed}, Machine: running, AgentConnected: true,
				Seen: c.seen, Diagnosis: &finding, PowerOn: PowerOnID(epoch), StepSince: epoch,
			}
			target.Status.InstalledGeneration = o.Record.InstalledGeneration()

			progressing := func(waited time.Duration) Condition {
				o.Now = epoch.Add(waited)
				for _, is := range TargetConditions(target, o, TargetStatus(target, o)) {
					if is.Type == v1alpha1.ConditionProgressing {
						return is
					}
				}
				t.Fatal("got no condition Progressing, want one")
				return Condition{}
			}
			if c.after > 0 {
				if is := progressing(c.after - time.Second); is.Status != metav1.ConditionTrue {
					t.Errorf("before the limit: got %s with %q, want no stall", is.Reason, is.Message)
				}
			}
			is := progressing(c.after)
			if is.Status != metav1.ConditionFalse {
				t.Errorf("condition Progressing: got status %s, want False", is.Status)
			}
			if is.Reason != c.reason {
				t.Errorf("condition Progressing: got reason %s, want %s", is.Reason, c.reason)
			}
			for _, want := range []string{c.line, c.explains} {
				if !strings.Contains(is.Message, want) {
					t.Errorf("got message %q, want it to contain %q", is.Message, want)
				}
			}
		})
	}
}
