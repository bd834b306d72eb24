// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// simulatedFault is a fault of a simulated machine, and what its target reports.
type simulatedFault struct {
	fault v1alpha1.SimulatedFaultType
	// where is the phase in which the fault occurs, and phase that of the target
	// afterwards: an installation fails in its only attempt.
	where, phase v1alpha1.TargetPhase
	// condition has the reason and the messages, in status False.
	condition, reason string
	messages          []string
}

// simulatedFaults are all of them. Each target is created at the start of the lab, so that
// the longest of them, which waits for ten minutes, takes no time of the test.
// internal/simulator/internal/guest checks the same reasons without a lab, and compares
// them with those of guests that have the real causes.
var simulatedFaults = []simulatedFault{
	installFault(v1alpha1.SimulatedFaultNoDiscover, v1alpha1.TargetPXE, v1alpha1.ReasonNoDiscover,
		`at "firmware"`, "no usable DHCP answer came"),
	installFault(v1alpha1.SimulatedFaultNoRequest, v1alpha1.TargetPXE, v1alpha1.ReasonNoRequest,
		`at "DHCP"`, "no usable DHCP answer came"),
	installFault(v1alpha1.SimulatedFaultTFTPAbort, v1alpha1.TargetPXE, v1alpha1.ReasonBootProgramNotFetched,
		`at "TFTP"`, "could not fetch the network boot program", "TFTPAborted"),
	installFault(v1alpha1.SimulatedFaultScriptAbort, v1alpha1.TargetPXE, v1alpha1.ReasonIPXEError,
		`at "kernel and initrd"`, "the connection was reset"),
	installFault(v1alpha1.SimulatedFaultResetLoop, v1alpha1.TargetPXE, v1alpha1.ReasonInstallerNotStarted,
		`at "starting installer"`, "the installer did not report"),
	installFault(v1alpha1.SimulatedFaultForeignMAC, v1alpha1.TargetPXE, v1alpha1.ReasonNoDiscover,
		`at "firmware"`, "no usable DHCP answer came"),
	installFault(v1alpha1.SimulatedFaultInstallerError, v1alpha1.TargetInstalling, v1alpha1.ReasonInstallerError, "input/output error"),
	installFault(v1alpha1.SimulatedFaultInstallerStall, v1alpha1.TargetInstalling, v1alpha1.ReasonInstallerSilent,
		"the installer reports no progress"),
	{
		v1alpha1.SimulatedFaultPowersOff, v1alpha1.TargetInstalling, v1alpha1.TargetPending,
		v1alpha1.ConditionMachineRunning, v1alpha1.ReasonRestartPending, []string{"powered off by its guest", "is started again at"},
	},
	{
		v1alpha1.SimulatedFaultCloudInitFail, v1alpha1.TargetBooting, v1alpha1.TargetFailed,
		v1alpha1.ConditionProgressing, v1alpha1.ReasonCloudInitFailed, []string{"scripts-user in stage modules-final"},
	},
	{
		v1alpha1.SimulatedFaultNoSSH, v1alpha1.TargetBooting, v1alpha1.TargetBooting,
		v1alpha1.ConditionProgressing, v1alpha1.ReasonNoSSH, []string{`at "SSH"`, "the SSH server could not be started"},
	},
	{
		v1alpha1.SimulatedFaultNoPhoneHome, v1alpha1.TargetBooting, v1alpha1.TargetBooting,
		v1alpha1.ConditionProgressing, v1alpha1.ReasonNoPhoneHome, []string{`at "cloud-init"`, "running scripts-user"},
	},
}

// installFault returns a fault of an installation.
func installFault(fault v1alpha1.SimulatedFaultType, where v1alpha1.TargetPhase, reason string, messages ...string) simulatedFault {
	return simulatedFault{
		fault, where, v1alpha1.TargetFailed, v1alpha1.ConditionProgressing, reason, append(messages, "attempt 1 of 1 failed: "),
	}
}

func simulatedFaultRows() []fault {
	var rows []fault
	for _, c := range simulatedFaults {
		rows = append(rows, fault{"simulated " + string(c.fault), string(c.where), c.check})
	}
	return rows
}

