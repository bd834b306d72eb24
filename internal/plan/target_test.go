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
	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/qemu"
)

var (
	epoch   = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	running = qemu.State{Phase: qemu.PhaseRunning, StartedAt: epoch, Accelerator: qemu.TCG}
)

// seen is a machine's state after the first n steps of a network boot.
func seen(n int) *agent.MachineState {
	s := &agent.MachineState{}
	for i, at := range []*time.Time{&s.DiscoverAt, &s.RequestAt, &s.ProgramAt, &s.ScriptAt, &s.KernelAt, &s.InitrdAt} {
		if i < n {
			*at = epoch
		}
	}
	return s
}

func withInstall(i agent.InstallState) *agent.MachineState {
	s := seen(6)
	s.Install = &i
	return s
}

func withSSH(s agent.SSHState) *agent.MachineState {
	m := seen(6)
	m.CloudInitAt, m.PhoneHome, m.SSH = epoch, &agent.PhoneHome{At: epoch}, s
	return m
}

func TestTargetSteps(t *testing.T) {
	installed := func(t *v1alpha1.BareMetalTarget) { t.Status.InstalledGeneration = 1 }
	known := func(t *v1alpha1.BareMetalTarget) {
		installed(t)
		t.Status.SSHHostKeys = []string{"ssh-ed25519 AAAA"}
	}
	off := func(t *v1alpha1.BareMetalTarget) { t.Spec.Power = v1alpha1.PowerOff }
	cloudInit := seen(6)
	cloudInit.CloudInitAt = epoch
	on := PowerOn(epoch)
	for name, c := range map[string]struct {
		edit     func(*v1alpha1.BareMetalTarget)
		machine  qemu.State
		seen     *agent.MachineState
		others   bool
		phase    v1alpha1.TargetPhase
		progress string
	}{
		"never started":              {machine: qemu.State{Phase: qemu.PhaseNotFound}, phase: v1alpha1.TargetPending, progress: "starting the machine"},
		"exited":                     {machine: qemu.State{Phase: qemu.PhaseStopped}, phase: v1alpha1.TargetPending, progress: "starting the machine"},
		"off":                        {edit: off, machine: qemu.State{Phase: qemu.PhaseStopped}, phase: v1alpha1.TargetStopped, progress: "powered off"},
		"going off":                  {edit: off, machine: running, phase: v1alpha1.TargetStopped, progress: "shutting down"},
		"on disks of another":        {machine: running, seen: seen(3), others: true, phase: v1alpha1.TargetPending, progress: "waits to be installed anew"},
		"nothing seen":               {machine: running, phase: v1alpha1.TargetPXE, progress: "firmware"},
		"nothing of this attempt":    {machine: running, seen: seen(0), phase: v1alpha1.TargetPXE, progress: "firmware"},
		"discovered":                 {machine: running, seen: seen(1), phase: v1alpha1.TargetPXE, progress: "DHCP"},
		"acknowledged":               {machine: running, seen: seen(2), phase: v1alpha1.TargetPXE, progress: "TFTP"},
		"has its program":            {machine: running, seen: seen(3), phase: v1alpha1.TargetPXE, progress: "iPXE"},
		"has its script":             {machine: running, seen: seen(4), phase: v1alpha1.TargetPXE, progress: "kernel and initrd"},
		"its script alone was seen":  {machine: running, seen: &agent.MachineState{DiscoverAt: epoch, RequestAt: epoch, ScriptAt: epoch}, phase: v1alpha1.TargetPXE, progress: "kernel and initrd"},
		"has its kernel":             {machine: running, seen: seen(5), phase: v1alpha1.TargetPXE, progress: "kernel and initrd"},
		"has its initrd":             {machine: running, seen: seen(6), phase: v1alpha1.TargetPXE, progress: "installer starts"},
		"installer began":            {machine: running, seen: withInstall(agent.InstallState{Stage: "Start"}), phase: v1alpha1.TargetInstalling, progress: "0%"},
		"installer is half-way":      {machine: running, seen: withInstall(agent.InstallState{Stage: "Write", BytesWritten: 5, BytesTotal: 10}), phase: v1alpha1.TargetInstalling, progress: "50%"},
		"its figures are nonsense":   {machine: running, seen: withInstall(agent.InstallState{Stage: "Write", BytesWritten: math.MaxInt64, BytesTotal: 1}), phase: v1alpha1.TargetInstalling, progress: "100%"},
		"its figures are negative":   {machine: running, seen: withInstall(agent.InstallState{Stage: "Write", BytesWritten: math.MinInt64, BytesTotal: 1}), phase: v1alpha1.TargetInstalling, progress: "0%"},
		"done and not recorded":      {machine: running, seen: withInstall(agent.InstallState{Stage: "Done", BytesWritten: 10, BytesTotal: 10, DoneAt: epoch}), phase: v1alpha1.TargetInstalling, progress: "100%"},
		"installer failed":           {machine: running, seen: withInstall(agent.InstallState{Stage: "Write", Error: "no disk"}), phase: v1alpha1.TargetFailed},
		"installer alone was seen":   {machine: running, seen: &agent.MachineState{Install: &agent.InstallState{Stage: "Write"}}, phase: v1alpha1.TargetInstalling, progress: "0%"},
		"installed":                  {edit: installed, machine: running, seen: seen(6), phase: v1alpha1.TargetBooting, progress: "boot from disk"},
		"installed, nothing seen":    {edit: installed, machine: running, phase: v1alpha1.TargetBooting, progress: "boot from disk"},
		"cloud-init began":           {edit: installed, machine: running, seen: cloudInit, phase: v1alpha1.TargetBooting, progress: "cloud-init"},
		"phoned home":                {edit: installed, machine: running, seen: withSSH(agent.SSHState{}), phase: v1alpha1.TargetBooting, progress: "SSH"},
		"SSH answers":                {edit: installed, machine: running, seen: withSSH(agent.SSHState{PowerOn: on, Up: true}), phase: v1alpha1.TargetReady},
		"SSH answered before":        {edit: installed, machine: running, seen: withSSH(agent.SSHState{PowerOn: PowerOn(epoch.Add(-time.Hour)), Up: true}), phase: v1alpha1.TargetBooting, progress: "SSH"},
		"SSH went away":              {edit: known, machine: running, seen: withSSH(agent.SSHState{PowerOn: on}), phase: v1alpha1.TargetBooting, progress: "SSH"},
		"second boot":                {edit: known, machine: running, seen: seen(0), phase: v1alpha1.TargetBooting, progress: "SSH"},
		"second boot, SSH answers":   {edit: known, machine: running, seen: &agent.MachineState{SSH: agent.SSHState{PowerOn: on, Up: true}}, phase: v1alpha1.TargetReady},
		"installed, its QEMU is off": {edit: known, machine: qemu.State{Phase: qemu.PhaseStopped}, phase: v1alpha1.TargetPending, progress: "starting the machine"},
	} {
		t.Run(name, func(t *testing.T) {
			o := target("a")
			if c.edit != nil {
				c.edit(o)
			}
			out := Target(o, TargetObservation{Machine: c.machine, Seen: c.seen, OtherDisks: c.others, PowerOn: on, AgentConnected: true, StepSince: epoch, Now: epoch})
			if out.Phase != c.phase || out.Progress != c.progress {
				t.Errorf("got %s %q, want %s %q", out.Phase, out.Progress, c.phase, c.progress)
			}
			if out.Reason == "" {
				t.Error("the phase has no reason")
			}
			if out.Stalled != (c.phase == v1alpha1.TargetFailed) {
				t.Errorf("stalled: %+v", out)
			}
		})
	}
}

