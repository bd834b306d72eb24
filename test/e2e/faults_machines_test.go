// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// machineKilled kills the second target's QEMU in a phase. Before the end of its
// installation the target starts over, later it boots from its disk.
func machineKilled(phase v1alpha1.TargetPhase) func(*trial) {
	return func(x *trial) {
		x.ready(first)
		x.bringTo(second, phase)
		watched, before, leases := x.bystanders(), x.evidence(second), x.leases()
		var mark string
		if phase == v1alpha1.TargetReady {
			mark = x.leaveMark(second)
		}
		x.markFault()
		x.kill(before.machine.Process)
		if before.record.Installed {
			x.bootsFromDisk(before)
			x.cloudInitClean(before)
		} else {
			x.startsOver(before)
		}
		if phase == v1alpha1.TargetReady {
			x.findMark(second, mark)
		}
		x.untouched(watched...)
		x.sameLeases(leases)
	}
}

// startsOver waits until a target whose installation was interrupted is in the
// same phase again, after a network boot.
func (x *trial) startsOver(before evidence) {
	x.Helper()
	name, phase := before.target.Name, before.target.Status.Phase
	_, from := x.awaitTarget(name, "off", x.faultAt, func(o *v1alpha1.BareMetalTarget) bool {
		return o.Status.Power == v1alpha1.PowerOff || o.Status.Phase == v1alpha1.TargetPending
	})
	_, from = x.awaitTarget(name, "booting from the network", from, func(o *v1alpha1.BareMetalTarget) bool {
		if o.Status.Phase == v1alpha1.TargetInstalling {
			x.Errorf("%s: got Installing at %d %% while its firmware starts, want PXE first", name, progressOf(o))
		}
		return o.Status.Phase == v1alpha1.TargetPXE || o.Status.Phase == v1alpha1.TargetInstalling
	})
	_, at := x.awaitTarget(name, string(phase), from, func(o *v1alpha1.BareMetalTarget) bool { return o.Status.Phase == phase })
	x.recovered(at)
	after := x.evidence(name)
	if after.machine.Process == before.machine.Process {
		x.Errorf("%s has the identity of the killed process", name)
	}
	x.sameNames(before, after)
}

// bootsFromDisk waits until an interrupted installed target is Ready again, and
// checks that it was not reinstalled.
func (x *trial) bootsFromDisk(before evidence) {
	x.Helper()
	name := before.target.Name
	x.awaitTarget(name, "off", x.faultAt, func(o *v1alpha1.BareMetalTarget) bool {
		return o.Status.Power == v1alpha1.PowerOff || o.Status.Phase == v1alpha1.TargetPending
	})
	_, at := x.awaitTarget(name, "Ready", x.faultAt, func(o *v1alpha1.BareMetalTarget) bool {
		last := o.Status.Timeline[len(o.Status.Timeline)-1]
		return o.Status.Phase == v1alpha1.TargetReady && last.StartedAt.After(x.faultAt)
	})
	x.recovered(at)
	x.sameInstallation(before)
	x.neverIn(name, v1alpha1.TargetPXE, v1alpha1.TargetInstalling)
}

// cloudInitClean checks that cloud-init has finished without errors on a target whose boot
// was interrupted.
func (x *trial) cloudInitClean(before evidence) {
	x.Helper()
	name := before.target.Name
	status := "cloud-init status --wait"
	if before.target.Status.Phase != v1alpha1.TargetReady {
		// An interrupted first run warns of reports that it could not post before
		// it had a network: status 2 means warnings.
		status += " || test $? = 2"
	}
	if got := x.ssh(x, name, status); !strings.Contains(got, "status: done") {
		x.Errorf("cloud-init on %s: got %s, want status: done", name, got)
	}
	if got := x.ssh(x, name, "sudo cat /run/cloud-init/result.json"); !strings.Contains(got, `"errors": []`) {
		x.Errorf("cloud-init on %s: got %s, want no errors", name, got)
	}
}

// neverIn checks that a target has been in none of the phases since the fault.
func (x *trial) neverIn(name string, phases ...v1alpha1.TargetPhase) {
	x.Helper()
	states, _ := x.w.since("target/"+name, x.faultAt)
	for _, m := range states {
		for _, p := range phases {
			if m.obj.(*v1alpha1.BareMetalTarget).Status.Phase == p {
				x.Errorf("%s entered phase %s %.1f s after the fault", name, p, m.at.Sub(x.faultAt).Seconds())
				return
			}
		}
	}
}

