// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/agent"
)

func TestCloudInitEvents(t *testing.T) {
	m := &agent.Machine{UID: "u", Boot: agent.BootDisk, Attempt: "1"}
	at := time.Unix(100, 0).UTC()
	start := func(name string) cloudInitEvent { return cloudInitEvent{Name: name, Type: "start"} }
	finish := func(name, result, description string) cloudInitEvent {
		return cloudInitEvent{Name: name, Type: "finish", Result: result, Description: description}
	}
	const script, write = "modules-final/config-scripts_user", "init-network/config-write_files"
	failed := agent.CloudInitFailure{Stage: "modules-final", Module: "config-scripts_user", Description: "running config-scripts_user"}
	fails := finish(script, "FAIL", "running config-scripts_user")
	for name, c := range map[string]struct {
		events []cloudInitEvent
		want   agent.CloudInitState
		news   []bool
	}{
		"under way": {
			[]cloudInitEvent{start(write), finish(write, "SUCCESS", "ran"), start(script)},
			agent.CloudInitState{Stage: "modules-final", Module: "config-scripts_user"},
			[]bool{true, false, true},
		},
		"ended well": {
			[]cloudInitEvent{finish(script, "SUCCESS", "ran"), finish("modules-final", "SUCCESS", "ran")},
			agent.CloudInitState{Stage: "modules-final", EndedAt: at}, []bool{true, true},
		},
		"a module failed; its stage says no more": {
			[]cloudInitEvent{fails, fails, finish("modules-final", "FAIL", "running modules for final")},
			agent.CloudInitState{Stage: "modules-final", EndedAt: at, Failures: []agent.CloudInitFailure{failed}},
			[]bool{true, false, true},
		},
		"a stage failed whole": {
			[]cloudInitEvent{finish("init-network", "FAIL", "searching")},
			agent.CloudInitState{Stage: "init-network", Failures: []agent.CloudInitFailure{{Stage: "init-network", Description: "searching"}}},
			[]bool{true},
		},
		"a later boot that leaves it out": {
			[]cloudInitEvent{fails, finish("modules-final", "FAIL", ""), start(write), finish(script, "SUCCESS", "config-scripts_user previously ran")},
			agent.CloudInitState{Stage: "modules-final", Failures: []agent.CloudInitFailure{failed}},
			[]bool{true, true, true, true},
		},
		"a later boot that mends it": {
			[]cloudInitEvent{fails, finish(script, "SUCCESS", "config-scripts_user ran successfully")},
			agent.CloudInitState{Stage: "modules-final", Failures: []agent.CloudInitFailure{}}, []bool{true, true},
		},
		"a warning": {
			[]cloudInitEvent{finish(script, "WARN", "")}, agent.CloudInitState{Stage: "modules-final"}, []bool{true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var s agent.MachineState
			for i, e := range c.events {
				before := s.CloudInit
				if got := sawCloudInit(&s, m, e, at); got != c.news[i] {
					t.Errorf("event %d is news: %v", i, got)
				}
				if before != nil && before == s.CloudInit {
					t.Error("what watchers hold was written to")
				}
			}
			c.want.UpdatedAt = at
			if diff := cmp.Diff(&c.want, s.CloudInit); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("of another life of the disk", func(t *testing.T) {
		var s agent.MachineState
		if sawCloudInit(&s, &agent.Machine{Boot: agent.BootInstall, Attempt: "1"}, fails, at) || s.CloudInit != nil {
			t.Errorf("got %+v", s.CloudInit)
		}
	})
	t.Run("everything fails", func(t *testing.T) {
		var s agent.MachineState
		for i := range 1000 {
			sawCloudInit(&s, m, finish(fmt.Sprintf("modules-final/config-%d", i), "FAIL", strings.Repeat("x", 1<<16)), at)
		}
		if n := len(s.CloudInit.Failures); n != maxFailures {
			t.Errorf("%d failures are kept", n)
		}
		if n := len(s.CloudInit.Failures[0].Description); n > 2*maxText {
			t.Errorf("a description of %d bytes", n)
		}
	})
}