func TestATargetThatDoesNotMoveSaysWhereAndWhy(t *testing.T) {
	installed := func(t *v1alpha1.BareMetalTarget) { t.Status.InstalledGeneration = 1 }
	cloudInit := seen(6)
	cloudInit.CloudInitAt = epoch
	for name, c := range map[string]struct {
		edit    func(*v1alpha1.BareMetalTarget)
		machine qemu.State
		seen    *agent.MachineState
		limit   time.Duration
		reason  string
		message string
	}{
		"start":     {machine: qemu.State{Phase: qemu.PhaseNotFound}, limit: 2 * time.Minute, reason: v1alpha1.ReasonStarting, message: "qemu.log"},
		"firmware":  {machine: running, limit: 3 * time.Minute, reason: v1alpha1.ReasonNoDiscover, message: "no DHCP DISCOVER"},
		"DHCP":      {machine: running, seen: seen(1), limit: 2 * time.Minute, reason: v1alpha1.ReasonNoRequest, message: "another DHCP server"},
		"TFTP":      {machine: running, seen: seen(2), limit: 3 * time.Minute, reason: v1alpha1.ReasonBootProgram, message: "boot program"},
		"iPXE":      {machine: running, seen: seen(3), limit: 3 * time.Minute, reason: v1alpha1.ReasonNoScript, message: "script"},
		"kernel":    {machine: running, seen: seen(4), limit: 5 * time.Minute, reason: v1alpha1.ReasonNoScript, message: "kernel and initrd"},
		"installer": {machine: running, seen: seen(6), limit: 5 * time.Minute, reason: v1alpha1.ReasonNoInstaller, message: "kernel panic"},
		"writing":   {machine: running, seen: withInstall(agent.InstallState{Stage: "Write"}), limit: 5 * time.Minute, reason: v1alpha1.ReasonInstallerSilent, message: "no progress"},
		"disk":      {edit: installed, machine: running, seen: seen(6), limit: 10 * time.Minute, reason: v1alpha1.ReasonNoPhoneHome, message: "cloud-init data"},
		"cloudinit": {edit: installed, machine: running, seen: cloudInit, limit: 10 * time.Minute, reason: v1alpha1.ReasonNoPhoneHome, message: "did not finish"},
		"SSH":       {edit: installed, machine: running, seen: withSSH(agent.SSHState{}), limit: 5 * time.Minute, reason: v1alpha1.ReasonNoSSH, message: "SSH port"},
	} {
		t.Run(name, func(t *testing.T) {
			o := target("a")
			if c.edit != nil {
				c.edit(o)
			}
			at := func(waited time.Duration) TargetOutcome {
				return Target(o, TargetObservation{Machine: c.machine, Seen: c.seen, AgentConnected: true, StepSince: epoch, Now: epoch.Add(waited)})
			}
			if out := at(c.limit - time.Second); out.Stalled || out.Recheck != time.Second {
				t.Errorf("a second before its limit: %+v", out)
			}
			out := at(c.limit)
			if !out.Stalled || out.Reason != c.reason || !strings.Contains(out.Message, c.message) {
				t.Errorf("at its limit: %+v", out)
			}
			if c.seen != nil {
				warned := *c.seen
				warned.Warnings = []agent.Warning{{Reason: "Old", Message: "old"}, {Reason: "TFTPAborted", Message: "user stopped"}}
				c.seen = &warned
				if out := at(c.limit); !strings.Contains(out.Message, "last warning: TFTPAborted: user stopped") {
					t.Errorf("the warning is not told: %s", out.Message)
				}
			}
		})
	}
	// Ready and Stopped wait for nothing.
	o := target("a")
	o.Spec.Power = v1alpha1.PowerOff
	if out := Target(o, TargetObservation{Machine: qemu.State{Phase: qemu.PhaseStopped}, StepSince: epoch, Now: epoch.Add(1000 * time.Hour)}); out.Stalled || out.Recheck != 0 {
		t.Errorf("powered off for long: %+v", out)
	}
}

