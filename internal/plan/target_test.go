// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

var (
	epoch   = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	running = machine.State{Phase: machine.PhaseRunning, StartedAt: epoch, Accelerator: machine.TCG}
)

// seen returns a machine's state after the first n steps of a network boot.
func seen(n int) *netbootapi.MachineState {
	s := &netbootapi.MachineState{}
	for i, at := range []*time.Time{&s.DiscoverAt, &s.RequestAt, &s.ProgramAt, &s.ScriptAt, &s.KernelAt, &s.InitrdAt} {
		if i < n {
			*at = epoch
		}
	}
	return s
}

func withInstall(i netbootapi.InstallState) *netbootapi.MachineState {
	s := seen(6)
	s.Install = &i
	return s
}

func withSSH(s netbootapi.SSHState) *netbootapi.MachineState {
	m := seen(6)
	m.CloudInitAt = epoch
	m.PhoneHome = &netbootapi.PhoneHome{At: epoch}
	m.SSH = s
	return m
}

// checkMessage asserts that a message contains a text.
func checkMessage(t *testing.T, name, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%s: got message %q, want it to contain %q", name, got, want)
	}
}

func TestTargetSteps(t *testing.T) {
	installed := func(bmt *v1alpha1.BareMetalTarget) { bmt.Status.InstalledGeneration = 1 }
	known := func(bmt *v1alpha1.BareMetalTarget) {
		installed(bmt)
		bmt.Status.SSHHostKeys = []string{"ssh-ed25519 AAAA"}
	}
	off := func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Power = v1alpha1.PowerOff }
	cloudInit := seen(6)
	cloudInit.CloudInitAt = epoch
	on := PowerOnID(epoch)
	for name, c := range map[string]struct {
		edit     func(*v1alpha1.BareMetalTarget)
		machine  machine.State
		seen     *netbootapi.MachineState
		others   bool
		phase    v1alpha1.TargetPhase
		progress string
	}{
		"never started": {
			machine: machine.State{Phase: machine.PhaseNotFound}, phase: v1alpha1.TargetPending,
			progress: "starting the machine",
		},
		"exited": {
			machine: machine.State{Phase: machine.PhaseStopped}, phase: v1alpha1.TargetPending, progress: "starting the machine",
		},
		"off": {
			edit: off, machine: machine.State{Phase: machine.PhaseStopped}, phase: v1alpha1.TargetStopped,
			progress: "powered off",
		},
		"powering off": {edit: off, machine: running, phase: v1alpha1.TargetStopped, progress: "shutting down"},
		"other disks": {
			machine: running, seen: seen(3), others: true, phase: v1alpha1.TargetPending, progress: "waiting to be reinstalled",
		},
		"nothing observed":                 {machine: running, phase: v1alpha1.TargetPXE, progress: "firmware"},
		"nothing observed of this attempt": {machine: running, seen: seen(0), phase: v1alpha1.TargetPXE, progress: "firmware"},
		"discovered":                       {machine: running, seen: seen(1), phase: v1alpha1.TargetPXE, progress: "DHCP"},
		"acknowledged":                     {machine: running, seen: seen(2), phase: v1alpha1.TargetPXE, progress: "TFTP"},
		"has its program":                  {machine: running, seen: seen(3), phase: v1alpha1.TargetPXE, progress: "iPXE"},
		"has its script":                   {machine: running, seen: seen(4), phase: v1alpha1.TargetPXE, progress: "kernel and initrd"},
		"only the script observed": {
			machine: running, seen: &netbootapi.MachineState{DiscoverAt: epoch, RequestAt: epoch, ScriptAt: epoch},
			phase: v1alpha1.TargetPXE, progress: "kernel and initrd",
		},
		"has its kernel": {machine: running, seen: seen(5), phase: v1alpha1.TargetPXE, progress: "kernel and initrd"},
		"has its initrd": {machine: running, seen: seen(6), phase: v1alpha1.TargetPXE, progress: "starting installer"},
		"installer began": {
			machine: running, seen: withInstall(netbootapi.InstallState{Stage: "Start"}), phase: v1alpha1.TargetInstalling,
			progress: "0%",
		},
		"installer is half-way": {
			machine: running, seen: withInstall(netbootapi.InstallState{Stage: "Write", BytesWritten: 5, BytesTotal: 10}),
			phase: v1alpha1.TargetInstalling, progress: "50%",
		},
		"figures out of range": {
			machine: running,
			seen:    withInstall(netbootapi.InstallState{Stage: "Write", BytesWritten: math.MaxInt64, BytesTotal: 1}),
			phase:   v1alpha1.TargetInstalling, progress: "100%",
		},
		"negative figures": {
			machine: running,
			seen:    withInstall(netbootapi.InstallState{Stage: "Write", BytesWritten: math.MinInt64, BytesTotal: 1}),
			phase:   v1alpha1.TargetInstalling, progress: "0%",
		},
		"done and not recorded": {
			machine: running,
			seen:    withInstall(netbootapi.InstallState{Stage: "Done", BytesWritten: 10, BytesTotal: 10, DoneAt: epoch}),
			phase:   v1alpha1.TargetInstalling, progress: "100%",
		},
		"installer failed": {
			machine: running, seen: withInstall(netbootapi.InstallState{Stage: "Write", Error: "no disk"}),
			phase: v1alpha1.TargetFailed,
		},
		"only the installer observed": {
			machine: running, seen: &netbootapi.MachineState{Install: &netbootapi.InstallState{Stage: "Write"}},
			phase: v1alpha1.TargetInstalling, progress: "0%",
		},
		"installed": {
			edit: installed, machine: running, seen: seen(6), phase: v1alpha1.TargetBooting, progress: "boot from disk",
		},
		"installed, nothing seen": {edit: installed, machine: running, phase: v1alpha1.TargetBooting, progress: "boot from disk"},
		"cloud-init began":        {edit: installed, machine: running, seen: cloudInit, phase: v1alpha1.TargetBooting, progress: "cloud-init"},
		"phoned home": {
			edit: installed, machine: running, seen: withSSH(netbootapi.SSHState{}), phase: v1alpha1.TargetBooting,
			progress: "SSH",
		},
		"SSH answers": {
			edit: installed, machine: running, seen: withSSH(netbootapi.SSHState{PowerOn: on, Up: true}),
			phase: v1alpha1.TargetReady,
		},
		"SSH answered before": {
			edit: installed, machine: running,
			seen:  withSSH(netbootapi.SSHState{PowerOn: PowerOnID(epoch.Add(-time.Hour)), Up: true}),
			phase: v1alpha1.TargetBooting, progress: "SSH",
		},
		"SSH went away": {
			edit: known, machine: running, seen: withSSH(netbootapi.SSHState{PowerOn: on}), phase: v1alpha1.TargetBooting,
			progress: "SSH",
		},
		"second boot": {edit: known, machine: running, seen: seen(0), phase: v1alpha1.TargetBooting, progress: "SSH"},
		"second boot, SSH answers": {
			edit: known, machine: running, seen: &netbootapi.MachineState{SSH: netbootapi.SSHState{PowerOn: on, Up: true}},
			phase: v1alpha1.TargetReady,
		},
		"installed, its QEMU is off": {
			edit: known, machine: machine.State{Phase: machine.PhaseStopped}, phase: v1alpha1.TargetPending,
			progress: "starting the machine",
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := target("a")
			if c.edit != nil {
				c.edit(o)
			}
			out := TargetStatus(o, TargetObservation{
				Machine: c.machine, Seen: c.seen, OtherDisks: c.others, PowerOn: on, AgentConnected: true, StepSince: epoch,
				Now: epoch,
			})
			if out.Phase != c.phase {
				t.Errorf("got phase %s, want %s", out.Phase, c.phase)
			}
			if out.Progress != c.progress {
				t.Errorf("got progress %q, want %q", out.Progress, c.progress)
			}
			if out.Reason == "" {
				t.Error("got no reason for the phase, want one")
			}
			if want := c.phase == v1alpha1.TargetFailed; out.Stalled != want {
				t.Errorf("phase %s: got stalled %t, want %t", out.Phase, out.Stalled, want)
			}
		})
	}
}

