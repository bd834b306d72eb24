// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
)

// ended is the state of a machine that ran for a time and ended at epoch plus at.
func ended(reason machine.ExitReason, at, ran time.Duration) machine.State {
	return machine.State{Phase: machine.PhaseStopped, Exit: &machine.Exit{
		Reason: reason, At: epoch.Add(at), StartedAt: epoch.Add(at - ran), Output: "qemu: assertion failed",
	}}
}

// TestRestartsGrow ends a machine again and again as soon as it was started.
func TestRestartsGrow(t *testing.T) {
	var r Restarts
	now, pauses := time.Duration(0), []time.Duration{}
	for range 11 {
		for range 3 { // one process is observed several times
			r = r.Observe(ended(machine.ExitFailed, now, time.Millisecond), epoch.Add(now))
		}
		wait := r.Wait(epoch.Add(now))
		pauses = append(pauses, wait)
		now += wait
	}
	want := []time.Duration{
		time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, 64 * time.Second,
		128 * time.Second, 256 * time.Second, 5 * time.Minute, 5 * time.Minute,
	}
	if diff := cmp.Diff(want, pauses); diff != "" {
		t.Errorf("pauses (-want +got):\n%s", diff)
	}
}

func TestRestartsObserve(t *testing.T) {
	before := Restarts{Count: 4, At: epoch.Add(-time.Hour), process: epoch.Add(-2 * time.Hour)}
	requested := ended(machine.ExitGuestShutdown, 0, time.Minute)
	requested.Exit.Requested = true
	running := func(ran time.Duration) machine.State {
		return machine.State{Phase: machine.PhaseRunning, StartedAt: epoch.Add(-ran)}
	}
	for name, c := range map[string]struct {
		state machine.State
		count int
		wait  time.Duration
	}{
		"never_started":     {machine.State{Phase: machine.PhaseNotFound}, 4, 0},
		"failed":            {ended(machine.ExitFailed, 0, time.Minute), 5, 16 * time.Second},
		"not_started":       {ended(machine.ExitNotStarted, 0, time.Second), 5, 16 * time.Second},
		"guest_powered_off": {ended(machine.ExitGuestShutdown, 0, time.Minute), 5, 16 * time.Second},
		"power_button":      {requested, 4, 0},
		"after_stable_run":  {ended(machine.ExitFailed, 0, 10*time.Minute), 1, time.Second},
		"stopped":           {ended(machine.ExitStopped, 0, time.Minute), 4, 0},
		"host_restarted":    {ended(machine.ExitHostReboot, 0, time.Minute), 4, 0},
		"end_unseen":        {ended(machine.ExitUnknown, 0, time.Minute), 4, 0},
		"running":           {running(time.Minute), 4, 0},
		"stable":            {running(10 * time.Minute), 0, 0},
		"unresponsive":      {machine.State{Phase: machine.PhaseUnresponsive, StartedAt: epoch.Add(-time.Hour)}, 4, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got := before.Observe(c.state, epoch)
			if wait := max(0, got.Wait(epoch)); got.Count != c.count || wait != c.wait {
				t.Errorf("got count %d, wait %s; want %d, %s", got.Count, wait, c.count, c.wait)
			}
		})
	}
}

