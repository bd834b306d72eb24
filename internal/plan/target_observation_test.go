// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

func TestObservationOfCurrentPowerOn(t *testing.T) {
	at := time.Unix(1, 0)
	for name, c := range map[string]struct {
		install *netbootapi.InstallState
		sent    string
		powerOn string
		dropped bool
	}{
		"current power-on":              {&netbootapi.InstallState{}, "p2", "p2", false},
		"interrupted":                   {&netbootapi.InstallState{}, "p1", "p2", true},
		"interrupted, machine off":      {&netbootapi.InstallState{}, "p1", "", false},
		"no power-on sent":              {&netbootapi.InstallState{}, "", "p2", false},
		"done in an earlier power-on":   {&netbootapi.InstallState{DoneAt: at}, "p1", "p2", false},
		"failed in an earlier power-on": {&netbootapi.InstallState{Error: "no room"}, "p1", "p2", false},
		"not started":                   {nil, "p1", "p2", false},
	} {
		t.Run(name, func(t *testing.T) {
			seen := &netbootapi.MachineState{Attempt: "a", ScriptAt: at, Install: c.install, SSH: netbootapi.SSHState{PowerOn: c.sent}}
			got := TargetObservation{Seen: seen, PowerOn: c.powerOn}.current()
			if dropped := got.ScriptAt.IsZero() && got.Install == nil; dropped != c.dropped {
				t.Errorf("got dropped %t, want %t", dropped, c.dropped)
			}
			if got.Attempt != "a" {
				t.Errorf("got attempt %q, want \"a\"", got.Attempt)
			}
		})
	}
	if (TargetObservation{PowerOn: "p"}).current() != nil {
		t.Error("got an observation, want nil if there is none")
	}
}

// TestShownProgress has an installer report every 700 ms for 35 s, as fast as it does.
func TestShownProgress(t *testing.T) {
	for name, c := range map[string]struct {
		step int64 // bytes per report
		most int
	}{
		"a stuck percentage": {step: 1 << 20, most: 8},
		"nothing new":        {step: 0, most: 1},
		"a percent a second": {step: 700 << 20, most: 36},
	} {
		const total = 100 << 30
		var shown *v1alpha1.InstallProgress
		var since time.Time
		writes := 0
		for i := range 50 {
			now := epoch.Add(time.Duration(i) * 700 * time.Millisecond)
			written := 1<<30 + int64(i)*c.step
			seen := &v1alpha1.InstallProgress{ID: 1, Stage: "Write", BytesTotal: total, BytesWritten: written, Percent: int32(100 * written / total)}
			next := ShownProgress(shown, seen, since, now)
			if shown == nil || *next != *shown {
				writes++
				since = now
			}
			shown = next
		}
		if writes > c.most {
			t.Errorf("%s: got %d changes of the status in 35 s, want at most %d", name, writes, c.most)
		}
		done := &v1alpha1.InstallProgress{ID: 1, Stage: "Done", BytesTotal: total, BytesWritten: total, Percent: 100}
		if got := ShownProgress(shown, done, since, since.Add(time.Millisecond)); *got != *done {
			t.Errorf("%s: got %+v at the end, want %+v at once", name, got, done)
		}
	}
}
