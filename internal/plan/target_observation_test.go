// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"
	"time"

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
