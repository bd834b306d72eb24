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

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/paths/pathstest"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/storage"
)

func TestATargetGoesItsWay(t *testing.T) {
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
	machine := l.waitMachine(target, func(m agent.Machine) bool { return m.PowerOn != "" })
	if machine.Boot != agent.BootInstall || machine.PowerOn != plan.PowerOn(state.StartedAt) || machine.ImagePin != pinOf("debian.qcow2") || machine.SSHUser != "lab" {
		t.Errorf("netbootd was told %+v", machine)
	}
	for _, blob := range []agent.Blob{machine.Kernel, machine.Initrd, machine.Overlay, machine.Image} {
		if got, ok := l.netbootd("lab").Blob(blob.Digest); !ok || int64(len(got)) != blob.Size {
			t.Errorf("the machine was started before %s was there", blob.Digest)
		}
	}
	if target.Status.Address != "10.88.0.10" || target.Status.MACAddress == "" || target.Status.Power != v1alpha1.PowerOn || target.Status.DiskPath == "" {
		t.Errorf("status %+v", target.Status)
	}

	l.installs(target, 370)
	target = l.waitTarget("target-1", "Installing at 37%", func(t *v1alpha1.BareMetalTarget) bool {
		return t.Status.Phase == v1alpha1.TargetInstalling && t.Status.Progress == "37%"
	})
	if want := (&v1alpha1.InstallProgress{Stage: "Write", Percent: 37, BytesWritten: 370, BytesTotal: 1000}); !cmp.Equal(want, target.Status.Install) {
		t.Errorf("install %+v", target.Status.Install)
	}

	l.finishes(target)
	if diff := cmp.Diff(plan.BootOrder(false), l.state(target).BootOrder); diff != "" {
		t.Errorf("boot order when netbootd lets the installer go on (-want +got):\n%s", diff)
	}
	record, err := storage.Load(l.machineDir(target))
	if err != nil || record.InstalledGeneration() != 1 || record.ProfileDigest != l.profile("debian").Status.Digest {
		t.Errorf("record %+v, %v", record, err)
	}
	target = l.waitPhase("target-1", v1alpha1.TargetBooting)
	if target.Status.InstalledGeneration != 1 || target.Status.InstalledProfileDigest == "" {
		t.Errorf("status %+v", target.Status)
	}

	l.boots(target)
	target = l.waitPhase("target-1", v1alpha1.TargetReady)
	l.waitCondition(target, v1alpha1.ConditionReady, "True", v1alpha1.ReasonReady, "")
	if !slices.Equal(target.Status.SSHHostKeys, []string{"ssh-ed25519 AAAA target-1"}) || target.Status.Hostname != "target-1" {
		t.Errorf("status %+v", target.Status)
	}
	checkTimeline(t, target, v1alpha1.TargetPXE, v1alpha1.TargetInstalling, v1alpha1.TargetBooting, v1alpha1.TargetReady)
	if l.machines.starts(string(target.UID)) != 1 {
		t.Error("the machine was started more than once")
	}
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
			t.Errorf("%s took %q", r.Phase, r.Seconds)
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

func TestNothingIsWrittenWhenNothingChanged(t *testing.T) {
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
		t.Errorf("objects were written although nothing changed (-before +after):\n%s", diff)
	}
}