func TestTargetStalls(t *testing.T) {
	installed := func(bmt *v1alpha1.BareMetalTarget) { bmt.Status.InstalledGeneration = 1 }
	cloudInit := seen(6)
	cloudInit.CloudInitAt = epoch
	for name, c := range map[string]struct {
		edit    func(*v1alpha1.BareMetalTarget)
		machine machine.State
		seen    *netbootapi.MachineState
		limit   time.Duration
		reason  string
		message string
	}{
		"start": {
			machine: machine.State{Phase: machine.PhaseNotFound}, limit: 2 * time.Minute, reason: v1alpha1.ReasonStarting,
			message: "qemu.log",
		},
		"firmware": {machine: running, limit: 3 * time.Minute, reason: v1alpha1.ReasonNoDiscover, message: "no DHCP DISCOVER"},
		"DHCP":     {machine: running, seen: seen(1), limit: 2 * time.Minute, reason: v1alpha1.ReasonNoRequest, message: "another DHCP server"},
		"TFTP": {
			machine: running, seen: seen(2), limit: 3 * time.Minute, reason: v1alpha1.ReasonBootProgramNotFetched,
			message: "boot program",
		},
		"iPXE": {machine: running, seen: seen(3), limit: 3 * time.Minute, reason: v1alpha1.ReasonScriptNotFetched, message: "script"},
		"kernel": {
			machine: running, seen: seen(4), limit: 5 * time.Minute, reason: v1alpha1.ReasonScriptNotFetched,
			message: "kernel and initrd",
		},
		"installer": {
			machine: running, seen: seen(6), limit: 5 * time.Minute, reason: v1alpha1.ReasonInstallerNotStarted,
			message: "kernel panic",
		},
		"writing": {
			machine: running, seen: withInstall(netbootapi.InstallState{Stage: "Write"}), limit: 5 * time.Minute,
			reason: v1alpha1.ReasonInstallerSilent, message: "no progress",
		},
		"disk": {
			edit: installed, machine: running, seen: seen(6), limit: 10 * time.Minute, reason: v1alpha1.ReasonNoPhoneHome,
			message: "cloud-init data",
		},
		"cloudinit": {
			edit: installed, machine: running, seen: cloudInit, limit: 10 * time.Minute, reason: v1alpha1.ReasonNoPhoneHome,
			message: "did not finish",
		},
		"SSH": {
			edit: installed, machine: running, seen: withSSH(netbootapi.SSHState{}), limit: 5 * time.Minute,
			reason: v1alpha1.ReasonNoSSH, message: "SSH port",
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := target("a")
			if c.edit != nil {
				c.edit(o)
			}
			at := func(waited time.Duration) TargetOutcome {
				return TargetStatus(o, TargetObservation{
					Machine: c.machine, Seen: c.seen, AgentConnected: true, StepSince: epoch, Now: epoch.Add(waited),
				})
			}
			early := at(c.limit - time.Second)
			if early.Stalled {
				t.Errorf("a second before its limit: got %+v, want no stall", early)
			}
			if early.Recheck != time.Second {
				t.Errorf("a second before its limit: got recheck in %s, want %s", early.Recheck, time.Second)
			}
			out := at(c.limit)
			if !out.Stalled {
				t.Errorf("at its limit: got no stall, want one: %+v", out)
			}
			if out.Reason != c.reason {
				t.Errorf("at its limit: got reason %s, want %s", out.Reason, c.reason)
			}
			checkMessage(t, "at its limit", out.Message, c.message)
			if c.seen != nil {
				warned := *c.seen
				warned.Warnings = []netbootapi.Warning{{Reason: "Old", Message: "old"}, {Reason: "TFTPAborted", Message: "user stopped"}}
				c.seen = &warned
				if out := at(c.limit); !strings.Contains(out.Message, "last warning: TFTPAborted: user stopped") {
					t.Errorf("got message %q, want the last warning in it", out.Message)
				}
			}
		})
	}
	// A powered-off target has no time limit.
	o := target("a")
	o.Spec.Power = v1alpha1.PowerOff
	out := TargetStatus(o, TargetObservation{
		Machine: machine.State{Phase: machine.PhaseStopped}, StepSince: epoch, Now: epoch.Add(1000 * time.Hour),
	})
	if out.Stalled {
		t.Errorf("powered off for long: got %+v, want no stall", out)
	}
	if out.Recheck != 0 {
		t.Errorf("powered off for long: got recheck in %s, want none", out.Recheck)
	}
}