// finishes waits until a target's installation is complete, whether resumed or restarted.
func (x *trial) finishes(before evidence) {
	x.Helper()
	name := before.target.Name
	x.awaitTarget(name, "installed", x.faultAt, func(o *v1alpha1.BareMetalTarget) bool {
		return o.Status.InstalledGeneration == before.target.Spec.InstallGeneration
	})
	x.sameNames(before, x.evidence(name))
}

// serverKilled kills the provisioning server's QEMU during an installation.
func serverKilled(x *trial) {
	x.ready(calm)
	x.bringTo(slow, v1alpha1.TargetInstalling)
	watched, before, leases := x.bystanders(), x.evidence(slow), x.leases()
	was := x.machineOf(x.serverUID()).Process
	x.markFault()
	x.kill(was)
	_, away := x.awaitServer("not Ready", x.faultAt, func(o *v1alpha1.ProvisioningServer) bool {
		return o.Status.Phase != v1alpha1.ServerReady
	})
	_, at := x.awaitServer("Ready", away, func(o *v1alpha1.ProvisioningServer) bool { return o.Status.Phase == v1alpha1.ServerReady })
	x.recovered(at)
	if x.machineOf(x.serverUID()).Process == was {
		x.Error("the server has the identity of the killed process")
	}
	x.finishes(before)
	x.sameLeases(leases)
	x.untouched(watched...)
}

func (x *trial) serverUID() string {
	x.Helper()
	return string(x.w.latest("server/" + server).GetUID())
}

// onServer runs a command on the provisioning server. It does not depend on
// netbootd.
func (x *trial) onServer(command string) string {
	x.Helper()
	return x.ssh(x, "server/"+server, command)
}

// netbootdKilled kills netbootd in the guest during an installation.
func netbootdKilled(x *trial) {
	x.ready(calm)
	x.bringTo(slow, v1alpha1.TargetInstalling)
	watched, before, leases := x.bystanders(), x.evidence(slow), x.leases()
	state := x.watchNetbootd()
	started := state.now().StartedAt
	x.markFault()
	x.onServer("sudo kill -KILL $(pidof netbootd)")
	x.recovered(state.restarted(x, started))
	x.finishes(before)
	x.sameMachine(before)
	x.sameInstallation(before)
	x.sameLeases(leases)
	x.untouched(watched...)
}

// netbootdFrozen suspends netbootd in the guest with SIGSTOP.
func netbootdFrozen(x *trial) {
	x.ready(calm)
	x.bringTo(slow, v1alpha1.TargetInstalling)
	watched, before, leases := x.bystanders(), x.evidence(slow), x.leases()
	state := x.watchNetbootd()
	started := state.now().StartedAt
	x.markFault()
	x.onServer("sudo kill -STOP $(pidof netbootd)")
	o, away := x.awaitServer("Degraded", x.faultAt, func(o *v1alpha1.ProvisioningServer) bool {
		return o.Status.Phase == v1alpha1.ServerDegraded
	})
	x.Logf("Degraded after %.1f s: %s", away.Sub(x.faultAt).Seconds(), o.Status.Message)
	if !strings.Contains(o.Status.Message, v1alpha1.ConditionAgentConnected) {
		x.Errorf("got message %q, want the failed condition in it", o.Status.Message)
	}
	c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionAgentConnected)
	if c == nil || c.Reason != v1alpha1.ReasonAgentSilent {
		x.Errorf("got condition %+v, want the reason %s", c, v1alpha1.ReasonAgentSilent)
	}
	_, at := x.awaitServer("Ready", away, func(o *v1alpha1.ProvisioningServer) bool { return o.Status.Phase == v1alpha1.ServerReady })
	x.recovered(at)
	state.restarted(x, started)
	x.finishes(before)
	x.sameLeases(leases)
	x.untouched(watched...)
}

// watchNetbootd connects to netbootd and returns once it has reported its state.
func (x *trial) watchNetbootd() *serverWatch {
	x.Helper()
	w := watchServer(x, x.faultLab.lab, server)
	deadline := newDeadline(guestLimit)
	for w.now().StartedAt.IsZero() {
		deadline.pause(x, "netbootd did not answer")
	}
	return w
}

// restarted waits until netbootd has another start time than before.
func (w *serverWatch) restarted(x *trial, before time.Time) time.Time {
	x.Helper()
	deadline := newDeadline(guestLimit)
	for w.now().StartedAt.Equal(before) {
		deadline.pause(x, "netbootd was not restarted")
	}
	return time.Now()
}