// A manager that restarts finds everything as it was, in every phase.
func TestARestartOfTheManagerDisturbsNothing(t *testing.T) {
	l := up(t)
	server := l.server("lab")
	l.create(newTarget("target-1"))
	target := l.waitPhase("target-1", v1alpha1.TargetPXE)
	l.waitMachine(target, func(m agent.Machine) bool { return m.PowerOn != "" })
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
		config := lastConfig(l)
		// What it looks up again takes its time.
		release := l.library.hold("debian.qcow2")
		l.restart()
		l.reconciled(target, server)
		after := l.target("target-1")
		if after.Status.Phase != step.phase || len(after.Status.Timeline) != len(before.Status.Timeline) {
			t.Errorf("phase %s: became %s with timeline %+v", step.phase, after.Status.Phase, after.Status.Timeline)
		}
		if now := l.state(target); now.PID != process.PID || now.Resets != process.Resets {
			t.Errorf("phase %s: the machine was touched: %+v", step.phase, now)
		}
		release()
		l.reconciled(target, server)
		l.waitReadyServer("lab")
		if diff := cmp.Diff(config, lastConfig(l), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
			t.Errorf("phase %s: netbootd was told otherwise (-before +after):\n%s", step.phase, diff)
		}
		step.next()
	}
	target = l.waitPhase("target-1", v1alpha1.TargetReady)
	checkTimeline(t, target, v1alpha1.TargetPXE, v1alpha1.TargetInstalling, v1alpha1.TargetBooting, v1alpha1.TargetReady)
	for name, uid := range map[string]string{"server": string(server.UID), "target": string(target.UID)} {
		if n := l.machines.starts(uid); n != 1 {
			t.Errorf("the %s was started %d times", name, n)
		}
	}
}

// A manager with another runtime directory keeps machines that run on their
// network, whose sockets are where the manager before had them.
func TestTheRuntimeDirectoryMayMove(t *testing.T) {
	l := up(t)
	server := l.server("lab")
	l.create(newTarget("target-1"))
	target := l.waitPhase("target-1", v1alpha1.TargetPXE)
	plugged := func(o client.Object, p qemu.Paths) {
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
		t.Errorf("the console is said to be at %s, and is at %s", now.SerialSocket, before.Serial)
	}
	if c := meta.FindStatusCondition(l.server("lab").Status.Conditions, v1alpha1.ConditionUpToDate); c == nil || c.Status != metav1.ConditionTrue {
		t.Errorf("the server is not as it is to be: %+v", c)
	}

	l.machines.crash(string(target.UID))
	plugged(target, l.paths(string(target.UID)))
}

func lastConfig(l *lab) agent.Config {
	configs := l.netbootd("lab").Configs()
	return configs[len(configs)-1]
}

func TestAMachineThatDiesIsStartedAgain(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.waitPhase("target-1", v1alpha1.TargetPXE)
	uid := string(target.UID)
	l.installs(target, 370)
	l.waitPhase("target-1", v1alpha1.TargetInstalling)

	// A guest that powers itself off is no failure: it is started at once.
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

	l.finishes(target)
	l.boots(target)
	l.waitPhase("target-1", v1alpha1.TargetReady)
	l.machines.crash(uid)
	l.waitTarget("target-1", "told of as exited", func(t *v1alpha1.BareMetalTarget) bool {
		return t.Status.Phase == v1alpha1.TargetPending && t.Status.Power == v1alpha1.PowerOff
	})
	l.waitCondition(target, v1alpha1.ConditionMachineRunning, "False", v1alpha1.ReasonExited, "assertion failed")
	l.waitPhase("target-1", v1alpha1.TargetBooting)
	if diff := cmp.Diff(plan.BootOrder(false), l.state(target).BootOrder); diff != "" {
		t.Errorf("boot order after the installation (-want +got):\n%s", diff)
	}
	// What SSH said before does not count.
	l.reconciled(target)
	if phase := l.target("target-1").Status.Phase; phase != v1alpha1.TargetBooting {
		t.Errorf("phase %s by an answer from before", phase)
	}
	l.answers(target)
	l.waitPhase("target-1", v1alpha1.TargetReady)
}

