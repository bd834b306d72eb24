// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// first returns the first attempt at a generation.
func first(generation int64) targetdisk.Attempt {
	return targetdisk.Attempt{ID: generation, Generation: generation, Number: 1}
}

// failed returns a record after n consecutive failed attempts.
func failed(n int) targetdisk.Record {
	a := targetdisk.Attempt{ID: int64(n), Generation: 1, Number: int64(n)}
	return targetdisk.Record{Attempt: a, Failures: n, Failure: &targetdisk.Failure{
		Attempt: a, Reason: v1alpha1.ReasonNoDiscover, Message: "silence", At: epoch, Declared: 7, ProfileDigest: "A"}}
}

// holds returns a record of disks on which the profile with a digest is installed.
func holds(digest string) targetdisk.Record {
	return targetdisk.Record{Attempt: first(1), Installed: true, ProfileDigest: digest}
}

func TestDecideDisks(t *testing.T) {
	reinstall := func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.ProfileChangePolicy = v1alpha1.ProfileChangeReinstall }
	raised := func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.InstallGeneration = 2 }
	brief := Blocker{
		Reason: v1alpha1.ReasonWaitingForServer, Message: "server lab is receiving the configuration of this target",
		Transient: true,
	}
	away := Blocker{Reason: v1alpha1.ReasonWaitingForServer, Message: "server lab is not ready"}
	lost := Blocker{Reason: v1alpha1.ReasonDiskMissing, Terminal: true, Message: "disk /d of the installed system does not exist; " +
		"restore the file, or raise spec.installGeneration to install the target again"}
	for name, c := range map[string]struct {
		edit func(*v1alpha1.BareMetalTarget)
		o    DiskObservation
		want DiskDecision
	}{
		"a new target":              {nil, DiskObservation{}, DiskDecision{Prepare: first(1)}},
		"a new one that is refused": {nil, DiskObservation{Refused: true}, DiskDecision{}},
		"a new one that is off": {
			func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Power = v1alpha1.PowerOff }, DiskObservation{}, DiskDecision{},
		},
		"being installed": {nil, DiskObservation{Record: targetdisk.Record{Attempt: first(1)}, ProfileDigest: "B"}, DiskDecision{}},
		"interrupted wipe": {
			nil, DiskObservation{Record: targetdisk.Record{Attempt: targetdisk.Attempt{ID: 3, Generation: 1, Number: 3}, Void: true}},
			DiskDecision{Prepare: targetdisk.Attempt{ID: 3, Generation: 1, Number: 3}},
		},
		"a later generation was reached": {
			func(bmt *v1alpha1.BareMetalTarget) { bmt.Status.HighestInstallGeneration = 5 },
			DiskObservation{Record: targetdisk.Record{Attempt: first(5), Installed: true}, ProfileDigest: "A"}, DiskDecision{},
		},
		"a later generation was reached, and the disks are lost": {
			func(bmt *v1alpha1.BareMetalTarget) {
				bmt.Status.HighestInstallGeneration = 5
				bmt.Status.Install = &v1alpha1.InstallProgress{ID: 7}
			},
			DiskObservation{ProfileDigest: "A"}, DiskDecision{Prepare: targetdisk.Attempt{ID: 8, Generation: 5, Number: 1}},
		},

		"raised": {raised, DiskObservation{Record: holds("A"), ProfileDigest: "A"}, DiskDecision{Prepare: first(2)}},
		"raised, the profile is not ready": {
			raised, DiskObservation{Record: holds("A")},
			DiskDecision{
				Blocker: Blocker{Reason: v1alpha1.ReasonWaitingForProfile, Message: "profile debian is not ready; the disk is kept until it is"},
			},
		},
		"raised, the server is away": {
			raised, DiskObservation{Record: holds("A"), ProfileDigest: "A", Unserved: away},
			DiskDecision{Blocker: Blocker{Reason: away.Reason, Message: "server lab is not ready; the disk is kept until then"}},
		},
		"raised, and nothing to lose": {
			raised, DiskObservation{Record: targetdisk.Record{Attempt: first(1)}, ProfileDigest: "A", Unserved: away},
			DiskDecision{Prepare: first(2)},
		},
		"raised, and it does not fit": {raised, DiskObservation{Record: holds("A"), ProfileDigest: "A", Refused: true}, DiskDecision{}},
		"raised, interrupted wipe": {
			raised, DiskObservation{Record: targetdisk.Record{Attempt: first(1), Void: true}, ProfileDigest: "A"},
			DiskDecision{Prepare: first(2)},
		},
		"raised after the attempts were used": {
			raised, DiskObservation{Record: failed(3), ProfileDigest: "A"}, DiskDecision{Prepare: failed(3).Begin(2)},
		},

		"installed":               {reinstall, DiskObservation{Record: holds("A"), ProfileDigest: "A"}, DiskDecision{}},
		"its profile was changed": {nil, DiskObservation{Record: holds("A"), ProfileDigest: "B"}, DiskDecision{}},
		"and it is to be installed": {
			reinstall, DiskObservation{Record: holds("A"), ProfileDigest: "B"},
			DiskDecision{Prepare: targetdisk.Attempt{ID: 2, Generation: 1, Number: 2}},
		},
		"and it is not ready": {reinstall, DiskObservation{Record: holds("A")}, DiskDecision{}},
		"and it is not with the server": {
			reinstall, DiskObservation{Record: holds("A"), ProfileDigest: "B", Unserved: away}, DiskDecision{},
		},
		"and the server receives its stop": {
			reinstall, DiskObservation{Record: holds("A"), ProfileDigest: "B", Unserved: brief}, DiskDecision{Blocker: brief},
		},
		"and the server receives it, and it runs": {
			reinstall, DiskObservation{Record: holds("A"), ProfileDigest: "B", Unserved: brief, Alive: true}, DiskDecision{},
		},
		"and it does not fit": {
			reinstall, DiskObservation{Record: holds("A"), ProfileDigest: "B", Refused: true}, DiskDecision{},
		},
		"what was installed is not known": {reinstall, DiskObservation{Record: holds(""), ProfileDigest: "B"}, DiskDecision{}},
		"what was installed was recorded with another key": {
			reinstall, DiskObservation{Record: holds("hmac-sha256:k1:A"), ProfileDigest: "hmac-sha256:k2:A"}, DiskDecision{},
		},
		"what was installed was recorded without a key": {
			reinstall, DiskObservation{Record: holds("sha256:A"), ProfileDigest: "hmac-sha256:k2:A"}, DiskDecision{},
		},
		"another profile with the same key": {
			reinstall, DiskObservation{Record: holds("hmac-sha256:k1:A"), ProfileDigest: "hmac-sha256:k1:B"},
			DiskDecision{Prepare: first(1).Next()},
		},
		"failed for the last time, and the key changed": {
			nil, DiskObservation{Record: failed(3), ProfileDigest: "hmac-sha256:k1:A", Now: epoch.Add(time.Hour)}, DiskDecision{},
		},
		"changed while it is installed, no loop": {
			reinstall, DiskObservation{Record: targetdisk.Record{Attempt: first(1)}, ProfileDigest: "B"}, DiskDecision{},
		},
		"changed, and on the way to be wiped too": {
			reinstall, DiskObservation{Record: targetdisk.Record{Attempt: first(1).Next(), Void: true}, ProfileDigest: "A"},
			DiskDecision{Prepare: first(1).Next()},
		},

		"deleted, being installed": {
			nil, DiskObservation{Record: targetdisk.Record{Attempt: first(1)}, Missing: "/d", Alive: true},
			DiskDecision{Prepare: first(1).Next()},
		},
		"deleted, installed": {
			reinstall, DiskObservation{Record: holds("A"), ProfileDigest: "A", Missing: "/d"}, DiskDecision{Blocker: lost},
		},
		"deleted, installed and running": {
			nil, DiskObservation{Record: holds("A"), ProfileDigest: "A", Missing: "/d", Alive: true},
			DiskDecision{Blocker: Blocker{Reason: lost.Reason, Terminal: true, Message: lost.Message +
				"; the machine runs from the deleted file, whose content is lost when the machine is powered off"}},
		},
		"deleted, installed, and it does not fit": {
			nil, DiskObservation{Record: holds("A"), ProfileDigest: "A", Missing: "/d", Refused: true}, DiskDecision{Blocker: lost},
		},
		"deleted, the installation is not recorded yet": {
			nil, DiskObservation{Record: targetdisk.Record{Attempt: first(1)}, Missing: "/d", Done: true}, DiskDecision{Blocker: lost},
		},
		"deleted, and it is off": {
			func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Power = v1alpha1.PowerOff },
			DiskObservation{Record: holds("A"), ProfileDigest: "A", Missing: "/d"}, DiskDecision{},
		},
		"deleted, and raised": {
			raised, DiskObservation{Record: holds("A"), ProfileDigest: "A", Missing: "/d"}, DiskDecision{Prepare: first(2)},
		},
		"deleted, and its profile was changed": {
			reinstall, DiskObservation{Record: holds("A"), ProfileDigest: "B", Missing: "/d"}, DiskDecision{Prepare: first(1).Next()},
		},
		"deleted, its profile was changed and is not with the server": {
			reinstall, DiskObservation{Record: holds("A"), ProfileDigest: "B", Missing: "/d", Unserved: away}, DiskDecision{Blocker: lost},
		},
		"deleted after a failure": {
			nil, DiskObservation{Record: failed(1), ProfileDigest: "A", Missing: "/d", Now: epoch.Add(10 * time.Second)},
			DiskDecision{Recheck: 20 * time.Second},
		},

		"failed a moment ago": {
			nil, DiskObservation{Record: failed(1), ProfileDigest: "A", Now: epoch.Add(10 * time.Second)},
			DiskDecision{Recheck: 20 * time.Second},
		},
		"failed, the clock went back": {
			nil, DiskObservation{Record: failed(1), ProfileDigest: "A", Now: epoch.Add(-time.Hour)},
			DiskDecision{Prepare: first(1).Next()},
		},
		"failed, after the pause": {
			nil, DiskObservation{Record: failed(1), ProfileDigest: "A", Now: epoch.Add(30 * time.Second)},
			DiskDecision{Prepare: first(1).Next()},
		},
		"failed, and done after all": {
			nil, DiskObservation{Record: failed(1), ProfileDigest: "A", Now: epoch.Add(time.Hour), Done: true}, DiskDecision{},
		},
		"failed twice, pause grows": {
			nil, DiskObservation{Record: failed(2), ProfileDigest: "A", Now: epoch.Add(30 * time.Second)},
			DiskDecision{Recheck: 30 * time.Second},
		},
		"failed for the last time": {nil, DiskObservation{Record: failed(3), ProfileDigest: "A", Now: epoch.Add(time.Hour)}, DiskDecision{}},
		"and the target was changed": {
			func(bmt *v1alpha1.BareMetalTarget) { bmt.Generation = 8 },
			DiskObservation{Record: failed(3), ProfileDigest: "A", Now: epoch},
			DiskDecision{Prepare: targetdisk.Attempt{ID: 4, Generation: 1, Number: 4}},
		},
		"and the profile was changed": {
			nil, DiskObservation{Record: failed(3), ProfileDigest: "B", Now: epoch},
			DiskDecision{Prepare: targetdisk.Attempt{ID: 4, Generation: 1, Number: 4}},
		},
		"and the profile is fetched": {nil, DiskObservation{Record: failed(3), Now: epoch}, DiskDecision{}},
		"more attempts are allowed": {
			func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.MaxAttempts = 4 },
			DiskObservation{Record: failed(3), ProfileDigest: "A", Now: epoch.Add(time.Hour)},
			DiskDecision{Prepare: targetdisk.Attempt{ID: 4, Generation: 1, Number: 4}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := target("a")
			o.Generation = 7
			o.Spec.BootProfileRef.Name = "debian"
			if c.edit != nil {
				c.edit(o)
			}
			if c.o.Unserved.Reason != "" && c.o.Record.Installed && !NeedsReinstall(o, c.o.Record, c.o.ProfileDigest) {
				t.Error("NeedsReinstall: got false, want true, because the controller sets Unserved only then")
			}
			if diff := cmp.Diff(c.want, DecideDisks(o, c.o)); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPauseAfter(t *testing.T) {
	var got []time.Duration
	for _, n := range []int{0, 1, 2, 3, 5, 6, 100} {
		got = append(got, pauseAfter(n))
	}
	want := []time.Duration{
		30 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 8 * time.Minute, 10 * time.Minute, 10 * time.Minute,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// installedFor returns the record of a system of profile A on a network.
func installedFor(network string) targetdisk.Record {
	r := holds("A")
	r.Network = network
	return r
}

func TestNetworkOfTemplates(t *testing.T) {
	n := network(t)
	for name, c := range map[string]struct {
		templates Templates
		matters   bool
	}{
		"the default":                  {Templates{}, true},
		"DHCP":                         {Templates{NetworkConfig: "version: 2\nethernets: {lab: {dhcp4: true}}"}, false},
		"a template with the prefix":   {Templates{NetworkConfig: "addresses: [{{ .Address }}/{{ .PrefixLength }}]"}, true},
		"user-data with the prefix":    {Templates{NetworkConfig: "dhcp4: true", UserData: "{{ .PrefixLength }}"}, true},
		"user-data and default config": {Templates{UserData: "x"}, true},
	} {
		if got := NetworkOfTemplates(n, c.templates); got.IsValid() != c.matters || got.IsValid() && got != n.Prefix {
			t.Errorf("%s: got %s, want %s only if it matters: %t", name, got, n.Prefix, c.matters)
		}
	}
}

func TestUpToDateCondition(t *testing.T) {
	for name, c := range map[string]struct {
		policy  v1alpha1.ProfileChangePolicy
		record  targetdisk.Record
		digest  string
		network string
		status  metav1.ConditionStatus
		reason  string
		message string
	}{
		"nothing installed": {record: targetdisk.Record{Attempt: first(1)}, digest: "A", status: "Unknown", reason: v1alpha1.ReasonNotInstalled},
		"not known":         {record: holds(""), digest: "A", status: "Unknown", reason: v1alpha1.ReasonUnknownProfile},
		"not ready":         {record: holds("A"), status: "Unknown", reason: v1alpha1.ReasonWaitingForProfile, message: "debian is not ready"},
		"the same":          {record: holds("A"), digest: "A", status: "True", reason: v1alpha1.ReasonUpToDate},
		"another key": {
			record: holds("hmac-sha256:k1:A"), digest: "hmac-sha256:k2:B", status: "Unknown", reason: v1alpha1.ReasonUnknownProfile,
			message: "with another key",
		},
		"another way": {
			record: holds("sha256:A"), digest: "hmac-sha256:k2:A", status: "Unknown", reason: v1alpha1.ReasonUnknownProfile,
			message: "another version of pxelab",
		},
		"another": {
			record: holds("A"), digest: "B", status: "False", reason: v1alpha1.ReasonProfileChanged,
			message: "raise spec.installGeneration",
		},
		"another, by itself": {
			policy: v1alpha1.ProfileChangeReinstall, record: holds("A"), digest: "B", status: "False",
			reason: v1alpha1.ReasonProfileChanged, message: "reinstalled as soon as",
		},
		"the same network": {record: installedFor("10.88.0.0/24"), digest: "A", network: "10.88.0.0/24", status: "True", reason: v1alpha1.ReasonUpToDate},
		"a wider network": {
			record: installedFor("10.88.0.0/24"), digest: "A", network: "10.88.0.0/20", status: "False",
			reason: v1alpha1.ReasonReinstallNeeded, message: "the lab network is now 10.88.0.0/20 and the disk was installed for 10.88.0.0/24",
		},
		"a wider network, by itself": {
			policy: v1alpha1.ProfileChangeReinstall, record: installedFor("10.88.0.0/24"), digest: "A", network: "10.88.0.0/20",
			status: "False", reason: v1alpha1.ReasonReinstallNeeded, message: "raise spec.installGeneration",
		},
		"another profile and a wider network": {
			record: installedFor("10.88.0.0/24"), digest: "B", network: "10.88.0.0/20", status: "False", reason: v1alpha1.ReasonProfileChanged,
		},
		"a network that does not matter":   {record: installedFor("10.88.0.0/24"), digest: "A", status: "True", reason: v1alpha1.ReasonUpToDate},
		"installed for an unknown network": {record: holds("A"), digest: "A", network: "10.88.0.0/20", status: "True", reason: v1alpha1.ReasonUpToDate},
	} {
		o := target("a")
		o.Spec.BootProfileRef.Name = "debian"
		o.Spec.ProfileChangePolicy = c.policy
		in := UpToDateInput{ProfileDigest: c.digest}
		if c.network != "" {
			in.Network = netip.MustParsePrefix(c.network)
		}
		got := UpToDateCondition(o, c.record, in)
		if got.Status != c.status {
			t.Errorf("%s: got status %s, want %s", name, got.Status, c.status)
		}
		if got.Reason != c.reason {
			t.Errorf("%s: got reason %s, want %s", name, got.Reason, c.reason)
		}
		checkMessage(t, name, got.Message, c.message)
	}
}

// TestTargetAfterFailedAttempt checks the outcome between and after attempts.
func TestTargetAfterFailedAttempt(t *testing.T) {
	done := withInstall(netbootapi.InstallState{Stage: "Done", DoneAt: epoch})
	for name, c := range map[string]struct {
		edit    func(*v1alpha1.BareMetalTarget)
		o       TargetObservation
		phase   v1alpha1.TargetPhase
		reason  string
		message string
		recheck time.Duration
	}{
		"it is tried again": {
			nil, TargetObservation{Record: failed(1), Now: epoch.Add(10 * time.Second)}, v1alpha1.TargetPending,
			v1alpha1.ReasonNoDiscover, "attempt 1 of 3 failed: silence; the next attempt starts at 2026-01-02T03:04:35Z",
			20 * time.Second,
		},
		"its server is away": {
			nil, TargetObservation{Record: failed(2), Now: epoch.Add(10 * time.Second)}, v1alpha1.TargetPending,
			v1alpha1.ReasonNoDiscover, "attempt 2 of 3", 50 * time.Second,
		},
		"it was the last": {
			nil, TargetObservation{Record: failed(3), AgentConnected: true, Seen: seen(0)}, v1alpha1.TargetFailed,
			v1alpha1.ReasonNoDiscover, "attempt 3 of 3 failed: silence; to try again, change the target", 0,
		},
		"it completed after all": {
			nil, TargetObservation{Record: failed(3), AgentConnected: true, Seen: done}, v1alpha1.TargetInstalling,
			v1alpha1.ReasonInstalling, "", 0,
		},
		"it is off": {
			func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Power = v1alpha1.PowerOff }, TargetObservation{Record: failed(3)},
			v1alpha1.TargetStopped, v1alpha1.ReasonPoweredOff, "", 0,
		},
		"something else is wrong now": {nil, TargetObservation{
			Record: failed(1), Machine: machine.State{Phase: machine.PhaseStopped},
			Blocker: Blocker{Reason: v1alpha1.ReasonArchitectureMismatch, Message: "another", Terminal: true},
		},
			v1alpha1.TargetFailed, v1alpha1.ReasonArchitectureMismatch, "another", 0},
		"it is paused": {
			nil, TargetObservation{Record: failed(1), Paused: true}, v1alpha1.TargetPending, v1alpha1.ReasonPaused,
			"paused by the annotation", 0,
		},
	} {
		o := target("a")
		o.Generation = 7
		if c.edit != nil {
			c.edit(o)
		}
		if c.o.Machine.Phase == "" {
			c.o.Machine = running
		}
		out := TargetStatus(o, c.o)
		if out.Phase != c.phase {
			t.Errorf("%s: got phase %s, want %s", name, out.Phase, c.phase)
		}
		if out.Reason != c.reason {
			t.Errorf("%s: got reason %s, want %s", name, out.Reason, c.reason)
		}
		checkMessage(t, name, out.Message, c.message)
		if c.recheck != 0 && out.Recheck != c.recheck {
			t.Errorf("%s: got recheck in %s, want %s", name, out.Recheck, c.recheck)
		}
		if AttemptFailed(o, c.o, out) {
			t.Errorf("%s: got a failed attempt, want it counted once", name)
		}
	}
}

func TestAttemptFailed(t *testing.T) {
	panicked := running
	panicked.GuestPanicked = true
	installing := targetdisk.Record{Attempt: first(1)}
	write := withInstall(netbootapi.InstallState{Stage: "Write", BytesWritten: 5, BytesTotal: 10})
	for name, c := range map[string]struct {
		o      TargetObservation
		waited time.Duration
		want   bool
		reason string
	}{
		"the installer failed": {
			TargetObservation{
				Machine: running, Record: installing, AgentConnected: true,
				Seen: withInstall(netbootapi.InstallState{Error: "no disk"}),
			},
			0, true, v1alpha1.ReasonInstallerError,
		},
		"the kernel panicked": {
			TargetObservation{Machine: panicked, Record: installing, AgentConnected: true, Seen: seen(6)}, 0, true,
			v1alpha1.ReasonGuestPanicked,
		},
		"slow": {
			TargetObservation{Machine: running, Record: installing, AgentConnected: true, Seen: write}, 15*time.Minute - 1,
			false, v1alpha1.ReasonInstallerSilent,
		},
		"no progress": {
			TargetObservation{Machine: running, Record: installing, AgentConnected: true, Seen: write}, 15 * time.Minute, true,
			v1alpha1.ReasonInstallerSilent,
		},
		"no DHCP": {
			TargetObservation{Machine: running, Record: installing, AgentConnected: true, Seen: seen(0)}, time.Hour, true,
			v1alpha1.ReasonNoDiscover,
		},
		"its server is away": {
			TargetObservation{Machine: running, Record: installing, Seen: write}, time.Hour, false,
			v1alpha1.ReasonInstallerSilent,
		},
		"it is paused": {
			TargetObservation{Machine: running, Record: installing, AgentConnected: true, Seen: write, Paused: true}, time.Hour,
			false, v1alpha1.ReasonPaused,
		},
		"it does not run": {
			TargetObservation{Machine: machine.State{Phase: machine.PhaseStopped}, Record: installing, AgentConnected: true},
			time.Hour, false, v1alpha1.ReasonStarting,
		},
		"an installed one never boots": {
			TargetObservation{Machine: running, Record: holds("A"), AgentConnected: true, Seen: write}, 1000 * time.Hour, false,
			v1alpha1.ReasonNoPhoneHome,
		},
		"an installed one panics": {
			TargetObservation{Machine: panicked, Record: holds("A"), AgentConnected: true, Seen: write}, 0, false,
			v1alpha1.ReasonGuestPanicked,
		},
	} {
		o := target("a")
		o.Status.InstalledGeneration = c.o.Record.InstalledGeneration()
		c.o.StepSince = epoch
		c.o.Now = epoch.Add(c.waited)
		out := TargetStatus(o, c.o)
		if got := AttemptFailed(o, c.o, out); got != c.want {
			t.Errorf("%s: got failed %t, want %t: %+v", name, got, c.want, out)
		}
		if out.Reason != c.reason {
			t.Errorf("%s: got reason %s, want %s", name, out.Reason, c.reason)
		}
	}
	// An installTimeout that is shorter than the limit of the step.
	o := target("a")
	o.Spec.InstallTimeout = metav1.Duration{Duration: time.Minute}
	at := TargetObservation{
		Machine: running, Record: installing, AgentConnected: true, Seen: seen(0), StepSince: epoch,
		Now: epoch.Add(time.Minute),
	}
	out := TargetStatus(o, at)
	if !AttemptFailed(o, at, out) {
		t.Errorf("after its installTimeout: got an attempt that has not failed, want a failed one: %+v", out)
	}
	if out.Reason != v1alpha1.ReasonNoDiscover {
		t.Errorf("after its installTimeout: got reason %s, want %s", out.Reason, v1alpha1.ReasonNoDiscover)
	}
}

func TestTargetPaused(t *testing.T) {
	on := PowerOnID(epoch)
	up := withSSH(netbootapi.SSHState{PowerOn: on, Up: true})
	for name, c := range map[string]struct {
		edit    func(*v1alpha1.BareMetalTarget)
		machine machine.State
		phase   v1alpha1.TargetPhase
	}{
		"ready":             {nil, running, v1alpha1.TargetReady},
		"to be powered off": {func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Power = v1alpha1.PowerOff }, running, v1alpha1.TargetReady},
		"to be started":     {nil, machine.State{Phase: machine.PhaseStopped}, v1alpha1.TargetStopped},
		"to be reinstalled": {func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.InstallGeneration = 2 }, running, v1alpha1.TargetReady},
		"to be deleted": {
			func(bmt *v1alpha1.BareMetalTarget) { bmt.DeletionTimestamp = &metav1.Time{Time: epoch} }, running,
			v1alpha1.TargetDeleting,
		},
		"refused, but alive": {nil, running, v1alpha1.TargetReady},
	} {
		o := target("a")
		o.Status.InstalledGeneration = 1
		o.Status.DiskGeneration = 1
		if c.edit != nil {
			c.edit(o)
		}
		out := TargetStatus(o, TargetObservation{
			Paused: true, Machine: c.machine, Record: holds("A"), Seen: up, PowerOn: on, AgentConnected: true,
			OtherDisks: o.Spec.InstallGeneration == 2, Blocker: Blocker{Reason: "x", Message: "x", Terminal: true},
		})
		if out.Phase != c.phase {
			t.Errorf("%s: got phase %s, want %s", name, out.Phase, c.phase)
		}
		if !out.Stalled {
			t.Errorf("%s: got no stall, want one", name)
		}
		if out.Reason != v1alpha1.ReasonPaused {
			t.Errorf("%s: got reason %s, want %s", name, out.Reason, v1alpha1.ReasonPaused)
		}
		checkMessage(t, name, out.Message, v1alpha1.PausedAnnotation)
	}
}

func TestAttemptIDs(t *testing.T) {
	key := []byte("0123456789abcdef")
	o := target("a")
	names, tokens := map[string]bool{}, map[string]bool{}
	for id := int64(1); id <= 12; id++ {
		o.Status.Install = &v1alpha1.InstallProgress{ID: id}
		names[AttemptID(o)] = true
		tokens[Token(key, o)] = true
	}
	if len(names) != 12 {
		t.Errorf("got %d different IDs of 12 attempts, want 12: %v", len(names), names)
	}
	if len(tokens) != 12 {
		t.Errorf("got %d different tokens of 12 attempts, want 12", len(tokens))
	}
	// Before the disks are there, a target is served for its first attempt.
	o.Status.Install = nil
	if got, want := AttemptID(o), string(o.UID)+"-1"; got != want {
		t.Errorf("AttemptID without attempts in the status: got %s, want %s", got, want)
	}
}
