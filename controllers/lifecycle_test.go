// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/plan"
)

// waitAttempt waits until a target's machine runs for an attempt, and netbootd
// serves it.
func (l *lab) waitAttempt(name string, number int64) *v1alpha1.BareMetalTarget {
	l.t.Helper()
	target := l.waitTarget(name, "at its next attempt", func(bmt *v1alpha1.BareMetalTarget) bool {
		return bmt.Status.Attempts != nil && bmt.Status.Attempts.Number == number && bmt.Status.Phase == v1alpha1.TargetPXE
	})
	l.waitMachine(target, func(m netbootapi.Machine) bool {
		return m.Attempt == plan.AttemptID(target) && m.Boot == netbootapi.BootInstall && m.PowerOn != ""
	})
	return target
}

// breaks lets the installer report an error.
func (l *lab) breaks(bmt *v1alpha1.BareMetalTarget, message string) {
	l.t.Helper()
	l.sawTarget(bmt, func(m *netbootapi.MachineState) {
		m.Install = &netbootapi.InstallState{StartedAt: time.Now().UTC(), Stage: "Failed", BytesTotal: 1000, Error: message}
	})
}

func TestTargetRetriesFailedInstallation(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.waitAttempt("target-1", 1)
	disk := plan.DiskPath(l.machineDir(target), 0)
	tokens := map[string]bool{}
	for i := range 3 {
		tokens[l.waitMachine(target, func(m netbootapi.Machine) bool { return m.Attempt == plan.AttemptID(target) }).Token] = true
		l.installs(target, 370)
		l.waitPhase("target-1", v1alpha1.TargetInstalling)
		writeFile(t, disk, "half an image")
		l.breaks(target, "the disk is on fire")
		if i == 2 {
			break
		}
		target = l.waitTarget("target-1", "waiting to try again", func(bmt *v1alpha1.BareMetalTarget) bool {
			return bmt.Status.Phase == v1alpha1.TargetPending && bmt.Status.Attempts.NextAt != nil
		})
		a := target.Status.Attempts
		if a.Failed != int32(i+1) {
			t.Errorf("after attempt %d: got %d failed attempts, want %d", i+1, a.Failed, i+1)
		}
		want := &v1alpha1.AttemptFailure{Number: int64(i + 1), Reason: v1alpha1.ReasonInstallerError}
		if diff := cmp.Diff(want, a.LastFailure, cmpopts.IgnoreFields(v1alpha1.AttemptFailure{}, "Message", "At")); diff != "" {
			t.Errorf("after attempt %d: last failure (-want +got):\n%s", i+1, diff)
		}
		if got := a.LastFailure.Message; !strings.Contains(got, "on fire") {
			t.Errorf("after attempt %d: got message %q, want one that contains \"on fire\"", i+1, got)
		}
		l.waitCondition(target, v1alpha1.ConditionProgressing, "False", v1alpha1.ReasonInstallerError, "of 3 failed: ")
		// Nothing happens before its time, not even when the manager restarts.
		l.restart()
		l.reconciled(target)
		l.checkStarts(target, i+1)
		l.checkAlive(target, true)
		l.sleep(time.Until(a.NextAt.Time) + 10*time.Minute)
		l.reconciled(target)
		target = l.waitAttempt("target-1", int64(i+2))
		if got := readFile(t, disk, 4); got == "half" {
			t.Errorf("disk of attempt %d: got %q, the content of the attempt before, want a blank disk", i+2, got)
		}
	}
	target = l.waitPhase("target-1", v1alpha1.TargetFailed)
	l.waitCondition(target, v1alpha1.ConditionReady, "False", v1alpha1.ReasonInstallerError, "attempt 3 of 3 failed: ")
	l.waitEvents(target, "AttemptFailed", "InstallStarted", "Failed")
	l.sleep(24 * time.Hour)
	l.restart()
	l.reconciled(target)
	l.checkStarts(target, 3)
	// A change starts afresh, under a name of its own.
	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Parameters = map[string]string{"a": "b"} })
	target = l.waitAttempt("target-1", 4)
	tokens[l.waitMachine(target, func(m netbootapi.Machine) bool { return m.Attempt == plan.AttemptID(target) }).Token] = true
	if len(tokens) != 4 {
		t.Errorf("got %d different tokens in 4 attempts, want 4", len(tokens))
	}
	target = l.becomesReady("target-1")
	ignored := cmpopts.IgnoreFields(v1alpha1.InstallAttempts{}, "NextAt")
	if diff := cmp.Diff(&v1alpha1.InstallAttempts{Number: 4}, target.Status.Attempts, ignored); diff != "" {
		t.Errorf("attempts of an installed target (-want +got):\n%s", diff)
	}
}