func TestAServerThatDiesIsStartedAgain(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	l.becomesReady("target-1")
	server := l.waitReadyServer("lab")
	l.machines.crash(string(server.UID))
	l.waitCondition(server, v1alpha1.ConditionReady, "False", v1alpha1.ReasonExited, "assertion failed")
	l.eventually(func() string {
		if l.machines.starts(string(server.UID)) < 2 {
			return "the server is not started again"
		}
		return ""
	})
	l.waitReadyServer("lab")
	target := l.target("target-1")
	if target.Status.Phase != v1alpha1.TargetReady || l.machines.starts(string(target.UID)) != 1 {
		t.Errorf("the target became %s", target.Status.Phase)
	}
	if m := l.waitMachine(target, func(agent.Machine) bool { return true }); m.Boot != agent.BootDisk {
		t.Errorf("an installed target boots %s", m.Boot)
	}
}

func TestPower(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	update(l, target, func(t *v1alpha1.BareMetalTarget) { t.Spec.Power = v1alpha1.PowerOff })
	l.waitTarget("target-1", "powered off", func(t *v1alpha1.BareMetalTarget) bool {
		return t.Status.Phase == v1alpha1.TargetStopped && t.Status.Power == v1alpha1.PowerOff
	})
	if state := l.state(target); state.Exit == nil || state.Exit.Reason != qemu.ExitGuestShutdown {
		t.Errorf("the guest was not asked: %+v", state.Exit)
	}
	l.waitMachine(target, func(m agent.Machine) bool { return m.PowerOn == "" })

	update(l, l.target("target-1"), func(t *v1alpha1.BareMetalTarget) { t.Spec.Power = v1alpha1.PowerOn })
	l.waitPhase("target-1", v1alpha1.TargetBooting)
	if diff := cmp.Diff(plan.BootOrder(false), l.state(target).BootOrder); diff != "" {
		t.Errorf("boot order of an installed machine (-want +got):\n%s", diff)
	}
	l.answers(target)
	target = l.waitPhase("target-1", v1alpha1.TargetReady)
	if target.Status.InstalledGeneration != 1 {
		t.Errorf("installed generation %d", target.Status.InstalledGeneration)
	}
}

// A refused declaration does not keep a machine from being powered off.
func TestARefusedTargetCanBePoweredOff(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.waitPhase("target-1", v1alpha1.TargetPXE)
	update(l, target, func(t *v1alpha1.BareMetalTarget) {
		t.Spec.Address, t.Spec.Power = "10.99.0.1", v1alpha1.PowerOff
	})
	l.waitPhase("target-1", v1alpha1.TargetStopped)
	l.waitCondition(target, v1alpha1.ConditionValid, "False", v1alpha1.ReasonAddressOutside, "outside")
}

func TestInstallGenerationWipesOnce(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	mark := func() string { return plan.DiskPath(l.machineDir(target), 0) }
	writeFile(t, mark(), "installed system")
	vars := l.paths(string(target.UID)).Vars
	l.must(os.WriteFile(vars, []byte("boot the installed system"), 0o600))

	update(l, target, func(t *v1alpha1.BareMetalTarget) { t.Spec.InstallGeneration = 2 })
	target = l.waitPhase("target-1", v1alpha1.TargetPXE)
	if readFile(t, mark(), 9) == "installed" {
		t.Error("the disk still holds the old system")
	}
	if _, err := os.Stat(vars); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the firmware still has the old system's variables: %v", err)
	}
	if target.Status.InstalledGeneration != 0 || target.Status.SSHHostKeys != nil || target.Status.Hostname != "" {
		t.Errorf("status %+v", target.Status)
	}
	if diff := cmp.Diff(plan.BootOrder(true), l.state(target).BootOrder); diff != "" {
		t.Errorf("boot order (-want +got):\n%s", diff)
	}
	l.waitMachine(target, func(m agent.Machine) bool { return m.Boot == agent.BootInstall && m.Attempt == plan.Attempt(target) })
	writeFile(t, mark(), "being installed")
	l.restart()
	l.reconciled(target)
	l.becomesReady("target-1")
	if readFile(t, mark(), 5) != "being" {
		t.Error("the disk was wiped twice")
	}
	checkTimeline(t, l.target("target-1"), v1alpha1.TargetPXE, v1alpha1.TargetInstalling, v1alpha1.TargetBooting, v1alpha1.TargetReady)
}