func TestTargetMessages(t *testing.T) {
	o := target("a")
	waiting := Blocker{Reason: v1alpha1.ReasonWaitingForServer, Message: "server lab is not ready"}
	refused := Blocker{Reason: v1alpha1.ReasonAddressConflict, Message: "give one another", Terminal: true}
	stopped := machine.State{Phase: machine.PhaseStopped}
	panicked := running
	panicked.GuestPanicked = true
	for name, c := range map[string]struct {
		o       TargetObservation
		phase   v1alpha1.TargetPhase
		stalled bool
		reason  string
		message string
	}{
		"blocked": {
			TargetObservation{Blocker: waiting, Machine: stopped}, v1alpha1.TargetPending, false,
			v1alpha1.ReasonWaitingForServer, "server lab is not ready",
		},
		"refused": {
			TargetObservation{Blocker: refused, Machine: stopped}, v1alpha1.TargetFailed, true, v1alpha1.ReasonAddressConflict,
			"give one another",
		},
		"refused while it runs": {
			TargetObservation{Blocker: refused, Machine: running, Seen: seen(2), AgentConnected: true}, v1alpha1.TargetPXE,
			false, v1alpha1.ReasonNetworkBoot, "TFTP",
		},
		"panicked": {
			TargetObservation{Machine: panicked, Seen: seen(6), AgentConnected: true}, v1alpha1.TargetPXE, true,
			v1alpha1.ReasonGuestPanicked, "kernel panicked",
		},
		"panicked while it installs": {
			TargetObservation{Machine: panicked, Seen: withInstall(netbootapi.InstallState{Stage: "Write"}), AgentConnected: true},
			v1alpha1.TargetInstalling, true, v1alpha1.ReasonGuestPanicked, "kernel panicked",
		},
		"server disconnected": {
			TargetObservation{Machine: running, Seen: seen(2)}, v1alpha1.TargetPXE, false, v1alpha1.ReasonNetworkBoot,
			"TFTP; the provisioning server does not respond",
		},
		"a step failed": {
			TargetObservation{Machine: running, Seen: seen(2), AgentConnected: true, Failure: errors.New("no space")},
			v1alpha1.TargetPXE, true, v1alpha1.ReasonFailed, "no space",
		},
		"a step failed while blocked": {
			TargetObservation{Blocker: waiting, Machine: stopped, Failure: errors.New("no space")}, v1alpha1.TargetPending, true,
			v1alpha1.ReasonFailed, "no space",
		},
		"error of the installer": {
			TargetObservation{Machine: running, Seen: withInstall(netbootapi.InstallState{Error: "no disk"}), AgentConnected: true},
			v1alpha1.TargetFailed, true, v1alpha1.ReasonInstallerError, "the installer failed: no disk",
		},
		"stage of the installer": {
			TargetObservation{Machine: running, Seen: withInstall(netbootapi.InstallState{Stage: "Verify"}), AgentConnected: true},
			v1alpha1.TargetInstalling, false, v1alpha1.ReasonInstalling, "installer: verify",
		},
		"installer that waits": {
			TargetObservation{
				Machine: running, AgentConnected: true,
				Seen: withInstall(netbootapi.InstallState{Stage: "Start", Waiting: "waiting for slow disk controllers"}),
			},
			v1alpha1.TargetInstalling, false, v1alpha1.ReasonInstalling, "installer: start: waiting for slow disk controllers",
		},
	} {
		out := TargetStatus(o, c.o)
		if out.Phase != c.phase {
			t.Errorf("%s: got phase %s, want %s", name, out.Phase, c.phase)
		}
		if out.Stalled != c.stalled {
			t.Errorf("%s: got stalled %t, want %t", name, out.Stalled, c.stalled)
		}
		if out.Reason != c.reason {
			t.Errorf("%s: got reason %s, want %s", name, out.Reason, c.reason)
		}
		checkMessage(t, name, out.Message, c.message)
	}
}

