// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/agent"
)

func TestPresent(t *testing.T) {
	at := time.Unix(1, 0)
	for name, c := range map[string]struct {
		install *agent.InstallState
		told    string
		powerOn string
		dropped bool
	}{
		"the present one's":        {&agent.InstallState{}, "p2", "p2", false},
		"cut off":                  {&agent.InstallState{}, "p1", "p2", true},
		"cut off, and now off":     {&agent.InstallState{}, "p1", "", false},
		"not told of any":          {&agent.InstallState{}, "", "p2", false},
		"done in an earlier one":   {&agent.InstallState{DoneAt: at}, "p1", "p2", false},
		"failed in an earlier one": {&agent.InstallState{Error: "no room"}, "p1", "p2", false},
		"not begun in any":         {nil, "p1", "p2", false},
	} {
		t.Run(name, func(t *testing.T) {
			seen := &agent.MachineState{Attempt: "a", ScriptAt: at, Install: c.install, SSH: agent.SSHState{PowerOn: c.told}}
			got := TargetObservation{Seen: seen, PowerOn: c.powerOn}.present()
			if dropped := got.ScriptAt.IsZero() && got.Install == nil; dropped != c.dropped || got.Attempt != "a" {
				t.Errorf("dropped %t, want %t: %+v", dropped, c.dropped, got)
			}
		})
	}
	if (TargetObservation{PowerOn: "p"}).present() != nil {
		t.Error("nothing seen became something")
	}
}