// Nothing is wiped for a generation that cannot be installed.
func TestNothingIsWipedBeforeThereIsSomethingToInstall(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	writeFile(t, plan.DiskPath(l.machineDir(target), 0), "installed system")
	release := l.library.hold("next-kernel")
	defer release()
	l.create(newProfile("next"))
	update(l, target, func(t *v1alpha1.BareMetalTarget) {
		t.Spec.InstallGeneration, t.Spec.BootProfileRef.Name = 2, "next"
	})
	l.waitTarget("target-1", "seen", func(t *v1alpha1.BareMetalTarget) bool { return t.Status.ObservedGeneration == t.Generation })
	l.reconciled(target)
	if readFile(t, plan.DiskPath(l.machineDir(target), 0), 9) != "installed" || !l.state(target).Phase.Alive() {
		t.Error("the disk was wiped, or its system stopped, before the profile was ready")
	}
	release()
	l.waitPhase("target-1", v1alpha1.TargetPXE)
	l.becomesReady("target-1")
}

// A change of the profile counts for the next installation.
func TestAProfileChangedHalfWay(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.waitPhase("target-1", v1alpha1.TargetPXE)
	l.installs(target, 370)
	l.waitPhase("target-1", v1alpha1.TargetInstalling)
	before := l.waitMachine(target, func(m agent.Machine) bool { return m.PowerOn != "" })

	update(l, l.profile("debian"), func(p *v1alpha1.BootProfile) { p.Spec.Image.Path = "newer.qcow2" })
	l.waitCondition(l.profile("debian"), v1alpha1.ConditionReady, "True", v1alpha1.ReasonReady, "")
	l.eventually(func() string {
		if p := l.profile("debian"); p.Status.ObservedGeneration != p.Generation {
			return "the profile is not reconciled"
		}
		return ""
	})
	l.reconciled(l.server("lab"), target)
	for _, c := range l.netbootd("lab").Configs() {
		for _, m := range c.Machines {
			if m.PowerOn != "" && m.Image != before.Image {
				t.Fatalf("the image was changed under the installer: %+v", m.Image)
			}
		}
	}
	// What was installed is what is recorded.
	l.finishes(target)
	target = l.waitPhase("target-1", v1alpha1.TargetBooting)
	if target.Status.InstalledProfileDigest != before.ProfileDigest || before.ProfileDigest == l.profile("debian").Status.Digest {
		t.Errorf("recorded %s, installed %s", target.Status.InstalledProfileDigest, before.ProfileDigest)
	}
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "False", v1alpha1.ReasonProfileChanged, "")
	// Its first boot gets the data of the same profile.
	if m := l.waitMachine(target, func(m agent.Machine) bool { return m.Boot == agent.BootDisk }); m.ProfileDigest != before.ProfileDigest {
		t.Error("the installed system got the data of another profile")
	}
	l.boots(target)
	l.waitPhase("target-1", v1alpha1.TargetReady)
	l.waitMachine(target, func(m agent.Machine) bool { return m.ImagePin == pinOf("newer.qcow2") })
}

// An attempt that failed is followed by one with what is declared now.
func TestAProfileCorrectedAfterAFailure(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.waitAttempt("target-1", 1)
	l.installs(target, 370)
	l.waitPhase("target-1", v1alpha1.TargetInstalling)
	l.breaks(target, "the disk is on fire")
	l.waitPhase("target-1", v1alpha1.TargetPending)
	update(l, l.profile("debian"), func(p *v1alpha1.BootProfile) { p.Spec.Image.Path = "newer.qcow2" })
	target = l.waitAttempt("target-1", 2)
	l.waitMachine(target, func(m agent.Machine) bool { return m.ImagePin == pinOf("newer.qcow2") })
	l.becomesReady("target-1")
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "True", v1alpha1.ReasonUpToDate, "")
}