func TestTargetRetriesStalledInstallation(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.waitAttempt("target-1", 1)
	l.reconciled(target)
	l.sleep(15 * time.Minute)
	l.reconciled(target)
	target = l.waitTarget("target-1", "waiting to try again", func(bmt *v1alpha1.BareMetalTarget) bool {
		return bmt.Status.Attempts.LastFailure != nil
	})
	f := target.Status.Attempts.LastFailure
	if f.Reason != v1alpha1.ReasonNoDiscover {
		t.Errorf("last failure: got reason %s, want %s", f.Reason, v1alpha1.ReasonNoDiscover)
	}
	if !strings.Contains(f.Message, "no progress for 15m") {
		t.Errorf("last failure: got message %q, want one that contains \"no progress for 15m\"", f.Message)
	}
	l.sleep(time.Minute)
	l.reconciled(target)
	target = l.waitAttempt("target-1", 2)
	// A kernel panic needs no patience.
	l.machines.Panic(string(target.UID))
	l.waitTarget("target-1", "reported as panicked", func(bmt *v1alpha1.BareMetalTarget) bool {
		f := bmt.Status.Attempts.LastFailure
		return f.Number == 2 && f.Reason == v1alpha1.ReasonGuestPanicked
	})
	l.sleep(10 * time.Minute)
	l.reconciled(target)
	l.waitAttempt("target-1", 3)
	l.becomesReady("target-1")
}

// What the installer could not do is reported with the installation.
func TestTargetReportsInstallationWarnings(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.waitAttempt("target-1", 1)
	l.installs(target, 370)
	l.sawTarget(target, func(m *netbootapi.MachineState) {
		install := *m.Install
		install.Warnings = []string{"the root was not grown"}
		m.Install = &install
	})
	l.finishes(target)
	l.boots(target)
	target = l.waitPhase("target-1", v1alpha1.TargetReady)
	l.waitCondition(target, v1alpha1.ConditionInstalled, "True", v1alpha1.ReasonInstalledWithWarnings, "the root was not grown")
	l.waitEvents(target, v1alpha1.ReasonInstalledWithWarnings)
}

// A machine that was installed and never boots is not wiped, and the reason is reported.
func TestTargetKeepsDiskWhenBootFails(t *testing.T) {
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
	if got := readFile(t, plan.DiskPath(l.machineDir(target), 0), 9); got != "installed" {
		t.Errorf("disk of a stalled system: got %q, want it not wiped", got)
	}
	l.checkStarts(target, 1)
}

func TestTargetFollowsProfileChangePolicy(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "True", v1alpha1.ReasonUpToDate, "")
	release := l.library.hold("newer.qcow2")
	defer release()
	change := func(p *v1alpha1.BootProfile) { p.Spec.Image.Source.Path = "newer.qcow2" }
	update(l, l.profile("debian"), change)
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "Unknown", v1alpha1.ReasonWaitingForProfile, "")
	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.ProfileChangePolicy = v1alpha1.ProfileChangeReinstall })
	l.reconciled(target)
	l.checkStarts(target, 1)
	l.checkAlive(target, true)
	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.ProfileChangePolicy = v1alpha1.ProfileChangeKeep })
	release()
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "False", v1alpha1.ReasonProfileChanged, "raise spec.installGeneration")
	l.reconciled(target)
	if phase := l.target("target-1").Status.Phase; phase != v1alpha1.TargetReady {
		t.Errorf("with the policy Keep: got phase %s, want %s", phase, v1alpha1.TargetReady)
	}
	// Now by itself, once.
	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.ProfileChangePolicy = v1alpha1.ProfileChangeReinstall })
	target = l.waitAttempt("target-1", 2)
	m := l.waitMachine(target, func(m netbootapi.Machine) bool { return m.Boot == netbootapi.BootInstall })
	if want := pinOf("newer.qcow2"); m.ImagePin != want {
		t.Errorf("installation from the new profile: got image %s, want %s", m.ImagePin, want)
	}
	if got := target.Status.SSHHostKeys; got != nil {
		t.Errorf("got host keys %q of the wiped system, want none", got)
	}
	l.becomesReady("target-1")
	l.waitCondition(target, v1alpha1.ConditionUpToDate, "True", v1alpha1.ReasonUpToDate, "")
	for range 3 {
		l.reconciled(l.server("lab"), target)
	}
	l.checkStarts(target, 2)
}

