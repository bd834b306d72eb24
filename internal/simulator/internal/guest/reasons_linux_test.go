// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/installer/installerapi"
	"github.com/pxelab/pxelab/internal/namespacetest"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// faultOutcome is what a target with a fault reports.
type faultOutcome struct {
	// output is a text on the serial port, and observed what netbootd has observed, once
	// the fault has had its effect.
	output   string
	observed func(netbootapi.State, netbootapi.MachineState) bool
	// later is what netbootd observes afterwards, of a machine that starts over.
	later func(netbootapi.State, netbootapi.MachineState) bool
	// change changes the machine, such as how long its firmware waits for answers that
	// never come.
	change func(*Guest)
	// installed is set for a fault of the installed system, and off for one that
	// switches the machine off.
	installed, off bool
	// after is the time without progress after which the target reports the fault.
	after time.Duration
	phase v1alpha1.TargetPhase
	// condition has the reason and the messages; the default is Progressing.
	condition, reason string
	messages          []string
	// real is the serial log of a guest with the real cause, in internal/seriallog;
	// empty if such a guest prints nothing that explains it.
	real string
}

// The changes of faultOutcome. The pauses after a reset and after a failure are those of
// a machine outside of tests, so that netbootd's state does not change in between.
func impatient(g *Guest)   { g.hurry = 100 }
func unhurriedly(g *Guest) { g.pass, g.failPause = minPass, installerFailPause }

func anything(netbootapi.State, netbootapi.MachineState) bool { return true }

// warned returns a condition that is true once netbootd has a warning with a reason.
func warned(reason string) func(netbootapi.State, netbootapi.MachineState) bool {
	return func(_ netbootapi.State, m netbootapi.MachineState) bool {
		return slices.ContainsFunc(m.Warnings, func(w netbootapi.Warning) bool { return w.Reason == reason })
	}
}

func phonedHome(_ netbootapi.State, m netbootapi.MachineState) bool {
	return m.PhoneHome != nil && m.CloudInit != nil && !m.CloudInit.EndedAt.IsZero()
}

// faultOutcomes has the reasons of docs/simulated.md.
var faultOutcomes = map[FaultType]faultOutcome{
	NoDiscover: {
		output: "BdsDxe: No bootable option", observed: anything, change: impatient, real: "ovmf-no-offer",
		after: 3 * time.Minute, phase: v1alpha1.TargetPXE, reason: v1alpha1.ReasonNoDiscover,
		messages: []string{`no progress for 3m0s at "firmware"`, "no usable DHCP answer came"},
	},
	NoRequest: {
		output: "BdsDxe: No bootable option", change: impatient, real: "ovmf-bad-offer",
		observed: func(_ netbootapi.State, m netbootapi.MachineState) bool { return !m.DiscoverAt.IsZero() },
		after:    2 * time.Minute, phase: v1alpha1.TargetPXE, reason: v1alpha1.ReasonNoRequest,
		messages: []string{`no progress for 2m0s at "DHCP"`, "no usable DHCP answer came"},
	},
	TFTPAbort: {
		output: "BdsDxe: No bootable option", observed: warned("TFTPAborted"), real: "ovmf-tftp-abort",
		after: 3 * time.Minute, phase: v1alpha1.TargetPXE, reason: v1alpha1.ReasonBootProgramNotFetched,
		messages: []string{`no progress for 3m0s at "TFTP"`, "could not fetch the network boot program", "TFTPAborted: ipxe.efi after "},
	},
	ScriptAbort: {
		output: "pxelab: step kernel failed", observed: warned("IPXEFailed"), real: "ipxe-reset",
		after: 5 * time.Minute, phase: v1alpha1.TargetPXE, reason: v1alpha1.ReasonIPXEError,
		messages: []string{`no progress for 5m0s at "kernel and initrd"`, `at its step "kernel": the connection was reset`},
	},
	ResetLoop: {
		observed: func(_ netbootapi.State, m netbootapi.MachineState) bool {
			return !m.KernelAt.IsZero() && !m.InitrdAt.IsZero()
		},
		later:  func(_ netbootapi.State, m netbootapi.MachineState) bool { return m.KernelAt.IsZero() },
		change: unhurriedly,
		after:  5 * time.Minute, phase: v1alpha1.TargetPXE, reason: v1alpha1.ReasonInstallerNotStarted,
		messages: []string{`no progress for 5m0s at "starting installer"`, "the installer did not report", "the machine has started over"},
	},
	InstallerError: {
		// Warnings outlive an attempt.
		observed: func(_ netbootapi.State, m netbootapi.MachineState) bool {
			return m.Install != nil && m.Install.Error != ""
		},
		change: unhurriedly, real: "installer-io-error",
		phase: v1alpha1.TargetFailed, reason: v1alpha1.ReasonInstallerError,
		messages: []string{"writing the image to vda: writing 4096 bytes at 0 of vda: input/output error"},
	},
	InstallerStall: {
		observed: func(_ netbootapi.State, m netbootapi.MachineState) bool {
			return m.Install != nil && m.Install.Stage == string(installerapi.StageWrite)
		},
		after: 5 * time.Minute, phase: v1alpha1.TargetInstalling, reason: v1alpha1.ReasonInstallerSilent,
		messages: []string{"no progress for 5m0s at ", "the installer reports no progress"},
	},
	PowersOff: {
		// The power may fail before the installer's first report.
		observed: func(_ netbootapi.State, m netbootapi.MachineState) bool { return !m.InitrdAt.IsZero() },
		off:      true, phase: v1alpha1.TargetPending,
		condition: v1alpha1.ConditionMachineRunning, reason: v1alpha1.ReasonRestartPending,
		messages: []string{"powered off by its guest", "it has ended once and is started again at"},
	},
	CloudInitFail: {
		observed: phonedHome, installed: true, real: "cloudinit-script",
		phase: v1alpha1.TargetFailed, reason: v1alpha1.ReasonCloudInitFailed,
		messages: []string{"cloud-init failed: scripts-user in stage modules-final"},
	},
	NoPhoneHome: {
		observed: func(_ netbootapi.State, m netbootapi.MachineState) bool {
			return m.CloudInit != nil && m.CloudInit.Module == "config-scripts-user"
		},
		installed: true, after: 10 * time.Minute, phase: v1alpha1.TargetBooting, reason: v1alpha1.ReasonNoPhoneHome,
		messages: []string{`no progress for 10m0s at "cloud-init"`, "in stage modules-final, running scripts-user"},
	},
	NoSSH: {
		observed: phonedHome, installed: true, real: "ssh-failed",
		after: 5 * time.Minute, phase: v1alpha1.TargetBooting, reason: v1alpha1.ReasonNoSSH,
		messages: []string{`no progress for 5m0s at "SSH"`, "the SSH server could not be started"},
	},
	ForeignMAC: {
		output: "BdsDxe: No bootable option", observed: anything, change: impatient, real: "ovmf-no-offer",
		after: 3 * time.Minute, phase: v1alpha1.TargetPXE, reason: v1alpha1.ReasonNoDiscover,
		messages: []string{`no progress for 3m0s at "firmware"`, "no usable DHCP answer came"},
	},
}

