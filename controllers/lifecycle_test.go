// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/qemu"
)

// waitAttempt waits until a target's machine runs for an attempt, and netbootd
// serves it.
func (l *lab) waitAttempt(name string, number int64) *v1alpha1.BareMetalTarget {
	l.t.Helper()
	t := l.waitTarget(name, "at its next attempt", func(t *v1alpha1.BareMetalTarget) bool {
		return t.Status.Attempts != nil && t.Status.Attempts.Number == number && t.Status.Phase == v1alpha1.TargetPXE
	})
	l.waitMachine(t, func(m agent.Machine) bool {
		return m.Attempt == plan.Attempt(t) && m.Boot == agent.BootInstall && m.PowerOn != ""
	})
	return t
}

// breaks lets the installer report an error.
func (l *lab) breaks(t *v1alpha1.BareMetalTarget, message string) {
	l.t.Helper()
	l.sawTarget(t, func(m *agent.MachineState) {
		m.Install = &agent.InstallState{StartedAt: time.Now().UTC(), Stage: "Failed", BytesTotal: 1000, Error: message}
	})
}

func TestAnInstallationThatFailsIsTriedAgain(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.waitAttempt("target-1", 1)
	disk := plan.DiskPath(l.machineDir(target), 0)
	tokens := map[string]bool{}
	for i := range 3 {
		tokens[l.waitMachine(target, func(m agent.Machine) bool { return m.Attempt == plan.Attempt(target) }).Token] = true
		l.installs(target, 370)
		l.waitPhase("target-1", v1alpha1.TargetInstalling)
		writeFile(t, disk, "half an image")
		l.breaks(target, "the disk is on fire")
		if i == 2 {
			break
		}
		target = l.waitTarget("target-1", "waiting to try again", func(t *v1alpha1.BareMetalTarget) bool {
			return t.Status.Phase == v1alpha1.TargetPending && t.Status.Attempts.NextAt != nil
		})
		a := target.Status.Attempts
		if a.Failed != int32(i+1) || a.LastFailure.Number != int64(i+1) || a.LastFailure.Reason != v1alpha1.ReasonInstallerError || !strings.Contains(a.LastFailure.Message, "on fire") {
			t.Errorf("after attempt %d: %+v", i+1, a)
		}
		l.waitCondition(target, v1alpha1.ConditionProgressing, "False", v1alpha1.ReasonInstallerError, "of 3 failed: ")
		// Nothing happens before its time, not even when the manager restarts.
		l.restart()
		l.reconciled(target)
		if n := l.machines.starts(string(target.UID)); n != i+1 || !l.state(target).Phase.Alive() {
			t.Errorf("before its time: started %d times", n)
		}
		l.sleep(time.Until(a.NextAt.Time) + 10*time.Minute)
		l.reconciled(target)
		target = l.waitAttempt("target-1", int64(i+2))
		if readFile(t, disk, 4) == "half" {
			t.Error("an attempt found the disk of the one before")
		}
	}
	target = l.waitPhase("target-1", v1alpha1.TargetFailed)
	l.waitCondition(target, v1alpha1.ConditionReady, "False", v1alpha1.ReasonInstallerError, "attempt 3 of 3 failed: ")
	l.waitEvents(target, "AttemptFailed", "InstallBegun", "Failed")
	l.sleep(24 * time.Hour)
	l.restart()
	l.reconciled(target)
	if n := l.machines.starts(string(target.UID)); n != 3 {
		t.Errorf("started %d times", n)
	}
	// A change starts afresh, under a name of its own.
	update(l, l.target("target-1"), func(t *v1alpha1.BareMetalTarget) { t.Spec.Parameters = map[string]string{"a": "b"} })
	target = l.waitAttempt("target-1", 4)
	tokens[l.waitMachine(target, func(m agent.Machine) bool { return m.Attempt == plan.Attempt(target) }).Token] = true
	if len(tokens) != 4 {
		t.Error("attempts share a token")
	}
	target = l.becomesReady("target-1")
	if a := target.Status.Attempts; a.Failed != 0 || a.LastFailure != nil || a.Number != 4 {
		t.Errorf("installed: %+v", a)
	}
}

func TestAnInstallationThatDoesNotMove(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.waitAttempt("target-1", 1)
	l.reconciled(target)
	l.sleep(15 * time.Minute)
	l.reconciled(target)
	target = l.waitTarget("target-1", "waiting to try again", func(t *v1alpha1.BareMetalTarget) bool {
		return t.Status.Attempts.LastFailure != nil
	})
	if f := target.Status.Attempts.LastFailure; f.Reason != v1alpha1.ReasonNoDiscover || !strings.Contains(f.Message, "no progress for 15m") {
		t.Errorf("%+v", f)
	}
	l.sleep(time.Minute)
	l.reconciled(target)
	target = l.waitAttempt("target-1", 2)
	// A kernel panic needs no patience.
	l.machines.Panic(string(target.UID))
	l.waitTarget("target-1", "told of as panicked", func(t *v1alpha1.BareMetalTarget) bool {
		f := t.Status.Attempts.LastFailure
		return f.Number == 2 && f.Reason == v1alpha1.ReasonGuestPanicked
	})
	l.sleep(10 * time.Minute)
	l.reconciled(target)
	l.waitAttempt("target-1", 3)
	l.becomesReady("target-1")
}

