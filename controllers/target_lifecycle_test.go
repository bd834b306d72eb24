// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/paths/pathstest"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

func TestTargetLifecycle(t *testing.T) {
	l := newLab(t)
	// In the order in which they are of least use.
	l.create(newTarget("target-1"))
	l.waitPhase("target-1", v1alpha1.TargetPending)
	l.create(newProfile("debian"), newServer("lab"))
	server := l.waitReadyServer("lab")

	target := l.waitPhase("target-1", v1alpha1.TargetPXE)
	state := l.state(target)
	if diff := cmp.Diff(plan.BootOrder(true), state.BootOrder); diff != "" {
		t.Errorf("boot order of a blank machine (-want +got):\n%s", diff)
	}
	got := l.waitMachine(target, func(m netbootapi.Machine) bool { return m.PowerOn != "" })
	want := netbootapi.Machine{
		Control: netbootapi.Control{Boot: netbootapi.BootInstall, PowerOn: plan.PowerOnID(state.StartedAt)},
		Content: netbootapi.Content{ImagePin: pinOf("debian.qcow2"), SSHUser: "lab"},
	}
	sent := netbootapi.Machine{
		Control: netbootapi.Control{Boot: got.Boot, PowerOn: got.PowerOn}, Content: netbootapi.Content{ImagePin: got.ImagePin, SSHUser: got.SSHUser},
	}
	if diff := cmp.Diff(want, sent, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("entry in netbootd (-want +got):\n%s", diff)
	}
	for _, blob := range []netbootapi.Blob{got.Kernel, got.Initrd, got.Overlay, got.Image} {
		if content, ok := l.netbootd("lab").Blob(blob.Digest); !ok || int64(len(content)) != blob.Size {
			t.Errorf("after the start: got %d bytes of %s in netbootd, complete %t, want all %d", len(content), blob.Digest, ok, blob.Size)
		}
	}
	if got := target.BootNICStatus().Address(); got != "10.88.0.10" {
		t.Errorf("status: got address %q, want 10.88.0.10", got)
	}
	if target.BootNICStatus().MAC == "" {
		t.Error("status: got no MAC address, want one")
	}
	if got := target.Status.Power; got != v1alpha1.PowerOn {
		t.Errorf("status: got power %s, want %s", got, v1alpha1.PowerOn)
	}
	if target.Status.DiskPath == "" {
		t.Error("status: got no disk path, want one")
	}

	l.installs(target, 370)
	target = l.waitTarget("target-1", "Installing at 37%", func(bmt *v1alpha1.BareMetalTarget) bool {
		return bmt.Status.Phase == v1alpha1.TargetInstalling && bmt.Status.Progress == "37%"
	})
	progress := &v1alpha1.InstallProgress{ID: 1, Stage: "Write", Percent: 37, BytesWritten: 370, BytesTotal: 1000}
	if diff := cmp.Diff(progress, target.Status.Install); diff != "" {
		t.Errorf("progress of the installation (-want +got):\n%s", diff)
	}

	l.finishes(target)
	if diff := cmp.Diff(plan.BootOrder(false), l.state(target).BootOrder); diff != "" {
		t.Errorf("boot order when netbootd releases the installer (-want +got):\n%s", diff)
	}
	record, err := targetdisk.Load(l.machineDir(target))
	if err != nil {
		t.Fatalf("loading the record of the disks: got error %v, want none", err)
	}
	if got := record.InstalledGeneration(); got != 1 {
		t.Errorf("record of the disks: got installed generation %d, want 1", got)
	}
	if digest := l.profile("debian").Status.Digest; record.ProfileDigest != digest {
		t.Errorf("record of the disks: got profile digest %s, want %s", record.ProfileDigest, digest)
	}
	target = l.waitPhase("target-1", v1alpha1.TargetBooting)
	if got := target.Status.InstalledGeneration; got != 1 {
		t.Errorf("status: got installed generation %d, want 1", got)
	}
	if target.Status.InstalledProfileDigest == "" {
		t.Error("status: got no digest of the installed profile, want one")
	}

	l.boots(target)
	target = l.waitPhase("target-1", v1alpha1.TargetReady)
	l.waitCondition(target, v1alpha1.ConditionReady, "True", v1alpha1.ReasonReady, "")
	if diff := cmp.Diff([]string{"ssh-ed25519 AAAA target-1"}, target.Status.SSHHostKeys); diff != "" {
		t.Errorf("host keys of the installed system (-want +got):\n%s", diff)
	}
	if got := target.Status.Hostname; got != "target-1" {
		t.Errorf("status: got host name %q, want target-1", got)
	}
	checkTimeline(t, target, v1alpha1.TargetPXE, v1alpha1.TargetInstalling, v1alpha1.TargetBooting, v1alpha1.TargetReady)
	l.checkStarts(target, 1)
	l.waitEvents(target, "PXE", "Installing", "Booting", "Ready")
	l.waitEvents(server, v1alpha1.ReasonReady, v1alpha1.ReasonRunning)
	l.eventually(func() string {
		if n := l.server("lab").Status.Targets; n != 1 {
			return "the server does not count its target"
		}
		return ""
	})
}