func TestWhatElseATargetSays(t *testing.T) {
	o := target("a")
	waiting := Blocker{Reason: v1alpha1.ReasonWaitingForServer, Message: "server lab is not ready"}
	refused := Blocker{Reason: v1alpha1.ReasonAddressConflict, Message: "give one another", Terminal: true}
	stopped := qemu.State{Phase: qemu.PhaseStopped}
	panicked := running
	panicked.GuestPanicked = true
	for name, c := range map[string]struct {
		o       TargetObservation
		phase   v1alpha1.TargetPhase
		stalled bool
		reason  string
		message string
	}{
		"blocked":                       {TargetObservation{Blocker: waiting, Machine: stopped}, v1alpha1.TargetPending, false, v1alpha1.ReasonWaitingForServer, "server lab is not ready"},
		"refused":                       {TargetObservation{Blocker: refused, Machine: stopped}, v1alpha1.TargetFailed, true, v1alpha1.ReasonAddressConflict, "give one another"},
		"refused while it runs":         {TargetObservation{Blocker: refused, Machine: running, Seen: seen(2), AgentConnected: true}, v1alpha1.TargetPXE, false, v1alpha1.ReasonNetworkBoot, "TFTP"},
		"panicked":                      {TargetObservation{Machine: panicked, Seen: seen(6), AgentConnected: true}, v1alpha1.TargetPXE, true, v1alpha1.ReasonGuestPanicked, "kernel panicked"},
		"panicked while it installs":    {TargetObservation{Machine: panicked, Seen: withInstall(agent.InstallState{Stage: "Write"}), AgentConnected: true}, v1alpha1.TargetInstalling, true, v1alpha1.ReasonGuestPanicked, "kernel panicked"},
		"its server is away":            {TargetObservation{Machine: running, Seen: seen(2)}, v1alpha1.TargetPXE, false, v1alpha1.ReasonNetworkBoot, "TFTP; the provisioning server does not answer"},
		"a step failed":                 {TargetObservation{Machine: running, Seen: seen(2), AgentConnected: true, Failure: errors.New("no space")}, v1alpha1.TargetPXE, true, v1alpha1.ReasonFailed, "no space"},
		"a step failed, and it waits":   {TargetObservation{Blocker: waiting, Machine: stopped, Failure: errors.New("no space")}, v1alpha1.TargetPending, true, v1alpha1.ReasonFailed, "no space"},
		"the installer's error":         {TargetObservation{Machine: running, Seen: withInstall(agent.InstallState{Error: "no disk"}), AgentConnected: true}, v1alpha1.TargetFailed, true, v1alpha1.ReasonInstallerError, "the installer failed: no disk"},
		"the installer tells its stage": {TargetObservation{Machine: running, Seen: withInstall(agent.InstallState{Stage: "Verify"}), AgentConnected: true}, v1alpha1.TargetInstalling, false, v1alpha1.ReasonInstalling, "installer: verify"},
	} {
		out := Target(o, c.o)
		if out.Phase != c.phase || out.Stalled != c.stalled || out.Reason != c.reason || !strings.Contains(out.Message, c.message) {
			t.Errorf("%s: got %+v", name, out)
		}
	}
}