// A machine that was installed and never boots is not wiped, and says why.
func TestAnInstalledMachineThatNeverBootsIsKept(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.waitAttempt("target-1", 1)
	l.installs(target, 370)
	l.finishes(target)
	l.waitPhase("target-1", v1alpha1.TargetBooting)
	writeFile(t, plan.DiskPath(l.machineDir(target), 0), "installed system")
	l.machines.Panic(string(target.UID))
	l.waitCondition(target, v1alpha1.ConditionProgressing, "False", v1alpha1.ReasonGuestPanicked, "")
	l.machines.GuestReset(string(target.UID))
	l.reconciled(target)
	l.sleep(24 * time.Hour)
	l.reconciled(target)
	l.waitCondition(target, v1alpha1.ConditionProgressing, "False", v1alpha1.ReasonNoPhoneHome, "no progress")
	if readFile(t, plan.DiskPath(l.machineDir(target), 0), 9) != "installed" || l.machines.starts(string(target.UID)) != 1 {
		t.Error("the machine was wiped or started anew")
	}
}

func TestAProfileThatChanges(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "True", v1alpha1.ReasonUpToDate, "")
	release := l.library.hold("newer.qcow2")
	defer release()
	change := func(p *v1alpha1.BootProfile) { p.Spec.Image.Path = "newer.qcow2" }
	update(l, l.profile("debian"), change)
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "Unknown", v1alpha1.ReasonWaitingForProfile, "")
	update(l, l.target("target-1"), func(t *v1alpha1.BareMetalTarget) { t.Spec.ProfileChangePolicy = v1alpha1.ProfileChangeReinstall })
	l.reconciled(target)
	if l.machines.starts(string(target.UID)) != 1 || !l.state(target).Phase.Alive() {
		t.Error("the machine was touched before the new image was there")
	}
	update(l, l.target("target-1"), func(t *v1alpha1.BareMetalTarget) { t.Spec.ProfileChangePolicy = v1alpha1.ProfileChangeKeep })
	release()
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "False", v1alpha1.ReasonProfileChanged, "raise spec.installGeneration")
	l.reconciled(target)
	if phase := l.target("target-1").Status.Phase; phase != v1alpha1.TargetReady {
		t.Errorf("became %s", phase)
	}
	// Now by itself, once.
	update(l, l.target("target-1"), func(t *v1alpha1.BareMetalTarget) { t.Spec.ProfileChangePolicy = v1alpha1.ProfileChangeReinstall })
	target = l.waitAttempt("target-1", 2)
	if m := l.waitMachine(target, func(m agent.Machine) bool { return m.Boot == agent.BootInstall }); m.ImagePin != pinOf("newer.qcow2") {
		t.Errorf("it is installed from %s", m.ImagePin)
	}
	if target.Status.SSHHostKeys != nil {
		t.Error("the keys of the system that was wiped are still told")
	}
	l.becomesReady("target-1")
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "True", v1alpha1.ReasonUpToDate, "")
	for range 3 {
		l.reconciled(l.server("lab"), target)
	}
	if n := l.machines.starts(string(target.UID)); n != 2 {
		t.Errorf("started %d times", n)
	}
}

func TestPausedTargets(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	pause := func(value string) {
		update(l, l.target("target-1"), func(t *v1alpha1.BareMetalTarget) {
			t.Annotations = map[string]string{v1alpha1.PausedAnnotation: value}
		})
	}
	pause("")
	l.waitCondition(target, v1alpha1.ConditionPaused, "True", v1alpha1.ReasonPaused, v1alpha1.PausedAnnotation)
	l.waitCondition(target, v1alpha1.ConditionProgressing, "False", v1alpha1.ReasonPaused, "nothing is done")
	update(l, l.target("target-1"), func(t *v1alpha1.BareMetalTarget) { t.Spec.Power, t.Spec.InstallGeneration = v1alpha1.PowerOff, 2 })
	l.restart()
	l.waitReadyServer("lab")
	l.reconciled(target)
	if target = l.target("target-1"); !l.state(target).Phase.Alive() || target.Status.Phase != v1alpha1.TargetReady || target.Status.DiskGeneration != 1 {
		t.Errorf("something was done: %+v", target.Status)
	}
	l.must(l.client.Delete(l.ctx, target))
	l.waitCondition(target, v1alpha1.ConditionPaused, "True", v1alpha1.ReasonPaused, "the deletion waits")
	l.reconciled(target)
	if !l.state(target).Phase.Alive() {
		t.Error("a paused machine was stopped to be deleted")
	}
	pause("false")
	l.waitGone(target)
}