// checkTimeline wants these phases, each closed with the time it took. How often
// a target was looked at while it was Pending is left to chance.
func checkTimeline(t *testing.T, target *v1alpha1.BareMetalTarget, want ...v1alpha1.TargetPhase) {
	t.Helper()
	var got []v1alpha1.TargetPhase
	for i, r := range target.Status.Timeline {
		got = append(got, r.Phase)
		if last := i == len(target.Status.Timeline)-1; (r.Seconds == "") != last {
			t.Errorf("timeline: got %q seconds of phase %s, want none: %t", r.Seconds, r.Phase, last)
		}
	}
	if len(got) > 0 && got[0] == v1alpha1.TargetPending {
		got = got[1:]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("timeline (-want +got):\n%s", diff)
	}
}

// waitEvents waits for an event of each reason about an object.
func (l *lab) waitEvents(o client.Object, reasons ...string) {
	l.t.Helper()
	for _, reason := range reasons {
		l.waitEvent(o, reason, "")
	}
}

// waitEvent waits for an event about an object; its note contains text.
func (l *lab) waitEvent(o client.Object, reason, text string) {
	l.t.Helper()
	l.eventually(func() string {
		list := &eventsv1.EventList{}
		l.must(l.client.List(l.ctx, list, client.InNamespace(l.ns)))
		if slices.ContainsFunc(list.Items, func(e eventsv1.Event) bool {
			return e.Regarding.UID == o.GetUID() && e.Reason == reason && strings.Contains(e.Note, text)
		}) {
			return ""
		}
		return "there is no event " + reason + " with " + text + " about " + o.GetName()
	})
}

func TestStatusIsWrittenOnlyOnChange(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"), newTarget("target-2"))
	l.becomesReady("target-1")
	second := l.waitPhase("target-2", v1alpha1.TargetPXE)
	l.installs(second, 10)
	l.waitPhase("target-2", v1alpha1.TargetInstalling)
	l.waitReadyServer("lab")

	versions := func() map[string]string {
		return map[string]string{
			"server": l.server("lab").ResourceVersion, "profile": l.profile("debian").ResourceVersion,
			"ready": l.target("target-1").ResourceVersion, "installing": l.target("target-2").ResourceVersion,
		}
	}
	// What the last change set off has settled when two looks agree.
	var before map[string]string
	l.eventually(func() string {
		before = versions()
		l.reconciled(l.server("lab"), l.target("target-1"), l.target("target-2"))
		if diff := cmp.Diff(before, versions()); diff != "" {
			return "objects are written again and again:\n" + diff
		}
		return ""
	})
	for range 3 {
		l.reconciled(l.server("lab"), l.target("target-1"), l.target("target-2"))
	}
	if diff := cmp.Diff(before, versions()); diff != "" {
		t.Errorf("resource versions without a change (-want +got):\n%s", diff)
	}
}

