// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/qemu"
)

func serving() agent.State {
	return agent.State{Version: "1", ConfigDigest: "wanted", Services: map[string]agent.Service{
		"dhcp": {Serving: true, Address: "10.88.0.1:67"}, "tftp": {Serving: true, Address: "10.88.0.1:69"}, "http": {Serving: true, Address: "10.88.0.1:80"},
	}}
}

func TestServerConditions(t *testing.T) {
	type row struct{ status, reason string }
	all := func(edits map[string]row) map[string]row {
		rows := map[string]row{
			"MachineRunning": {"True", "Running"}, "AgentConnected": {"True", "Connected"}, "DHCPReady": {"True", "Serving"},
			"TFTPReady": {"True", "Serving"}, "HTTPReady": {"True", "Serving"}, "ContentReady": {"True", "Available"}, "Ready": {"True", "Ready"},
		}
		for k, v := range edits {
			rows[k] = v
		}
		return rows
	}
	away := map[string]row{
		"DHCPReady": {"Unknown", "Connecting"}, "TFTPReady": {"Unknown", "Connecting"}, "HTTPReady": {"Unknown", "Connecting"}, "ContentReady": {"Unknown", "Connecting"},
		"AgentConnected": {"False", "Connecting"}, "Ready": {"False", "Connecting"},
	}
	lost := map[string]row{}
	for k, v := range away {
		lost[k] = v
	}
	lost["AgentConnected"], lost["Ready"] = row{"False", "Disconnected"}, row{"False", "Disconnected"}
	silent := map[string]row{}
	for k, v := range away {
		silent[k] = v
	}
	silent["AgentConnected"], silent["Ready"] = row{"False", "AgentSilent"}, row{"False", "AgentSilent"}
	for name, c := range map[string]struct {
		edit    func(*ServerObservation)
		want    map[string]row
		message string // of Ready
	}{
		"all is well": {func(*ServerObservation) {}, all(nil), "DHCP, TFTP and HTTP are served"},
		"it boots":    {func(o *ServerObservation) { o.Connected, o.Error = false, "connection refused" }, all(away), "the machine boots"},
		"it boots for long": {func(o *ServerObservation) {
			o.Connected, o.Error, o.Now = false, "connection refused", epoch.Add(time.Hour)
		}, all(away), "connection refused"},
		"it was ready": {func(o *ServerObservation) { o.Connected, o.Error, o.WasReady = false, "reset by peer", true }, all(lost), "reset by peer"},
		"it hangs": {func(o *ServerObservation) {
			o.Connected, o.Silent, o.Error, o.WasReady = false, true, "netbootd fell silent", true
		}, all(silent), "its watchdog starts it again"},
		"a service fails": {func(o *ServerObservation) { o.State.Services["tftp"] = agent.Service{Error: "address in use"} },
			all(map[string]row{"TFTPReady": {"False", "NotServing"}, "Ready": {"False", "NotServing"}}), "TFTPReady: not serving: address in use"},
		"a service is not there yet": {func(o *ServerObservation) { delete(o.State.Services, "http") },
			all(map[string]row{"HTTPReady": {"False", "NotServing"}, "Ready": {"False", "NotServing"}}), "HTTPReady: not serving"},
		"it refuses its document": {func(o *ServerObservation) { o.State.ConfigError = "invalid" },
			all(map[string]row{"ContentReady": {"False", "Failed"}}), "served"},
		"content is on its way": {func(o *ServerObservation) { o.Upload = "sending 1 of 2 MB" },
			all(map[string]row{"ContentReady": {"False", "Uploading"}}), "served"},
		"content is missing": {func(o *ServerObservation) { o.State.MissingBlobs = []agent.Blob{{Digest: "x"}} },
			all(map[string]row{"ContentReady": {"False", "Uploading"}}), "served"},
		"it has another document": {func(o *ServerObservation) { o.State.ConfigDigest = "other" },
			all(map[string]row{"ContentReady": {"False", "Uploading"}}), "served"},
		"its machine hangs": {func(o *ServerObservation) { o.Machine.Phase, o.Machine.RunState = qemu.PhasePaused, "io-error" },
			all(map[string]row{"MachineRunning": {"False", "Paused"}, "Ready": {"False", "Paused"}}), "io-error"},
	} {
		t.Run(name, func(t *testing.T) {
			o := ServerObservation{Machine: running, Connected: true, State: serving(), WantedDigest: "wanted", Now: epoch.Add(time.Minute)}
			c.edit(&o)
			got := map[string]row{}
			conditions := ServerConditions(o)
			for _, condition := range conditions {
				got[condition.Type] = row{string(condition.Status), condition.Reason}
				if condition.Message == "" {
					t.Errorf("%s has no message", condition.Type)
				}
			}
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(row{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if last := conditions[len(conditions)-1]; last.Type != "Ready" || !strings.Contains(last.Message, c.message) {
				t.Errorf("the last is %+v, want Ready with %q", last, c.message)
			}
		})
	}
}

func TestMachineCondition(t *testing.T) {
	for name, c := range map[string]struct {
		state                   qemu.State
		status, reason, message string
	}{
		"runs":          {running, "True", "Running", "runs since 2026-01-02T03:04:05Z on tcg"},
		"never started": {qemu.State{Phase: qemu.PhaseNotFound}, "False", "Starting", "not started yet"},
		"not looked at": {qemu.State{}, "False", "Starting", "not started yet"},
		"stopped":       {qemu.State{Phase: qemu.PhaseStopped}, "False", "Stopped", "powered off"},
		"shut down":     {qemu.State{Phase: qemu.PhaseStopped, Exit: &qemu.Exit{Reason: qemu.ExitGuestShutdown}}, "False", "Stopped", "powered off"},
		"exited":        {qemu.State{Phase: qemu.PhaseStopped, Exit: &qemu.Exit{Reason: qemu.ExitFailed, Output: "no such file"}}, "False", "ProcessExited", "Failed: no such file"},
		"gave up":       {qemu.State{Phase: qemu.PhaseInternalError, RunState: "internal-error"}, "False", "InternalError", "internal-error"},
		"hangs":         {qemu.State{Phase: qemu.PhaseUnresponsive, RunState: "unknown"}, "False", "Unresponsive", "unknown"},
	} {
		got := MachineCondition(c.state)
		if string(got.Status) != c.status || got.Reason != c.reason || !strings.Contains(got.Message, c.message) {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}