func TestPausedServersAndProfiles(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	l.becomesReady("target-1")
	server, profile := l.waitReadyServer("lab"), l.profile("debian")
	paused := map[string]string{v1alpha1.PausedAnnotation: "for maintenance"}
	update(l, profile, func(p *v1alpha1.BootProfile) {
		p.Annotations, p.Spec.Image.Path = paused, "newer.qcow2"
	})
	l.waitCondition(profile, v1alpha1.ConditionPaused, "True", v1alpha1.ReasonPaused, "")
	if p := l.profile("debian"); p.Status.ObservedGeneration == p.Generation {
		t.Error("a paused profile was brought forward")
	}
	update(l, server, func(s *v1alpha1.ProvisioningServer) { s.Annotations = paused })
	l.waitCondition(server, v1alpha1.ConditionPaused, "True", v1alpha1.ReasonPaused, "")
	pushed := len(l.netbootd("lab").Configs())
	l.create(newTarget("target-2"))
	second := l.target("target-2")
	l.waitCondition(second, v1alpha1.ConditionReady, "False", v1alpha1.ReasonWaitingForProfile, "")
	l.restart()
	l.reconciled(server, second)
	if n := len(l.netbootd("lab").Configs()); n != pushed {
		t.Error("a paused server was told something")
	}
	l.machines.crash(string(server.UID))
	l.waitCondition(server, v1alpha1.ConditionReady, "False", v1alpha1.ReasonPaused, "not started")
	l.reconciled(server)
	if l.state(server).Phase.Alive() {
		t.Error("a paused server was started")
	}
	update(l, l.profile("debian"), func(p *v1alpha1.BootProfile) { p.Annotations = nil })
	update(l, l.server("lab"), func(s *v1alpha1.ProvisioningServer) { s.Annotations = nil })
	l.sleep(time.Minute) // the pause of a machine that died
	l.reconciled(server)
	l.becomesReady("target-2")
	l.eventually(func() string {
		if c := conditionsOf(l.server("lab")); slices.ContainsFunc(c, func(c metav1.Condition) bool { return c.Type == v1alpha1.ConditionPaused }) {
			return "the server says that it is paused"
		}
		return ""
	})
}

func TestAServersMachineCountsWhenItIsStartedAnew(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	server := l.waitReadyServer("lab")
	l.waitCondition(server, v1alpha1.ConditionUpToDate, "True", v1alpha1.ReasonUpToDate, "")
	old := plan.ServerDiskPath(l.machineDir(server), server)
	for _, edit := range []func(*v1alpha1.ProvisioningServer){
		func(s *v1alpha1.ProvisioningServer) { s.Spec.Machine.CPUs = 2 },
		func(s *v1alpha1.ProvisioningServer) { s.Spec.SSHAuthorizedKeys = []string{"ssh-ed25519 AAAA me"} },
		func(s *v1alpha1.ProvisioningServer) { s.Spec.Machine.Image.Path = "newer-server.qcow2" },
	} {
		starts := l.machines.starts(string(server.UID))
		update(l, l.server("lab"), edit)
		l.waitCondition(server, v1alpha1.ConditionUpToDate, "False", v1alpha1.ReasonRestartNeeded, "kubectl annotate provisioningserver -n "+l.ns+" lab "+v1alpha1.RestartAnnotation)
		update(l, l.server("lab"), func(s *v1alpha1.ProvisioningServer) {
			s.Annotations = map[string]string{v1alpha1.RestartAnnotation: "now"}
		})
		l.eventually(func() string {
			if _, asked := l.server("lab").Annotations[v1alpha1.RestartAnnotation]; asked || l.machines.starts(string(server.UID)) == starts {
				return "the server is not started anew"
			}
			return ""
		})
		l.waitCondition(server, v1alpha1.ConditionUpToDate, "True", v1alpha1.ReasonUpToDate, "")
		l.waitReadyServer("lab")
		l.reconciled(server)
		if n := l.machines.starts(string(server.UID)); n != starts+1 {
			t.Errorf("started %d times more", n-starts)
		}
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("the disk of the image before is left")
	}
	if now := l.target("target-1"); now.Status.Phase != v1alpha1.TargetReady || l.machines.starts(string(target.UID)) != 1 {
		t.Errorf("the target became %s", now.Status.Phase)
	}
}

func TestAGuestThatIgnoresItsPowerButton(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	l.machines.IgnorePowerButton(string(target.UID))
	update(l, target, func(t *v1alpha1.BareMetalTarget) { t.Spec.Power = v1alpha1.PowerOff })
	l.waitPhase("target-1", v1alpha1.TargetStopped)
	l.waitCondition(target, v1alpha1.ConditionMachineRunning, "False", v1alpha1.ReasonStopped, "without its guest's doing")
	l.waitEvents(target, v1alpha1.ReasonForcedOff)
	if state := l.state(target); state.Exit.Reason != qemu.ExitStopped {
		t.Errorf("%+v", state.Exit)
	}
}