// A manager that restarts finds everything as it was, in every phase.
func TestManagerRestartKeepsState(t *testing.T) {
	l := up(t)
	server := l.server("lab")
	l.create(newTarget("target-1"))
	target := l.waitPhase("target-1", v1alpha1.TargetPXE)
	l.waitMachine(target, func(m netbootapi.Machine) bool { return m.PowerOn != "" })
	steps := []struct {
		phase v1alpha1.TargetPhase
		next  func()
	}{
		{v1alpha1.TargetPXE, func() { l.installs(target, 370) }},
		{v1alpha1.TargetInstalling, func() { l.finishes(target) }},
		{v1alpha1.TargetBooting, func() { l.boots(target) }},
		{v1alpha1.TargetReady, func() {}},
	}
	for _, step := range steps {
		l.waitPhase("target-1", step.phase)
		before, process := l.target("target-1"), l.state(target)
		entries := l.netbootd("lab").Machines()
		// What it looks up again takes its time.
		release := l.library.hold("debian.qcow2")
		l.restart()
		l.reconciled(target, server)
		after := l.target("target-1")
		if after.Status.Phase != step.phase {
			t.Errorf("phase %s: got phase %s after a restart, want the same", step.phase, after.Status.Phase)
		}
		if got, want := len(after.Status.Timeline), len(before.Status.Timeline); got != want {
			t.Errorf("phase %s: got %d records in the timeline after a restart, want %d: %+v", step.phase, got, want, after.Status.Timeline)
		}
		now := l.state(target)
		if now.PID != process.PID {
			t.Errorf("phase %s: got machine with PID %d after a restart, want %d", step.phase, now.PID, process.PID)
		}
		if now.Resets != process.Resets {
			t.Errorf("phase %s: got machine with %d resets after a restart, want %d", step.phase, now.Resets, process.Resets)
		}
		release()
		l.reconciled(target, server)
		l.waitReadyServer("lab")
		if diff := cmp.Diff(entries, l.netbootd("lab").Machines(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
			t.Errorf("phase %s: configuration of netbootd after a restart (-want +got):\n%s", step.phase, diff)
		}
		step.next()
	}
	target = l.waitPhase("target-1", v1alpha1.TargetReady)
	checkTimeline(t, target, v1alpha1.TargetPXE, v1alpha1.TargetInstalling, v1alpha1.TargetBooting, v1alpha1.TargetReady)
	l.checkStarts(server, 1)
	l.checkStarts(target, 1)
}

// A manager with another runtime directory keeps machines that run on their
// network, whose sockets are where the manager before had them.
func TestManagerAdoptsMovedRuntimeDirectory(t *testing.T) {
	l := up(t)
	server := l.server("lab")
	l.create(newTarget("target-1"))
	target := l.waitPhase("target-1", v1alpha1.TargetPXE)
	plugged := func(o client.Object, p machine.Paths) {
		t.Helper()
		l.eventually(func() string {
			if _, err := os.Stat(filepath.Join(p.Sockets, "sw")); err != nil {
				return fmt.Sprintf("%s is not on its network: %v", o.GetName(), err)
			}
			return ""
		})
	}
	before := l.paths(string(target.UID))
	l.stopManager()
	l.runtime = pathstest.Short(t)
	l.start()
	l.reconciled(target, server)
	plugged(target, before)
	plugged(server, l.state(server).Paths)
	if now := l.target("target-1").Status.Consoles; now.SerialSocket != before.Serial {
		t.Errorf("got serial socket %s, want %s", now.SerialSocket, before.Serial)
	}
	if !meta.IsStatusConditionTrue(l.server("lab").Status.Conditions, v1alpha1.ConditionUpToDate) {
		t.Errorf("adopted server: got conditions %+v, want UpToDate to be True", l.server("lab").Status.Conditions)
	}

	l.machines.crash(string(target.UID))
	plugged(target, l.paths(string(target.UID)))
}

func TestTargetRestartsDeadMachine(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.waitPhase("target-1", v1alpha1.TargetPXE)
	uid := string(target.UID)
	l.installs(target, 370)
	l.waitPhase("target-1", v1alpha1.TargetInstalling)

	// A guest that powers itself off is restarted after a second.
	l.machines.GuestShutdown(uid)
	l.eventually(func() string {
		if l.machines.starts(uid) < 2 {
			return "the machine is not started again"
		}
		return ""
	})
	if diff := cmp.Diff(plan.BootOrder(true), l.state(target).BootOrder); diff != "" {
		t.Errorf("boot order before the installation (-want +got):\n%s", diff)
	}

	// The installation that the power-off interrupted starts over.
	on := plan.PowerOnID(l.state(target).StartedAt)
	l.waitMachine(target, func(m netbootapi.Machine) bool { return m.PowerOn == on })
	l.waitPhase("target-1", v1alpha1.TargetPXE)
	l.installs(target, 370)
	l.finishes(target)
	l.boots(target)
	l.waitPhase("target-1", v1alpha1.TargetReady)
	l.machines.FailStart(uid, "qemu: assertion failed")
	l.machines.crash(uid)
	l.waitTarget("target-1", "reported as exited", func(bmt *v1alpha1.BareMetalTarget) bool {
		return bmt.Status.Phase == v1alpha1.TargetPending && bmt.Status.Power == v1alpha1.PowerOff
	})
	l.waitCondition(target, v1alpha1.ConditionMachineRunning, "False", v1alpha1.ReasonRestartPending, "assertion failed")
	l.waitCondition(target, v1alpha1.ConditionMachineRunning, "False", v1alpha1.ReasonRestartPending, "ended 4 times in a row and is started again at")
	l.machines.FailStart(uid, "")
	l.waitPhase("target-1", v1alpha1.TargetBooting)
	if diff := cmp.Diff(plan.BootOrder(false), l.state(target).BootOrder); diff != "" {
		t.Errorf("boot order after the installation (-want +got):\n%s", diff)
	}
	// The earlier state of SSH does not count.
	l.reconciled(target)
	if phase := l.target("target-1").Status.Phase; phase != v1alpha1.TargetBooting {
		t.Errorf("with an SSH answer of the boot before: got phase %s, want %s", phase, v1alpha1.TargetBooting)
	}
	l.answers(target)
	l.waitPhase("target-1", v1alpha1.TargetReady)
}

// TestServerRecoversFromFaults lets the provisioning VM fail in the ways that do not
// end its process.
func TestServerRecoversFromFaults(t *testing.T) {
	l := up(t)
	server := l.server("lab")
	uid := string(server.UID)
	for name, fault := range map[string]func(){
		"internal_error": func() { l.machines.SetRunState(uid, machine.PhaseInternalError, "internal-error") },
		"unresponsive":   func() { l.machines.SetRunState(uid, machine.PhaseUnresponsive, "") },
		"panicked":       func() { l.machines.Panic(uid) },
	} {
		t.Run(name, func(t *testing.T) {
			starts := l.machines.starts(uid)
			fault()
			l.reconciled(server)
			l.sleep(3 * time.Minute)
			l.eventually(func() string {
				l.set.ServerObserved(uid)
				if l.machines.starts(uid) == starts {
					return "the server is not started again"
				}
				return ""
			})
			l.waitReadyServer("lab")
		})
	}
}

// TestSlowStart holds starts. The reconcilers wait for an event, and a target can be
// switched off meanwhile.
func TestSlowStart(t *testing.T) {
	l := newLab(t)
	l.machines.HoldStarts(true)
	l.create(newServer("lab"), newProfile("debian"))
	server := l.server("lab")
	l.waitCondition(server, v1alpha1.ConditionMachineRunning, "False", v1alpha1.ReasonStarting, "being started")
	if phase := l.server("lab").Status.Phase; phase != v1alpha1.ServerBooting {
		t.Errorf("got phase %s of a server whose machine is being started, want %s", phase, v1alpha1.ServerBooting)
	}
	l.machines.Release(string(server.UID))
	l.waitReadyServer("lab")

	l.create(newTarget("target-1"))
	target := l.waitTarget("target-1", "being started", func(bmt *v1alpha1.BareMetalTarget) bool {
		return bmt.Status.Phase == v1alpha1.TargetPending && bmt.Status.Power == v1alpha1.PowerOn
	})
	l.waitCondition(target, v1alpha1.ConditionMachineRunning, "False", v1alpha1.ReasonStarting, "being started")
	update(l, target, func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Power = v1alpha1.PowerOff })
	l.waitPhase("target-1", v1alpha1.TargetStopped)
	l.eventually(func() string {
		if l.state(target).Phase.Alive() {
			return "the start was not revoked"
		}
		return ""
	})
	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Power = v1alpha1.PowerOn })
	l.eventually(func() string {
		if l.state(target).Phase != machine.PhaseStarting {
			return "the machine is not started again"
		}
		return ""
	})
	l.machines.Release(string(target.UID))
	l.becomesReady("target-1")
	if n := l.machines.starts(string(server.UID)); n != 1 {
		t.Errorf("got %d starts of the server, want 1", n)
	}
}