func TestTargetIsPaused(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	pause := func(value string) {
		update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) {
			bmt.Annotations = map[string]string{v1alpha1.PausedAnnotation: value}
		})
	}
	pause("")
	l.waitCondition(target, v1alpha1.ConditionPaused, "True", v1alpha1.ReasonPaused, v1alpha1.PausedAnnotation)
	l.waitCondition(target, v1alpha1.ConditionProgressing, "False", v1alpha1.ReasonPaused, "the machine is not changed")
	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) {
		bmt.Spec.Power = v1alpha1.PowerOff
		bmt.Spec.InstallGeneration = 2
	})
	l.restart()
	l.waitReadyServer("lab")
	l.reconciled(target)
	target = l.target("target-1")
	l.checkAlive(target, true)
	if got := target.Status.Phase; got != v1alpha1.TargetReady {
		t.Errorf("paused target: got phase %s, want %s", got, v1alpha1.TargetReady)
	}
	if got := target.Status.DiskGeneration; got != 1 {
		t.Errorf("paused target: got disks of generation %d, want 1", got)
	}
	l.must(l.client.Delete(l.ctx, target))
	l.waitCondition(target, v1alpha1.ConditionPaused, "True", v1alpha1.ReasonPaused, "is deleted after that")
	l.reconciled(target)
	l.checkAlive(target, true)
	pause("false")
	l.waitGone(target)
}

func TestServerAndProfileArePaused(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	l.becomesReady("target-1")
	server, profile := l.waitReadyServer("lab"), l.profile("debian")
	paused := map[string]string{v1alpha1.PausedAnnotation: "for maintenance"}
	update(l, profile, func(p *v1alpha1.BootProfile) {
		p.Annotations = paused
		p.Spec.Image.Source.Path = "newer.qcow2"
	})
	l.waitCondition(profile, v1alpha1.ConditionPaused, "True", v1alpha1.ReasonPaused, "")
	if p := l.profile("debian"); p.Status.ObservedGeneration == p.Generation {
		t.Errorf("paused profile: got observed generation %d, want one before generation %d", p.Status.ObservedGeneration, p.Generation)
	}
	update(l, server, func(s *v1alpha1.ProvisioningServer) { s.Annotations = paused })
	l.waitCondition(server, v1alpha1.ConditionPaused, "True", v1alpha1.ReasonPaused, "")
	pushed := l.netbootd("lab").ServerPuts()
	l.create(newTarget("target-2"))
	second := l.target("target-2")
	l.waitCondition(second, v1alpha1.ConditionReady, "False", v1alpha1.ReasonWaitingForProfile, "")
	l.restart()
	l.reconciled(server, second)
	if n := l.netbootd("lab").ServerPuts(); n != pushed {
		t.Errorf("paused server: got %d configurations, want the %d before the pause", n, pushed)
	}
	if n := l.netbootd("lab").MachinePuts(string(second.UID)); n != 0 {
		t.Errorf("paused server: got %d entries of a target, want none", n)
	}
	l.machines.crash(string(server.UID))
	l.waitCondition(server, v1alpha1.ConditionReady, "False", v1alpha1.ReasonPaused, "not started")
	l.reconciled(server)
	l.checkAlive(server, false)
	update(l, l.profile("debian"), func(p *v1alpha1.BootProfile) { p.Annotations = nil })
	update(l, l.server("lab"), func(s *v1alpha1.ProvisioningServer) { s.Annotations = nil })
	l.sleep(time.Minute) // the pause of a machine that died
	l.reconciled(server)
	l.becomesReady("target-2")
	l.eventually(func() string {
		if meta.FindStatusCondition(conditionsOf(l.server("lab")), v1alpha1.ConditionPaused) != nil {
			return "the server reports Paused"
		}
		return ""
	})
}