// TestTargetKeepsPhaseUntilObserved starts the manager again while the server does not
// respond: a target keeps the phase of its power-on.
func TestTargetKeepsPhaseUntilObserved(t *testing.T) {
	o := target("a")
	o.Status.Phase = v1alpha1.TargetInstalling
	o.Status.Progress = "37%"
	o.Status.Message = "installer: write"
	o.Status.Install = &v1alpha1.InstallProgress{Percent: 37}
	o.Status.Timeline = []v1alpha1.PhaseRecord{
		{Phase: v1alpha1.TargetPXE, StartedAt: microTime(epoch)},
		{Phase: v1alpha1.TargetInstalling, StartedAt: microTime(epoch.Add(20 * time.Second))},
	}
	observation := TargetObservation{Machine: running, Now: epoch.Add(time.Minute), StepSince: epoch.Add(time.Minute)}
	out := TargetStatus(o, observation)
	want := TargetOutcome{
		Phase: v1alpha1.TargetInstalling, Progress: "37%", Install: &v1alpha1.InstallProgress{Percent: 37}, Unobserved: true,
		Reason: v1alpha1.ReasonNotYetObserved, Message: "not observed: the provisioning server does not respond",
	}
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("outcome (-want +got):\n%s", diff)
	}
	for name, edit := range map[string]func(*v1alpha1.BareMetalTarget, *TargetObservation){
		"server connected":   func(_ *v1alpha1.BareMetalTarget, o *TargetObservation) { o.AgentConnected = true },
		"observed":           func(_ *v1alpha1.BareMetalTarget, o *TargetObservation) { o.Seen = seen(2) },
		"started since":      func(_ *v1alpha1.BareMetalTarget, o *TargetObservation) { o.Machine.StartedAt = epoch.Add(time.Minute) },
		"not running":        func(_ *v1alpha1.BareMetalTarget, o *TargetObservation) { o.Machine.Phase = machine.PhaseStopped },
		"power off declared": func(bmt *v1alpha1.BareMetalTarget, _ *TargetObservation) { bmt.Spec.Power = v1alpha1.PowerOff },
		"other disks":        func(_ *v1alpha1.BareMetalTarget, o *TargetObservation) { o.OtherDisks = true },
		"pending until now":  func(bmt *v1alpha1.BareMetalTarget, _ *TargetObservation) { bmt.Status.Phase = v1alpha1.TargetPending },
		"empty timeline":     func(bmt *v1alpha1.BareMetalTarget, _ *TargetObservation) { bmt.Status.Timeline = nil },
	} {
		other, at := o.DeepCopy(), observation
		edit(other, &at)
		if out := TargetStatus(other, at); out.Phase == v1alpha1.TargetInstalling || out.Unobserved {
			t.Errorf("%s: got the old phase %s, unobserved %t, want another one", name, out.Phase, out.Unobserved)
		}
	}
	// A power-on has nanoseconds, a record microseconds.
	o.Status.Phase = v1alpha1.TargetPXE
	o.Status.Timeline = Timeline(nil, v1alpha1.TargetPXE, epoch.Add(999))
	observation.Machine.StartedAt = epoch.Add(999)
	o.Status.Progress = "iPXE"
	if out := TargetStatus(o, observation); out.Progress != "iPXE" {
		t.Errorf("got %+v, want the progress iPXE of the same power-on", out)
	}
}