func TestServerRestartsDeadMachine(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	l.becomesReady("target-1")
	server := l.waitReadyServer("lab")
	l.machines.FailStart(string(server.UID), "qemu: assertion failed")
	l.machines.crash(string(server.UID))
	l.waitCondition(server, v1alpha1.ConditionReady, "False", v1alpha1.ReasonRestartPending, "assertion failed")
	l.waitCondition(server, v1alpha1.ConditionMachineRunning, "False", v1alpha1.ReasonRestartPending, "ended 3 times in a row and is started again at")
	l.machines.FailStart(string(server.UID), "")
	l.eventually(func() string {
		if l.machines.starts(string(server.UID)) < 2 {
			return "the server is not started again"
		}
		return ""
	})
	l.waitReadyServer("lab")
	target := l.target("target-1")
	if got := target.Status.Phase; got != v1alpha1.TargetReady {
		t.Errorf("target after its server restarted: got phase %s, want %s", got, v1alpha1.TargetReady)
	}
	l.checkStarts(target, 1)
	if m := l.waitMachine(target, func(netbootapi.Machine) bool { return true }); m.Boot != netbootapi.BootDisk {
		t.Errorf("installed target after its server restarted: got boot %s, want %s", m.Boot, netbootapi.BootDisk)
	}
}