// TestFaultReasons runs a machine with each fault against the real netbootd, and computes
// the target's conditions from what that has observed and from the serial log, as the
// manager does.
func TestFaultReasons(t *testing.T) {
	if !namespacetest.Enter(t, unix.CLONE_NEWNET) {
		return
	}
	l := newRealLab(t)
	// The switch drops frames from another address than the machine's.
	var refused atomic.Int64
	send := l.lab.config.NICs[0].Send
	l.lab.config.NICs[0].Send = func(frame []byte) {
		if !bytes.Equal(frame[6:12], testMAC) {
			refused.Add(1)
			return
		}
		send(frame)
	}
	for fault, c := range faultOutcomes {
		t.Run(string(fault), func(t *testing.T) {
			l.t = t
			refused.Store(0)
			l.showFault(fault, c)
			if got := refused.Load(); got > 0 != (fault == ForeignMAC) {
				t.Errorf("got %d frames from another MAC address", got)
			}
		})
	}
}

// showFault runs a machine with a fault until the fault has had its effect, and checks
// what the manager reports.
func (l *realLab) showFault(fault FaultType, c faultOutcome) {
	l.t.Helper()
	l.serial.reset()
	change := c.change
	if change == nil {
		change = func(*Guest) {}
	}
	l.declareAttempt("attempt-"+string(fault), Fault{Type: fault})
	off, ended := l.powerOn(change)
	defer off()
	if c.installed {
		l.confirm()
	}
	_, m := l.observe("the effect of "+string(fault), c.observed)
	if c.output != "" {
		l.awaitOutput(c.output)
		_, m = l.observe("the effect of "+string(fault), c.observed)
	}
	v := newView(c, l.machine.PowerOn)
	if c.off {
		if end := <-ended; end != PowerOff {
			l.t.Errorf("got end %s, want %s", end, PowerOff)
		}
		v.poweredOff()
	}
	v.see(m, l.serial.String())
	if c.later != nil {
		_, m = l.observe("a machine that has started over", c.later)
		v.see(m, l.serial.String())
	}
	v.check(l.t, c)
	if c.real != "" {
		v.checkRealLog(l.t, c)
	}
	v.checkAttempt(l.t, c)
}

// reset forgets the output.
func (c *console) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.b.Reset()
}