// After a manager's restart a target is what it was until its server is heard.
func TestWhatIsNotKnownStays(t *testing.T) {
	o := target("a")
	o.Status.Phase, o.Status.Progress, o.Status.Message = v1alpha1.TargetInstalling, "37%", "installer: write"
	o.Status.Install = &v1alpha1.InstallProgress{Percent: 37}
	o.Status.Timeline = []v1alpha1.PhaseRecord{{Phase: v1alpha1.TargetPXE, StartedAt: microTime(epoch)}, {Phase: v1alpha1.TargetInstalling, StartedAt: microTime(epoch.Add(20 * time.Second))}}
	observation := TargetObservation{Machine: running, Now: epoch.Add(time.Minute), StepSince: epoch.Add(time.Minute)}
	for range 3 { // a message does not grow
		out := Target(o, observation)
		if out.Phase != v1alpha1.TargetInstalling || out.Progress != "37%" || out.Message != "installer: write; "+outOfDate || out.Install.Percent != 37 || out.Stalled {
			t.Errorf("got %+v", out)
		}
		o.Status.Message = out.Message
	}
	for name, edit := range map[string]func(*v1alpha1.BareMetalTarget, *TargetObservation){
		"its server was heard":        func(_ *v1alpha1.BareMetalTarget, o *TargetObservation) { o.AgentConnected = true },
		"it was seen":                 func(_ *v1alpha1.BareMetalTarget, o *TargetObservation) { o.Seen = seen(2) },
		"it was started since":        func(_ *v1alpha1.BareMetalTarget, o *TargetObservation) { o.Machine.StartedAt = epoch.Add(time.Minute) },
		"it does not run":             func(_ *v1alpha1.BareMetalTarget, o *TargetObservation) { o.Machine.Phase = qemu.PhaseStopped },
		"it is to be off":             func(t *v1alpha1.BareMetalTarget, _ *TargetObservation) { t.Spec.Power = v1alpha1.PowerOff },
		"its disks are of another":    func(_ *v1alpha1.BareMetalTarget, o *TargetObservation) { o.OtherDisks = true },
		"it was waiting until now":    func(t *v1alpha1.BareMetalTarget, _ *TargetObservation) { t.Status.Phase = v1alpha1.TargetPending },
		"nothing was ever said of it": func(t *v1alpha1.BareMetalTarget, _ *TargetObservation) { t.Status.Timeline = nil },
	} {
		other, at := o.DeepCopy(), observation
		edit(other, &at)
		if out := Target(other, at); out.Phase == v1alpha1.TargetInstalling {
			t.Errorf("%s: it stays as it was", name)
		}
	}
	// A power-on is known to the nanosecond, a record to the microsecond.
	o.Status.Phase = v1alpha1.TargetPXE
	o.Status.Timeline = Timeline(nil, v1alpha1.TargetPXE, epoch.Add(999))
	observation.Machine.StartedAt = epoch.Add(999)
	o.Status.Progress = "iPXE"
	if out := Target(o, observation); out.Progress != "iPXE" {
		t.Errorf("the same power-on is taken for another: %+v", out)
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
		"ready": {func(t *v1alpha1.BareMetalTarget) { t.Status.InstalledGeneration = 1 },
			TargetObservation{Machine: running, PowerOn: PowerOn(epoch), Seen: withSSH(agent.SSHState{PowerOn: PowerOn(epoch), Up: true}), AgentConnected: true}, map[string]row{
				"Valid": {"True", "Valid"}, "MachineRunning": {"True", "Running"}, "Installed": {"True", "Installed"},
				"Progressing": {"True", "Ready"}, "Ready": {"True", "Ready"},
			}},
		"refused": {nil, TargetObservation{Blocker: Blocker{Reason: "AddressConflict", Message: "x", Terminal: true}, Machine: qemu.State{Phase: qemu.PhaseNotFound}}, map[string]row{
			"Valid": {"False", "AddressConflict"}, "MachineRunning": {"False", "Starting"}, "Installed": {"False", "NotInstalled"},
			"Progressing": {"False", "AddressConflict"}, "Ready": {"False", "AddressConflict"},
		}},
		"a reference is missing": {nil, TargetObservation{Blocker: Blocker{Reason: "ReferenceNotFound", Message: "x"}, Machine: qemu.State{Phase: qemu.PhaseNotFound}}, map[string]row{
			"Valid": {"False", "ReferenceNotFound"}, "MachineRunning": {"False", "Starting"}, "Installed": {"False", "NotInstalled"},
			"Progressing": {"True", "ReferenceNotFound"}, "Ready": {"False", "ReferenceNotFound"},
		}},
		"waits": {nil, TargetObservation{Blocker: Blocker{Reason: "WaitingForServer", Message: "x"}, Machine: qemu.State{Phase: qemu.PhaseStopped}}, map[string]row{
			"Valid": {"True", "Valid"}, "MachineRunning": {"False", "Stopped"}, "Installed": {"False", "NotInstalled"},
			"Progressing": {"True", "WaitingForServer"}, "Ready": {"False", "WaitingForServer"},
		}},
		"ready, and does not fit its profile": {func(t *v1alpha1.BareMetalTarget) { t.Status.InstalledGeneration = 1 },
			TargetObservation{Unfit: Blocker{Reason: "BadTemplate", Message: "x"}, Machine: running, PowerOn: PowerOn(epoch), Seen: withSSH(agent.SSHState{PowerOn: PowerOn(epoch), Up: true}), AgentConnected: true}, map[string]row{
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
			for _, condition := range TargetConditions(o, c.o, Target(o, c.o)) {
				got[condition.Type] = row{string(condition.Status), condition.Reason}
				if condition.Message == "" {
					t.Errorf("%s has no message", condition.Type)
				}
			}
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(row{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestTimeline(t *testing.T) {
	at := func(s float64) time.Time { return epoch.Add(time.Duration(s * float64(time.Second))) }
	records := Timeline(nil, v1alpha1.TargetPending, at(0))
	before := records
	for _, step := range []struct {
		phase v1alpha1.TargetPhase
		at    float64
	}{{v1alpha1.TargetPending, 1}, {v1alpha1.TargetPXE, 2.04}, {v1alpha1.TargetPXE, 3}, {v1alpha1.TargetInstalling, 30}, {v1alpha1.TargetBooting, 25}} {
		records = Timeline(records, step.phase, at(step.at))
	}
	want := []v1alpha1.PhaseRecord{
		{Phase: v1alpha1.TargetPending, StartedAt: metav1.NewMicroTime(at(0)), Seconds: "2.0"},
		{Phase: v1alpha1.TargetPXE, StartedAt: metav1.NewMicroTime(at(2.04)), Seconds: "28.0"},
		{Phase: v1alpha1.TargetInstalling, StartedAt: metav1.NewMicroTime(at(30)), Seconds: "0.0"},
		// A clock that was set back makes no negative time.
		{Phase: v1alpha1.TargetBooting, StartedAt: metav1.NewMicroTime(at(30))},
	}
	if diff := cmp.Diff(want, records); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if before[0].Seconds != "" {
		t.Error("the records given were changed")
	}
	for i := range 100 {
		records = Timeline(records, []v1alpha1.TargetPhase{v1alpha1.TargetReady, v1alpha1.TargetBooting}[i%2], at(float64(40+i)))
	}
	if len(records) != maxTimeline || records[maxTimeline-1].Phase != v1alpha1.TargetBooting {
		t.Errorf("%d records", len(records))
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
		"it does not run":                        {v1alpha1.TargetPXE, pending, time.Time{}, now},
		"nothing was recorded":                   {v1alpha1.TargetPXE, nil, on, now},
		"a reboot of a system that was Ready":    {v1alpha1.TargetBooting, ready, on, now},
	} {
		if got := PhaseStart(c.phase, c.records, c.powerOn, now); !got.Equal(c.want) {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}
