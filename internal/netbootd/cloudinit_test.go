// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

func TestCloudInitEvents(t *testing.T) {
	m := &netbootapi.Machine{UID: "u", Control: netbootapi.Control{Boot: netbootapi.BootDisk, Attempt: "1"}}
	at := time.Unix(100, 0).UTC()
	start := func(name string) cloudInitEvent { return cloudInitEvent{Name: name, Type: "start"} }
	finish := func(name, result, description string) cloudInitEvent {
		return cloudInitEvent{Name: name, Type: "finish", Result: result, Description: description}
	}
	const script, write = "modules-final/config-scripts_user", "init-network/config-write_files"
	failed := netbootapi.CloudInitFailure{Stage: "modules-final", Module: "config-scripts_user", Description: "running config-scripts_user"}
	fails := finish(script, "FAIL", "running config-scripts_user")
	for name, c := range map[string]struct {
		events []cloudInitEvent
		want   netbootapi.CloudInitState
		news   []bool
	}{
		"in progress": {
			[]cloudInitEvent{start(write), finish(write, "SUCCESS", "ran"), start(script)},
			netbootapi.CloudInitState{Stage: "modules-final", Module: "config-scripts_user"},
			[]bool{true, false, true},
		},
		"succeeds": {
			[]cloudInitEvent{finish(script, "SUCCESS", "ran"), finish("modules-final", "SUCCESS", "ran")},
			netbootapi.CloudInitState{Stage: "modules-final", EndedAt: at}, []bool{true, true},
		},
		"failed module, stage failure not added": {
			[]cloudInitEvent{fails, fails, finish("modules-final", "FAIL", "running modules for final")},
			netbootapi.CloudInitState{Stage: "modules-final", EndedAt: at, Failures: []netbootapi.CloudInitFailure{failed}},
			[]bool{true, false, true},
		},
		"failed stage without a failed module": {
			[]cloudInitEvent{finish("init-network", "FAIL", "searching")},
			netbootapi.CloudInitState{
				Stage:    "init-network",
				Failures: []netbootapi.CloudInitFailure{{Stage: "init-network", Description: "searching"}},
			},
			[]bool{true},
		},
		"later boot skips the failed module": {
			[]cloudInitEvent{
				fails, finish("modules-final", "FAIL", ""), start(write),
				finish(script, "SUCCESS", "config-scripts_user previously ran"),
			},
			netbootapi.CloudInitState{Stage: "modules-final", Failures: []netbootapi.CloudInitFailure{failed}},
			[]bool{true, true, true, true},
		},
		"later boot runs the module successfully": {
			[]cloudInitEvent{fails, finish(script, "SUCCESS", "config-scripts_user ran successfully")},
			netbootapi.CloudInitState{Stage: "modules-final", Failures: []netbootapi.CloudInitFailure{}}, []bool{true, true},
		},
		"module with a warning": {
			[]cloudInitEvent{finish(script, "WARN", "")}, netbootapi.CloudInitState{Stage: "modules-final"}, []bool{true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var s netbootapi.MachineState
			for i, e := range c.events {
				before := s.CloudInit
				if got := sawCloudInit(&s, m, e, at); got != c.news[i] {
					t.Errorf("event %d: got news %v, want %v", i, got, c.news[i])
				}
				if before != nil && before == s.CloudInit {
					t.Errorf("event %d: got the state that watchers hold modified, want a copy", i)
				}
			}
			c.want.UpdatedAt = at
			if diff := cmp.Diff(&c.want, s.CloudInit); diff != "" {
				t.Errorf("state (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("event of another installation", func(t *testing.T) {
		var s netbootapi.MachineState
		if sawCloudInit(&s, &netbootapi.Machine{Control: netbootapi.Control{Boot: netbootapi.BootInstall, Attempt: "1"}}, fails, at) {
			t.Error("got news, want none")
		}
		if s.CloudInit != nil {
			t.Errorf("got %+v, want no state", s.CloudInit)
		}
	})
	t.Run("failures are bounded", func(t *testing.T) {
		var s netbootapi.MachineState
		for i := range 1000 {
			sawCloudInit(&s, m, finish(fmt.Sprintf("modules-final/config-%d", i), "FAIL", strings.Repeat("x", 1<<16)), at)
		}
		if n := len(s.CloudInit.Failures); n != maxFailures {
			t.Errorf("got %d failures, want %d", n, maxFailures)
		}
		if n := len(s.CloudInit.Failures[0].Description); n > 2*maxText {
			t.Errorf("got a description of %d bytes, want at most %d", n, 2*maxText)
		}
	})
}