// target returns the name of the target with the fault.
func (c simulatedFault) target() string { return "fault-" + strings.ToLower(string(c.fault)) }

// faultOf returns the fault of a target, "" for none.
func faultOf(target string) v1alpha1.SimulatedFaultType {
	for _, c := range simulatedFaults {
		if c.target() == target {
			return c.fault
		}
	}
	return ""
}

// check waits until the target reports the fault, if it has not yet, and checks that the
// healthy target beside it is not affected.
func (c simulatedFault) check(x *trial) {
	name := c.target()
	x.ensureTarget(name)
	x.ready(calm)
	watched := x.bystander(calm)
	if watched == nil {
		x.Fatalf("%s: got another phase than Ready after it was Ready", calm)
	}
	o, _, err := until(x.Context(), x.w, "target/"+name, time.Time{}, func(o *v1alpha1.BareMetalTarget) (bool, error) {
		return c.shownBy(o), nil
	})
	if err != nil {
		state := "not observed"
		if o != nil {
			state = string(o.Status.Phase) + "\n" + conditionsText(o)
		}
		x.Fatalf("waiting for %s of %s to be False with reason %s in phase %s: %v; last state: %s",
			c.condition, name, c.reason, c.phase, err, state)
	}
	message := meta.FindStatusCondition(o.Status.Conditions, c.condition).Message
	for _, want := range c.messages {
		if !strings.Contains(message, want) {
			x.Errorf("%s: got message %q, want it to contain %q", name, message, want)
		}
	}
	if c.phase == v1alpha1.TargetFailed && c.where != v1alpha1.TargetBooting {
		if a := o.Status.Attempts; a == nil || a.LastFailure == nil || a.LastFailure.Reason != c.reason {
			x.Errorf("%s: got attempts %+v, want a failure with reason %s", name, a, c.reason)
		}
	}
	if c.fault == v1alpha1.SimulatedFaultForeignMAC {
		x.refusedFramesOf(name)
	}
	x.untouched(watched)
	if a := watched.target.Status.Attempts; watched.netboots != 1 || a == nil || a.LastFailure != nil {
		x.Errorf("%s: got %d network boots, attempts %+v; want one, without a failure", calm, watched.netboots, a)
	}
}

// shownBy reports whether a target reports the fault.
func (c simulatedFault) shownBy(o *v1alpha1.BareMetalTarget) bool {
	is := meta.FindStatusCondition(o.Status.Conditions, c.condition)
	return o.Status.Phase == c.phase && is != nil && is.Status == metav1.ConditionFalse && is.Reason == c.reason
}

// refusedFramesOf checks that the server counts the frames of a target with a foreign MAC
// address, of no other target.
func (x *trial) refusedFramesOf(name string) {
	x.Helper()
	x.awaitServer("counting the refused frames", time.Time{}, func(o *v1alpha1.ProvisioningServer) bool {
		for _, f := range o.Status.Network.RefusedFrames {
			if f.Target == name && f.ForeignMAC > 0 {
				return true
			}
		}
		return false
	})
	states, _ := x.w.since("server/"+server, time.Time{})
	for _, m := range states {
		for _, f := range m.obj.(*v1alpha1.ProvisioningServer).Status.Network.RefusedFrames {
			if f.Target != name && f.ForeignMAC > 0 {
				x.Errorf("got frames of %s with a foreign MAC address, want only those of %s", f.Target, name)
				return
			}
		}
	}
}

// simulatorKilled kills the simulator, and with it all simulated machines: a target that
// is being installed starts over, and one that is Ready boots from its disk.
func simulatorKilled(x *trial) {
	x.ready(calm)
	x.bringTo(slow, v1alpha1.TargetInstalling)
	watched := x.bystander(first)
	before, leases := x.evidence(slow), x.leases()
	installed := x.evidence(calm)
	x.markFault()
	x.kill(before.machine.Process)
	x.startsOver(before)
	x.bootsFromDisk(installed)
	x.sameLeases(leases)
	if watched != nil {
		x.untouched(watched)
	}
}