func TestServerAppliesMachineChangeOnRestart(t *testing.T) {
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
		l.waitCondition(server, v1alpha1.ConditionUpToDate, "False", v1alpha1.ReasonRestartNeeded,
			"kubectl annotate provisioningserver -n "+l.ns+" lab "+v1alpha1.RestartAnnotation)
		update(l, l.server("lab"), func(s *v1alpha1.ProvisioningServer) {
			s.Annotations = map[string]string{v1alpha1.RestartAnnotation: "now"}
		})
		l.eventually(func() string {
			if _, asked := l.server("lab").Annotations[v1alpha1.RestartAnnotation]; asked || l.machines.starts(string(server.UID)) == starts {
				return "the server was not restarted"
			}
			return ""
		})
		l.waitCondition(server, v1alpha1.ConditionUpToDate, "True", v1alpha1.ReasonUpToDate, "")
		l.waitReadyServer("lab")
		l.reconciled(server)
		l.checkStarts(server, starts+1)
	}
	if _, err := os.Stat(old); err == nil {
		t.Errorf("got the disk of the image before, %s, want it removed", old)
	}
	if got := l.target("target-1").Status.Phase; got != v1alpha1.TargetReady {
		t.Errorf("target after its server restarted: got phase %s, want %s", got, v1alpha1.TargetReady)
	}
	l.checkStarts(target, 1)
}

func TestTargetIsForcedOffAfterTimeout(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	l.machines.IgnorePowerButton(string(target.UID))
	update(l, target, func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Power = v1alpha1.PowerOff })
	l.waitPhase("target-1", v1alpha1.TargetStopped)
	l.waitCondition(target, v1alpha1.ConditionMachineRunning, "False", v1alpha1.ReasonStopped, "without a shutdown of its guest")
	l.waitEvents(target, v1alpha1.ReasonForcedOff)
	if got := l.state(target).Exit.Reason; got != machine.ExitStopped {
		t.Errorf("machine that ignores its power button: got exit reason %s, want %s", got, machine.ExitStopped)
	}
}

// A fault of a VM is reported although the image for its next start cannot be fetched.
func TestServerFaultIsReportedWhileFetchFails(t *testing.T) {
	l := up(t)
	server := l.server("lab")
	l.library.fail("newer-server.qcow2", errors.New("the host is unreachable"))
	update(l, l.server("lab"), func(s *v1alpha1.ProvisioningServer) {
		s.Spec.Machine.Image.Path = "newer-server.qcow2"
		s.Annotations = map[string]string{v1alpha1.RestartAnnotation: "now"}
	})
	l.waitCondition(server, v1alpha1.ConditionImageReady, "False", v1alpha1.ReasonArtifactError, "unreachable")
	l.machines.Panic(string(server.UID))
	l.reconciled(server)
	l.sleep(2 * time.Minute)
	l.reconciled(server)
	l.waitCondition(server, v1alpha1.ConditionMachineRunning, "False", v1alpha1.ReasonRestartPending, "the guest's kernel panicked")
	l.eventually(func() string {
		if l.state(server).Phase.Alive() {
			return "the machine that panicked runs"
		}
		return ""
	})
}

// A VM whose netbootd has another API is restarted with the manager's own.
func TestServerReplacesNetbootdOfAnotherVersion(t *testing.T) {
	l := up(t)
	server := l.server("lab")
	identity, err := netbootapi.NewIdentity(l.trust("lab").Current.Server(), l.now)
	l.must(err)
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.TLS = identity.TLS()
	old.StartTLS()
	t.Cleanup(old.Close)
	l.machines.mu.Lock()
	l.machines.outdated = old.Listener.Addr().String()
	l.machines.mu.Unlock()
	l.machines.crash(string(server.UID))
	l.eventually(func() string {
		if n := l.machines.starts(string(server.UID)); n < 3 {
			return fmt.Sprintf("the machine was started %d times, want 3: once more with the manager's netbootd", n)
		}
		return ""
	})
	l.waitReadyServer("lab")
	l.create(newTarget("target-1"))
	l.becomesReady("target-1")
}