func TestTargetConditions(t *testing.T) {
	type row struct{ status, reason string }
	for name, c := range map[string]struct {
		edit func(*v1alpha1.BareMetalTarget)
		o    TargetObservation
		want map[string]row
	}{
		"booting from the network": {nil, TargetObservation{Machine: running, Seen: seen(2), AgentConnected: true}, map[string]row{
			"Valid": {"True", "Valid"}, "MachineRunning": {"True", "Running"}, "Installed": {"False", "NotInstalled"},
			"Progressing": {"True", "NetworkBoot"}, "Ready": {"False", "NetworkBoot"},
		}},
		"ready": {func(bmt *v1alpha1.BareMetalTarget) { bmt.Status.InstalledGeneration = 1 },
			TargetObservation{
				Machine: running, PowerOn: PowerOnID(epoch),
				Seen: withSSH(netbootapi.SSHState{PowerOn: PowerOnID(epoch), Up: true}), AgentConnected: true,
			}, map[string]row{
				"Valid": {"True", "Valid"}, "MachineRunning": {"True", "Running"}, "Installed": {"True", "Installed"},
				"Progressing": {"True", "Ready"}, "Ready": {"True", "Ready"},
			}},
		"refused": {nil, TargetObservation{
			Blocker: Blocker{Reason: "AddressConflict", Message: "x", Terminal: true},
			Machine: machine.State{Phase: machine.PhaseNotFound},
		}, map[string]row{
			"Valid": {"False", "AddressConflict"}, "MachineRunning": {"False", "Starting"}, "Installed": {"False", "NotInstalled"},
			"Progressing": {"False", "AddressConflict"}, "Ready": {"False", "AddressConflict"},
		}},
		"a reference is missing": {nil, TargetObservation{
			Blocker: Blocker{Reason: "ReferenceNotFound", Message: "x"}, Machine: machine.State{Phase: machine.PhaseNotFound},
		}, map[string]row{
			"Valid": {"False", "ReferenceNotFound"}, "MachineRunning": {"False", "Starting"}, "Installed": {"False", "NotInstalled"},
			"Progressing": {"True", "ReferenceNotFound"}, "Ready": {"False", "ReferenceNotFound"},
		}},
		"waits": {nil, TargetObservation{
			Blocker: Blocker{Reason: "WaitingForServer", Message: "x"}, Machine: machine.State{Phase: machine.PhaseStopped},
		}, map[string]row{
			"Valid": {"True", "Valid"}, "MachineRunning": {"False", "Stopped"}, "Installed": {"False", "NotInstalled"},
			"Progressing": {"True", "WaitingForServer"}, "Ready": {"False", "WaitingForServer"},
		}},
		"ready, and does not fit its profile": {func(bmt *v1alpha1.BareMetalTarget) { bmt.Status.InstalledGeneration = 1 },
			TargetObservation{
				Unfit: Blocker{Reason: "BadTemplate", Message: "x"}, Machine: running, PowerOn: PowerOnID(epoch),
				Seen: withSSH(netbootapi.SSHState{PowerOn: PowerOnID(epoch), Up: true}), AgentConnected: true,
			}, map[string]row{
				"Valid": {"False", "BadTemplate"}, "MachineRunning": {"True", "Running"}, "Installed": {"True", "Installed"},
				"Progressing": {"True", "Ready"}, "Ready": {"True", "Ready"},
			}},
	} {
		t.Run(name, func(t *testing.T) {
			o := target("a")
			if c.edit != nil {
				c.edit(o)
			}
			c.want["UpToDate"] = row{"Unknown", "NotInstalled"} // see TestUpToDate
			got := map[string]row{}
			for _, condition := range TargetConditions(o, c.o, TargetStatus(o, c.o)) {
				got[condition.Type] = row{string(condition.Status), condition.Reason}
				if condition.Message == "" {
					t.Errorf("condition %s: got no message, want one", condition.Type)
				}
			}
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(row{})); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
}

// What the installer could not do stays in the condition, also while nothing is observed.
func TestInstalledConditionHasWarnings(t *testing.T) {
	o := target("a")
	o.Status.InstalledGeneration = 1
	record := targetdisk.Record{Attempt: first(1), Installed: true, Warnings: []string{"the root was not grown", "no cloud-init"}}
	for _, observed := range []*netbootapi.MachineState{nil, seen(6)} {
		in := TargetObservation{Machine: running, Record: record, Seen: observed, AgentConnected: observed != nil}
		for _, c := range TargetConditions(o, in, TargetStatus(o, in)) {
			if c.Type != v1alpha1.ConditionInstalled {
				continue
			}
			if c.Status != metav1.ConditionTrue || c.Reason != v1alpha1.ReasonInstalledWithWarnings {
				t.Errorf("got condition %+v, want status True with reason %s", c, v1alpha1.ReasonInstalledWithWarnings)
			}
			checkMessage(t, c.Type, c.Message, "generation 1; the root was not grown; no cloud-init")
		}
	}
}

func TestTimeline(t *testing.T) {
	at := func(s float64) time.Time { return epoch.Add(time.Duration(s * float64(time.Second))) }
	records := Timeline(nil, v1alpha1.TargetPending, at(0))
	before := records
	for _, step := range []struct {
		phase v1alpha1.TargetPhase
		at    float64
	}{
		{v1alpha1.TargetPending, 1}, {v1alpha1.TargetPXE, 2.04}, {v1alpha1.TargetPXE, 3}, {v1alpha1.TargetInstalling, 30},
		{v1alpha1.TargetBooting, 25},
	} {
		records = Timeline(records, step.phase, at(step.at))
	}
	want := []v1alpha1.PhaseRecord{
		{Phase: v1alpha1.TargetPending, StartedAt: metav1.NewMicroTime(at(0)), Seconds: "2.0"},
		{Phase: v1alpha1.TargetPXE, StartedAt: metav1.NewMicroTime(at(2.04)), Seconds: "28.0"},
		{Phase: v1alpha1.TargetInstalling, StartedAt: metav1.NewMicroTime(at(30)), Seconds: "0.0"},
		// A clock that is set back must not result in a negative duration.
		{Phase: v1alpha1.TargetBooting, StartedAt: metav1.NewMicroTime(at(30))},
	}
	if diff := cmp.Diff(want, records); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	if got := before[0].Seconds; got != "" {
		t.Errorf("argument of Timeline: got seconds %q, want it unchanged", got)
	}
	for i := range 100 {
		records = Timeline(records, []v1alpha1.TargetPhase{v1alpha1.TargetReady, v1alpha1.TargetBooting}[i%2], at(float64(40+i)))
	}
	if len(records) != maxTimeline {
		t.Fatalf("got %d records, want %d", len(records), maxTimeline)
	}
	if got := records[maxTimeline-1].Phase; got != v1alpha1.TargetBooting {
		t.Errorf("last record: got phase %s, want %s", got, v1alpha1.TargetBooting)
	}
}

func TestPhaseStart(t *testing.T) {
	pending := []v1alpha1.PhaseRecord{{Phase: v1alpha1.TargetPending, StartedAt: microTime(epoch)}}
	ready := []v1alpha1.PhaseRecord{{Phase: v1alpha1.TargetReady, StartedAt: microTime(epoch)}}
	on, now := epoch.Add(time.Minute), epoch.Add(time.Hour)
	for name, c := range map[string]struct {
		phase   v1alpha1.TargetPhase
		records []v1alpha1.PhaseRecord
		powerOn time.Time
		want    time.Time
	}{
		"a network boot began with the power-on": {v1alpha1.TargetPXE, pending, on, on},
		"a boot from disk, too":                  {v1alpha1.TargetBooting, pending, on, on},
		"an installation began when it was seen": {v1alpha1.TargetInstalling, pending, on, now},
		"the power-on was long before":           {v1alpha1.TargetPXE, pending, epoch.Add(-time.Hour), now},
		"the power-on is to come":                {v1alpha1.TargetPXE, pending, now.Add(time.Hour), now},
		"not running":                            {v1alpha1.TargetPXE, pending, time.Time{}, now},
		"nothing was recorded":                   {v1alpha1.TargetPXE, nil, on, now},
		"a reboot of a system that was Ready":    {v1alpha1.TargetBooting, ready, on, now},
	} {
		if got := PhaseStart(c.phase, c.records, c.powerOn, now); !got.Equal(c.want) {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}