func TestTargetPower(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	update(l, target, func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Power = v1alpha1.PowerOff })
	l.waitTarget("target-1", "powered off", func(bmt *v1alpha1.BareMetalTarget) bool {
		return bmt.Status.Phase == v1alpha1.TargetStopped && bmt.Status.Power == v1alpha1.PowerOff
	})
	if exit := l.state(target).Exit; exit == nil || exit.Reason != machine.ExitGuestShutdown {
		t.Errorf("machine that was powered off: got exit %+v, want reason %s", exit, machine.ExitGuestShutdown)
	}
	l.waitMachine(target, func(m netbootapi.Machine) bool { return m.PowerOn == "" })

	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Power = v1alpha1.PowerOn })
	l.waitPhase("target-1", v1alpha1.TargetBooting)
	if diff := cmp.Diff(plan.BootOrder(false), l.state(target).BootOrder); diff != "" {
		t.Errorf("boot order of an installed machine (-want +got):\n%s", diff)
	}
	l.answers(target)
	target = l.waitPhase("target-1", v1alpha1.TargetReady)
	if got := target.Status.InstalledGeneration; got != 1 {
		t.Errorf("after power off and on: got installed generation %d, want 1", got)
	}
}

// A refused declaration does not keep a machine from being powered off.
func TestTargetRefusedCanBePoweredOff(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.waitPhase("target-1", v1alpha1.TargetPXE)
	update(l, target, func(bmt *v1alpha1.BareMetalTarget) {
		bmt.Spec.Machine.NICs[0].Addresses = []v1alpha1.IPv4{"10.99.0.1"}
		bmt.Spec.Power = v1alpha1.PowerOff
	})
	l.waitPhase("target-1", v1alpha1.TargetStopped)
	l.waitCondition(target, v1alpha1.ConditionValid, "False", v1alpha1.ReasonAddressOutside, "outside")
}