func TestRestartsWait(t *testing.T) {
	r := Restarts{}.Ended(epoch.Add(-time.Second), epoch).Ended(epoch, epoch)
	for name, c := range map[string]struct {
		now  time.Time
		want time.Duration
	}{
		"at_once":        {epoch, 2 * time.Second},
		"later":          {epoch.Add(1500 * time.Millisecond), 500 * time.Millisecond},
		"over":           {epoch.Add(time.Minute), -58 * time.Second},
		"clock_set_back": {epoch.Add(-time.Hour), 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			if got := r.Wait(c.now); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
	if got := (Restarts{}).Wait(epoch); got > 0 {
		t.Errorf("no restart: got %s, want no wait", got)
	}
}

// A clock that is set back prolongs the pause by as much as was over, not by the
// difference of the clocks.
func TestRestartsAfterClockWasSetBack(t *testing.T) {
	state, now := ended(machine.ExitFailed, 0, time.Second), epoch.Add(-time.Hour)
	r := Restarts{}.Observe(state, now)
	if got := r.Wait(now); got != time.Second {
		t.Errorf("at once: got %s, want %s", got, time.Second)
	}
	now = now.Add(2 * time.Second)
	if got := r.Observe(state, now).Wait(now); got > 0 {
		t.Errorf("later: got %s, want no wait", got)
	}
}

func TestRestartsCondition(t *testing.T) {
	r, state := Restarts{}, ended(machine.ExitFailed, 0, time.Second)
	r = r.Observe(state, epoch)
	for _, want := range []string{"Failed: qemu: assertion failed", "ended once", epoch.Add(time.Second).UTC().Format(time.RFC3339)} {
		if got := r.Condition(state); got.Reason != v1alpha1.ReasonRestartPending || !strings.Contains(got.Message, want) {
			t.Errorf("got %+v, want reason %s and %q", got, v1alpha1.ReasonRestartPending, want)
		}
	}
	r = r.Observe(ended(machine.ExitFailed, time.Minute, time.Second), epoch.Add(time.Minute))
	for _, want := range []string{"2 times in a row", epoch.Add(62 * time.Second).UTC().Format(time.RFC3339)} {
		if got := r.Condition(state); !strings.Contains(got.Message, want) {
			t.Errorf("got %q, want %q", got.Message, want)
		}
	}
}

func TestFault(t *testing.T) {
	for name, c := range map[string]struct {
		state        machine.State
		faulty       bool
		patience     time.Duration
		otherVersion bool
	}{
		"running":                  {machine.State{Phase: machine.PhaseRunning, RunState: "running"}, false, 0, false},
		"starting":                 {machine.State{Phase: machine.PhaseStarting}, false, 0, false},
		"stopped":                  {machine.State{Phase: machine.PhaseStopped}, false, 0, false},
		"paused":                   {machine.State{Phase: machine.PhasePaused, RunState: "paused"}, false, 0, false},
		"stalled":                  {machine.State{Phase: machine.PhasePaused, RunState: "io-error", Stall: &machine.Stall{}}, false, 0, false},
		"internal_error":           {machine.State{Phase: machine.PhaseInternalError}, true, 0, false},
		"unresponsive":             {machine.State{Phase: machine.PhaseUnresponsive}, true, 2 * time.Minute, false},
		"panicked":                 {machine.State{Phase: machine.PhaseRunning, GuestPanicked: true}, true, time.Minute, false},
		"other_version":            {machine.State{Phase: machine.PhaseRunning, RunState: "running"}, true, 0, true},
		"other_version_that_boots": {machine.State{Phase: machine.PhaseStarting}, false, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			why, patience := Fault(c.state, c.otherVersion)
			if (why != "") != c.faulty || patience != c.patience {
				t.Errorf("got %q after %s, want a fault: %t after %s", why, patience, c.faulty, c.patience)
			}
		})
	}
}

func TestRestartsReason(t *testing.T) {
	requested := func(s machine.State) machine.State {
		s.Exit.Requested = true
		return s
	}
	stopped := requested(ended(machine.ExitStopped, 0, time.Minute))
	fault := Restarts{}.Ended(stopped.Exit.StartedAt, epoch)
	for name, c := range map[string]struct {
		history Restarts
		state   machine.State
		want    string
	}{
		"never_started": {Restarts{}, machine.State{Phase: machine.PhaseNotFound}, ""},
		"crashed":       {Restarts{}, ended(machine.ExitFailed, 0, time.Minute), "Failed"},
		"host_rebooted": {Restarts{}, ended(machine.ExitHostReboot, 0, time.Minute), "HostReboot"},
		"requested":     {Restarts{}, stopped, ""},
		"fault":         {fault, stopped, RestartFault},
		"earlier_fault": {fault, requested(ended(machine.ExitStopped, time.Hour, time.Minute)), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.history.Reason(c.state); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
