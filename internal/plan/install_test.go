// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/storage"
)

// first is the first attempt at a generation.
func first(generation int64) storage.Attempt {
	return storage.Attempt{Generation: generation, Number: 1}
}

// failed is a record whose attempt has failed for the n-th time in a row.
func failed(n int) storage.Record {
	a := storage.Attempt{Generation: 1, Number: int64(n)}
	return storage.Record{Attempt: a, Failures: n, Failure: &storage.Failure{
		Attempt: a, Reason: v1alpha1.ReasonNoDiscover, Message: "silence", At: epoch, Declared: 7, ProfileDigest: "A"}}
}

// holds is a record of disks on which a profile was installed.
func holds(digest string) storage.Record {
	return storage.Record{Attempt: first(1), Installed: true, ProfileDigest: digest}
}

func TestDecideDisks(t *testing.T) {
	reinstall := func(t *v1alpha1.BareMetalTarget) { t.Spec.ProfileChangePolicy = v1alpha1.ProfileChangeReinstall }
	raised := func(t *v1alpha1.BareMetalTarget) { t.Spec.InstallGeneration = 2 }
	brief := Blocker{Reason: v1alpha1.ReasonWaitingForServer, Message: "server lab is being told of this target", Brief: true}
	away := Blocker{Reason: v1alpha1.ReasonWaitingForServer, Message: "server lab is not ready"}
	for name, c := range map[string]struct {
		edit func(*v1alpha1.BareMetalTarget)
		o    DiskObservation
		want DiskDecision
	}{
		"a new target":               {nil, DiskObservation{}, DiskDecision{Prepare: first(1)}},
		"a new one that is refused":  {nil, DiskObservation{Refused: true}, DiskDecision{}},
		"a new one that is off":      {func(t *v1alpha1.BareMetalTarget) { t.Spec.Power = v1alpha1.PowerOff }, DiskObservation{}, DiskDecision{}},
		"being installed":            {nil, DiskObservation{Record: storage.Record{Attempt: first(1)}, ProfileDigest: "B"}, DiskDecision{}},
		"a wipe that was broken off": {nil, DiskObservation{Record: storage.Record{Attempt: storage.Attempt{Generation: 1, Number: 3}, Void: true}}, DiskDecision{Prepare: storage.Attempt{Generation: 1, Number: 3}}},
		"disks of a later time":      {nil, DiskObservation{Record: storage.Record{Attempt: first(5)}, ProfileDigest: "A"}, DiskDecision{}},

		"raised":                              {raised, DiskObservation{Record: holds("A"), ProfileDigest: "A"}, DiskDecision{Prepare: first(2)}},
		"raised, the profile is not ready":    {raised, DiskObservation{Record: holds("A")}, DiskDecision{Blocker: Blocker{Reason: v1alpha1.ReasonWaitingForProfile, Message: "profile debian is not ready; the disk is kept until it is"}}},
		"raised, the server is away":          {raised, DiskObservation{Record: holds("A"), ProfileDigest: "A", Unserved: away}, DiskDecision{Blocker: Blocker{Reason: away.Reason, Message: "server lab is not ready; the disk is kept until then"}}},
		"raised, and nothing to lose":         {raised, DiskObservation{Record: storage.Record{Attempt: first(1)}, ProfileDigest: "A", Unserved: away}, DiskDecision{Prepare: first(2)}},
		"raised, and it does not fit":         {raised, DiskObservation{Record: holds("A"), ProfileDigest: "A", Refused: true}, DiskDecision{}},
		"raised, a wipe that was broken off":  {raised, DiskObservation{Record: storage.Record{Attempt: first(1), Void: true}, ProfileDigest: "A"}, DiskDecision{Prepare: first(2)}},
		"raised after the attempts were used": {raised, DiskObservation{Record: failed(3), ProfileDigest: "A"}, DiskDecision{Prepare: first(2)}},

		"installed":                               {reinstall, DiskObservation{Record: holds("A"), ProfileDigest: "A"}, DiskDecision{}},
		"its profile was changed":                 {nil, DiskObservation{Record: holds("A"), ProfileDigest: "B"}, DiskDecision{}},
		"and it is to be installed":               {reinstall, DiskObservation{Record: holds("A"), ProfileDigest: "B"}, DiskDecision{Prepare: storage.Attempt{Generation: 1, Number: 2}}},
		"and it is not ready":                     {reinstall, DiskObservation{Record: holds("A")}, DiskDecision{}},
		"and it is not with the server":           {reinstall, DiskObservation{Record: holds("A"), ProfileDigest: "B", Unserved: away}, DiskDecision{}},
		"and the server is told of its stop":      {reinstall, DiskObservation{Record: holds("A"), ProfileDigest: "B", Unserved: brief}, DiskDecision{Blocker: brief}},
		"and the server is told, and it runs":     {reinstall, DiskObservation{Record: holds("A"), ProfileDigest: "B", Unserved: brief, Alive: true}, DiskDecision{}},
		"and it does not fit":                     {reinstall, DiskObservation{Record: holds("A"), ProfileDigest: "B", Refused: true}, DiskDecision{}},
		"what was installed is not known":         {reinstall, DiskObservation{Record: holds(""), ProfileDigest: "B"}, DiskDecision{}},
		"changed while it is installed, no loop":  {reinstall, DiskObservation{Record: storage.Record{Attempt: first(1)}, ProfileDigest: "B"}, DiskDecision{}},
		"changed, and on the way to be wiped too": {reinstall, DiskObservation{Record: storage.Record{Attempt: first(1).Next(), Void: true}, ProfileDigest: "A"}, DiskDecision{Prepare: first(1).Next()}},

		"failed a moment ago":         {nil, DiskObservation{Record: failed(1), ProfileDigest: "A", Now: epoch.Add(10 * time.Second)}, DiskDecision{Recheck: 20 * time.Second}},
		"failed, the clock went back": {nil, DiskObservation{Record: failed(1), ProfileDigest: "A", Now: epoch.Add(-time.Hour)}, DiskDecision{Recheck: 30 * time.Second}},
		"failed, after the pause":     {nil, DiskObservation{Record: failed(1), ProfileDigest: "A", Now: epoch.Add(30 * time.Second)}, DiskDecision{Prepare: first(1).Next()}},
		"failed, and done after all":  {nil, DiskObservation{Record: failed(1), ProfileDigest: "A", Now: epoch.Add(time.Hour), Done: true}, DiskDecision{}},
		"failed twice, pause grows":   {nil, DiskObservation{Record: failed(2), ProfileDigest: "A", Now: epoch.Add(30 * time.Second)}, DiskDecision{Recheck: 30 * time.Second}},
		"failed for the last time":    {nil, DiskObservation{Record: failed(3), ProfileDigest: "A", Now: epoch.Add(time.Hour)}, DiskDecision{}},
		"and the target was changed":  {func(t *v1alpha1.BareMetalTarget) { t.Generation = 8 }, DiskObservation{Record: failed(3), ProfileDigest: "A", Now: epoch}, DiskDecision{Prepare: storage.Attempt{Generation: 1, Number: 4}}},
		"and the profile was changed": {nil, DiskObservation{Record: failed(3), ProfileDigest: "B", Now: epoch}, DiskDecision{Prepare: storage.Attempt{Generation: 1, Number: 4}}},
		"and the profile is fetched":  {nil, DiskObservation{Record: failed(3), Now: epoch}, DiskDecision{}},
		"more attempts are allowed":   {func(t *v1alpha1.BareMetalTarget) { t.Spec.MaxAttempts = 4 }, DiskObservation{Record: failed(3), ProfileDigest: "A", Now: epoch.Add(time.Hour)}, DiskDecision{Prepare: storage.Attempt{Generation: 1, Number: 4}}},
	} {
		t.Run(name, func(t *testing.T) {
			o := target("a")
			o.Generation, o.Spec.BootProfileRef.Name = 7, "debian"
			if c.edit != nil {
				c.edit(o)
			}
			if c.o.Unserved.Reason != "" && c.o.Record.Installed && !Replaces(o, c.o.Record, c.o.ProfileDigest) {
				t.Error("nobody would have asked the server")
			}
			if diff := cmp.Diff(c.want, DecideDisks(o, c.o)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestPausesGrowToALimit(t *testing.T) {
	var got []time.Duration
	for _, n := range []int{0, 1, 2, 3, 5, 6, 100} {
		got = append(got, pauseAfter(n))
	}
	want := []time.Duration{30 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 8 * time.Minute, 10 * time.Minute, 10 * time.Minute}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestUpToDate(t *testing.T) {
	for name, c := range map[string]struct {
		policy  v1alpha1.ProfileChangePolicy
		record  storage.Record
		digest  string
		status  metav1.ConditionStatus
		reason  string
		message string
	}{
		"nothing installed": {record: storage.Record{Attempt: first(1)}, digest: "A", status: "Unknown", reason: v1alpha1.ReasonNotInstalled},
		"not known":         {record: holds(""), digest: "A", status: "Unknown", reason: v1alpha1.ReasonUnknownProfile},
		"not ready":         {record: holds("A"), status: "Unknown", reason: v1alpha1.ReasonWaitingForProfile, message: "debian is not ready"},
		"the same":          {record: holds("A"), digest: "A", status: "True", reason: v1alpha1.ReasonUpToDate},
		"another":           {record: holds("A"), digest: "B", status: "False", reason: v1alpha1.ReasonProfileChanged, message: "raise spec.installGeneration"},
		"another, by itself": {policy: v1alpha1.ProfileChangeReinstall, record: holds("A"), digest: "B", status: "False", reason: v1alpha1.ReasonProfileChanged,
			message: "installed anew as soon as"},
	} {
		o := target("a")
		o.Spec.BootProfileRef.Name, o.Spec.ProfileChangePolicy = "debian", c.policy
		got := UpToDate(o, c.record, c.digest)
		if got.Status != c.status || got.Reason != c.reason || !strings.Contains(got.Message, c.message) {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

// What is said while attempts fail.
func TestATargetWhoseAttemptFailed(t *testing.T) {
	done := withInstall(agent.InstallState{Stage: "Done", DoneAt: epoch})
	for name, c := range map[string]struct {
		edit    func(*v1alpha1.BareMetalTarget)
		o       TargetObservation
		phase   v1alpha1.TargetPhase
		reason  string
		message string
		recheck time.Duration
	}{
		"it is tried again":    {nil, TargetObservation{Record: failed(1), Now: epoch.Add(10 * time.Second)}, v1alpha1.TargetPending, v1alpha1.ReasonNoDiscover, "attempt 1 of 3 failed: silence; the next begins at 2026-01-02T03:04:35Z", 20 * time.Second},
		"its server is away":   {nil, TargetObservation{Record: failed(2), Now: epoch.Add(10 * time.Second)}, v1alpha1.TargetPending, v1alpha1.ReasonNoDiscover, "attempt 2 of 3", 50 * time.Second},
		"it was the last":      {nil, TargetObservation{Record: failed(3), AgentConnected: true, Seen: seen(0)}, v1alpha1.TargetFailed, v1alpha1.ReasonNoDiscover, "attempt 3 of 3 failed: silence; change the target", 0},
		"it came to something": {nil, TargetObservation{Record: failed(3), AgentConnected: true, Seen: done}, v1alpha1.TargetInstalling, v1alpha1.ReasonInstalling, "", 0},
		"it is off":            {func(t *v1alpha1.BareMetalTarget) { t.Spec.Power = v1alpha1.PowerOff }, TargetObservation{Record: failed(3)}, v1alpha1.TargetStopped, v1alpha1.ReasonPoweredOff, "", 0},
		"something else is wrong now": {nil, TargetObservation{Record: failed(1), Machine: qemu.State{Phase: qemu.PhaseStopped}, Blocker: Blocker{Reason: v1alpha1.ReasonArchMismatch, Message: "another", Terminal: true}},
			v1alpha1.TargetFailed, v1alpha1.ReasonArchMismatch, "another", 0},
		"it is paused": {nil, TargetObservation{Record: failed(1), Paused: true}, v1alpha1.TargetPending, v1alpha1.ReasonPaused, "paused by the annotation", 0},
	} {
		o := target("a")
		o.Generation = 7
		if c.edit != nil {
			c.edit(o)
		}
		if c.o.Machine.Phase == "" {
			c.o.Machine = running
		}
		out := Target(o, c.o)
		if out.Phase != c.phase || out.Reason != c.reason || !strings.Contains(out.Message, c.message) {
			t.Errorf("%s: got %+v", name, out)
		}
		if c.recheck != 0 && out.Recheck != c.recheck {
			t.Errorf("%s: recheck in %s", name, out.Recheck)
		}
		if AttemptFailed(o, c.o, out) {
			t.Errorf("%s: counted twice", name)
		}
	}
}

// When an attempt counts as failed, and when it does not.
func TestAttemptFailed(t *testing.T) {
	panicked := running
	panicked.GuestPanicked = true
	installing := storage.Record{Attempt: first(1)}
	write := withInstall(agent.InstallState{Stage: "Write", BytesWritten: 5, BytesTotal: 10})
	for name, c := range map[string]struct {
		o      TargetObservation
		waited time.Duration
		want   bool
		reason string
	}{
		"the installer failed":         {TargetObservation{Machine: running, Record: installing, AgentConnected: true, Seen: withInstall(agent.InstallState{Error: "no disk"})}, 0, true, v1alpha1.ReasonInstallerError},
		"the kernel panicked":          {TargetObservation{Machine: panicked, Record: installing, AgentConnected: true, Seen: seen(6)}, 0, true, v1alpha1.ReasonGuestPanicked},
		"slow":                         {TargetObservation{Machine: running, Record: installing, AgentConnected: true, Seen: write}, 15*time.Minute - 1, false, v1alpha1.ReasonInstallerSilent},
		"no progress":                  {TargetObservation{Machine: running, Record: installing, AgentConnected: true, Seen: write}, 15 * time.Minute, true, v1alpha1.ReasonInstallerSilent},
		"no DHCP":                      {TargetObservation{Machine: running, Record: installing, AgentConnected: true, Seen: seen(0)}, time.Hour, true, v1alpha1.ReasonNoDiscover},
		"its server is away":           {TargetObservation{Machine: running, Record: installing, Seen: write}, time.Hour, false, v1alpha1.ReasonInstallerSilent},
		"it is paused":                 {TargetObservation{Machine: running, Record: installing, AgentConnected: true, Seen: write, Paused: true}, time.Hour, false, v1alpha1.ReasonPaused},
		"it does not run":              {TargetObservation{Machine: qemu.State{Phase: qemu.PhaseStopped}, Record: installing, AgentConnected: true}, time.Hour, false, v1alpha1.ReasonStarting},
		"an installed one never boots": {TargetObservation{Machine: running, Record: holds("A"), AgentConnected: true, Seen: write}, 1000 * time.Hour, false, v1alpha1.ReasonNoPhoneHome},
		"an installed one panics":      {TargetObservation{Machine: panicked, Record: holds("A"), AgentConnected: true, Seen: write}, 0, false, v1alpha1.ReasonGuestPanicked},
	} {
		o := target("a")
		o.Status.InstalledGeneration = c.o.Record.InstalledGeneration()
		c.o.StepSince, c.o.Now = epoch, epoch.Add(c.waited)
		out := Target(o, c.o)
		if got := AttemptFailed(o, c.o, out); got != c.want || out.Reason != c.reason {
			t.Errorf("%s: got %v, %+v", name, got, out)
		}
	}
	// A shorter patience than the step's own.
	o := target("a")
	o.Spec.InstallTimeout = metav1.Duration{Duration: time.Minute}
	at := TargetObservation{Machine: running, Record: installing, AgentConnected: true, Seen: seen(0), StepSince: epoch, Now: epoch.Add(time.Minute)}
	if out := Target(o, at); !AttemptFailed(o, at, out) || out.Reason != v1alpha1.ReasonNoDiscover {
		t.Errorf("after its installTimeout: %+v", out)
	}
}

func TestPaused(t *testing.T) {
	on := PowerOn(epoch)
	up := withSSH(agent.SSHState{PowerOn: on, Up: true})
	for name, c := range map[string]struct {
		edit    func(*v1alpha1.BareMetalTarget)
		machine qemu.State
		phase   v1alpha1.TargetPhase
	}{
		"ready":              {nil, running, v1alpha1.TargetReady},
		"to be powered off":  {func(t *v1alpha1.BareMetalTarget) { t.Spec.Power = v1alpha1.PowerOff }, running, v1alpha1.TargetReady},
		"to be started":      {nil, qemu.State{Phase: qemu.PhaseStopped}, v1alpha1.TargetStopped},
		"to be reinstalled":  {func(t *v1alpha1.BareMetalTarget) { t.Spec.InstallGeneration = 2 }, running, v1alpha1.TargetReady},
		"to be deleted":      {func(t *v1alpha1.BareMetalTarget) { t.DeletionTimestamp = &metav1.Time{Time: epoch} }, running, v1alpha1.TargetDeleting},
		"refused, but alive": {nil, running, v1alpha1.TargetReady},
	} {
		o := target("a")
		o.Status.InstalledGeneration, o.Status.DiskGeneration = 1, 1
		if c.edit != nil {
			c.edit(o)
		}
		out := Target(o, TargetObservation{Paused: true, Machine: c.machine, Record: holds("A"), Seen: up, PowerOn: on, AgentConnected: true,
			OtherDisks: o.Spec.InstallGeneration == 2, Blocker: Blocker{Reason: "x", Message: "x", Terminal: true}})
		if out.Phase != c.phase || !out.Stalled || out.Reason != v1alpha1.ReasonPaused || !strings.Contains(out.Message, v1alpha1.PausedAnnotation) {
			t.Errorf("%s: got %+v", name, out)
		}
	}
}

func TestAttemptNames(t *testing.T) {
	key := []byte("0123456789abcdef")
	o := target("a")
	o.Spec.InstallGeneration = 2
	names, tokens := map[string]bool{}, map[string]bool{}
	for _, at := range []storage.Attempt{{}, {Generation: 1, Number: 1}, {Generation: 1, Number: 2}, {Generation: 2, Number: 2}, {Generation: 12, Number: 1}} {
		o.Status.DiskGeneration, o.Status.Attempts = at.Generation, &v1alpha1.InstallAttempts{Number: at.Number}
		names[Attempt(o)], tokens[Token(key, o)] = true, true
	}
	if len(names) != 5 || len(tokens) != 5 {
		t.Errorf("attempts share names or tokens: %v", names)
	}
	// A status of old is of the first attempt, whose name was the same.
	o.Status.DiskGeneration, o.Status.Attempts = 3, nil
	if got := Attempt(o); got != string(o.UID)+"-3" {
		t.Errorf("got %s", got)
	}
}