func TestTargetInstallGenerationWipesOnce(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	mark := func() string { return plan.DiskPath(l.machineDir(target), 0) }
	writeFile(t, mark(), "installed system")
	vars := l.paths(string(target.UID)).Vars
	l.must(os.WriteFile(vars, []byte("boot the installed system"), 0o600))

	update(l, target, func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.InstallGeneration = 2 })
	target = l.waitPhase("target-1", v1alpha1.TargetPXE)
	if got := readFile(t, mark(), 9); got == "installed" {
		t.Errorf("disk of the new generation: got %q, the old system, want a blank disk", got)
	}
	if _, err := os.Stat(vars); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("firmware variables of the old system: got error %v, want %v", err, fs.ErrNotExist)
	}
	if got := target.Status.InstalledGeneration; got != 0 {
		t.Errorf("status of a wiped target: got installed generation %d, want 0", got)
	}
	if got := target.Status.SSHHostKeys; got != nil {
		t.Errorf("status of a wiped target: got host keys %q, want none", got)
	}
	if got := target.Status.Hostname; got != "" {
		t.Errorf("status of a wiped target: got host name %q, want none", got)
	}
	if diff := cmp.Diff(plan.BootOrder(true), l.state(target).BootOrder); diff != "" {
		t.Errorf("boot order (-want +got):\n%s", diff)
	}
	l.waitMachine(target, func(m netbootapi.Machine) bool {
		return m.Boot == netbootapi.BootInstall && m.Attempt == plan.AttemptID(target)
	})
	writeFile(t, mark(), "being installed")
	l.restart()
	l.reconciled(target)
	l.becomesReady("target-1")
	if got := readFile(t, mark(), 5); got != "being" {
		t.Errorf("disk after a restart: got %q, want \"being\": it is wiped once", got)
	}
	checkTimeline(t, l.target("target-1"), v1alpha1.TargetPXE, v1alpha1.TargetInstalling, v1alpha1.TargetBooting, v1alpha1.TargetReady)
}

// Nothing is wiped for a generation that cannot be installed.
func TestTargetIsWipedOnlyWhenServed(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	writeFile(t, plan.DiskPath(l.machineDir(target), 0), "installed system")
	release := l.library.hold("next-kernel")
	defer release()
	l.create(newProfile("next"))
	update(l, target, func(bmt *v1alpha1.BareMetalTarget) {
		bmt.Spec.InstallGeneration = 2
		bmt.Spec.BootProfileRef.Name = "next"
	})
	l.waitTarget("target-1", "seen", func(bmt *v1alpha1.BareMetalTarget) bool { return bmt.Status.ObservedGeneration == bmt.Generation })
	l.reconciled(target)
	if got := readFile(t, plan.DiskPath(l.machineDir(target), 0), 9); got != "installed" {
		t.Errorf("before the profile is ready: got disk %q, want it not wiped", got)
	}
	l.checkAlive(target, true)
	release()
	l.waitPhase("target-1", v1alpha1.TargetPXE)
	l.becomesReady("target-1")
}

// Nothing is wiped, and no machine is switched off, before the server has all that is
// installed next. A system that has not phoned home keeps its content on the server.
func TestTargetIsWipedWhenServerHasProfile(t *testing.T) {
	next := func(l *lab) {
		l.create(newProfile("next"))
		l.waitCondition(l.profile("next"), v1alpha1.ConditionReady, "True", v1alpha1.ReasonReady, "")
		update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) {
			bmt.Spec.InstallGeneration = 2
			bmt.Spec.BootProfileRef.Name = "next"
		})
		l.waitCondition(l.target("target-1"), v1alpha1.ConditionProgressing, "True", v1alpha1.ReasonWaitingForServer, "the disk is kept until then")
	}
	for name, c := range map[string]struct {
		boots bool
		edit  func(*lab)
	}{
		"raised_generation":       {true, next},
		"raised_generation_early": {false, next},
		"edited_profile": {true, func(l *lab) {
			update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.ProfileChangePolicy = v1alpha1.ProfileChangeReinstall })
			update(l, l.profile("debian"), func(p *v1alpha1.BootProfile) { p.Spec.Image.Source.Path = "next.qcow2" })
			l.waitCondition(l.target("target-1"), v1alpha1.ConditionUpToDate, "False", v1alpha1.ReasonProfileChanged, "")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			l := up(t)
			l.create(newTarget("target-1"))
			target := l.waitPhase("target-1", v1alpha1.TargetPXE)
			l.installs(target, 370)
			l.waitPhase("target-1", v1alpha1.TargetInstalling)
			l.finishes(target)
			l.waitPhase("target-1", v1alpha1.TargetBooting)
			if c.boots {
				l.boots(target)
				l.waitPhase("target-1", v1alpha1.TargetReady)
			}
			writeFile(t, plan.DiskPath(l.machineDir(target), 0), "installed system")
			release := l.machines.holdUpload("next.qcow2")
			defer release()
			c.edit(l)
			digest, _ := l.library.Recorded(artifact.Source{Path: "next.qcow2"})
			l.eventually(func() string {
				if l.machines.uploads(digest) == 0 {
					return "the image is not sent"
				}
				return ""
			})
			for range 3 {
				l.reconciled(target)
			}
			if got := readFile(t, plan.DiskPath(l.machineDir(target), 0), 9); got != "installed" {
				t.Errorf("before the server has the image: got disk %q, want it not wiped", got)
			}
			l.checkAlive(target, true)
			l.checkStarts(target, 1)
			release()
			l.becomesReady("target-1")
			l.waitCondition(l.target("target-1"), v1alpha1.ConditionUpToDate, "True", v1alpha1.ReasonUpToDate, "")
		})
	}
}

// A change of the profile counts for the next installation.
func TestTargetKeepsProfileDuringInstallation(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.waitPhase("target-1", v1alpha1.TargetPXE)
	l.installs(target, 370)
	l.waitPhase("target-1", v1alpha1.TargetInstalling)
	before := l.waitMachine(target, func(m netbootapi.Machine) bool { return m.PowerOn != "" })

	update(l, l.profile("debian"), func(p *v1alpha1.BootProfile) { p.Spec.Image.Source.Path = "newer.qcow2" })
	l.waitCondition(l.profile("debian"), v1alpha1.ConditionReady, "True", v1alpha1.ReasonReady, "")
	l.eventually(func() string {
		if p := l.profile("debian"); p.Status.ObservedGeneration != p.Generation {
			return "the profile is not reconciled"
		}
		return ""
	})
	l.reconciled(l.server("lab"), target)
	if m, _ := l.netbootd("lab").Machine(string(target.UID)); m.Content.Image != before.Image || m.ProfileDigest != before.ProfileDigest {
		t.Fatalf("during the installation: got image %+v, want %+v", m.Image, before.Image)
	}
	// Nor does a new manager change it, which has not seen the profile before.
	l.restart()
	l.reconciled(l.server("lab"), target)
	if m, _ := l.netbootd("lab").Machine(string(target.UID)); m.Content.Image != before.Image || m.Boot != netbootapi.BootInstall {
		t.Fatalf("after a restart of the manager: got image %+v and boot %s, want %+v and Install", m.Image, m.Boot, before.Image)
	}
	// What was installed is what is recorded.
	l.finishes(target)
	target = l.waitPhase("target-1", v1alpha1.TargetBooting)
	if got := target.Status.InstalledProfileDigest; got != before.ProfileDigest {
		t.Errorf("status: got profile digest %s, want %s, which was installed", got, before.ProfileDigest)
	}
	if got := l.profile("debian").Status.Digest; got == before.ProfileDigest {
		t.Errorf("changed profile: got digest %s, want another one than before", got)
	}
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "False", v1alpha1.ReasonProfileChanged, "")
	// Its first boot gets the data of the same profile.
	m := l.waitMachine(target, func(m netbootapi.Machine) bool { return m.Boot == netbootapi.BootDisk })
	if m.ProfileDigest != before.ProfileDigest {
		t.Errorf("first boot: got data of profile %s, want %s", m.ProfileDigest, before.ProfileDigest)
	}
	l.boots(target)
	l.waitPhase("target-1", v1alpha1.TargetReady)
	l.waitMachine(target, func(m netbootapi.Machine) bool { return m.ImagePin == pinOf("newer.qcow2") })
}

// An attempt that failed is followed by one with what is declared now.
func TestTargetRetriesCorrectedProfile(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.waitAttempt("target-1", 1)
	l.installs(target, 370)
	l.waitPhase("target-1", v1alpha1.TargetInstalling)
	l.breaks(target, "the disk is on fire")
	l.waitPhase("target-1", v1alpha1.TargetPending)
	update(l, l.profile("debian"), func(p *v1alpha1.BootProfile) { p.Spec.Image.Source.Path = "newer.qcow2" })
	target = l.waitAttempt("target-1", 2)
	l.waitMachine(target, func(m netbootapi.Machine) bool { return m.ImagePin == pinOf("newer.qcow2") })
	l.becomesReady("target-1")
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "True", v1alpha1.ReasonUpToDate, "")
}
