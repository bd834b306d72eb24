// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

func serving() netbootapi.State {
	return netbootapi.State{Version: "1", Services: map[string]netbootapi.Service{
		"dhcp": {
			Serving: true, Address: "10.88.0.1:67",
		}, "tftp": {Serving: true, Address: "10.88.0.1:69"}, "http": {Serving: true, Address: "10.88.0.1:80"},
		"dns": {Serving: true, Address: "10.88.0.1:53"}, "ntp": {Serving: true, Address: "10.88.0.1:123"},
	}}
}

func TestServerConditions(t *testing.T) {
	type row struct{ status, reason string }
	all := func(edits map[string]row) map[string]row {
		rows := map[string]row{
			"MachineRunning": {"True", "Running"}, "AgentConnected": {"True", "Connected"}, "DHCPReady": {"True", "Serving"},
			"TFTPReady": {"True", "Serving"}, "HTTPReady": {"True", "Serving"},
			"DNSReady": {"True", "Serving"}, "NTPReady": {"True", "Serving"}, "ContentReady": {"True", "Available"}, "Ready": {"True", "Ready"},
		}
		for k, v := range edits {
			rows[k] = v
		}
		return rows
	}
	away := map[string]row{
		"DHCPReady": {
			"Unknown", "Connecting",
		}, "TFTPReady": {"Unknown", "Connecting"}, "HTTPReady": {"Unknown", "Connecting"},
		"DNSReady": {"Unknown", "Connecting"}, "NTPReady": {"Unknown", "Connecting"}, "ContentReady": {"Unknown", "Connecting"},
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
		"everything works": {func(*ServerObservation) {}, all(nil), "DHCP, TFTP, HTTP, DNS and NTP are being served"},
		"booting": {func(o *ServerObservation) {
			o.Connected = false
			o.Error = "connection refused"
		}, all(away), "the machine is booting"},
		"booting for long": {func(o *ServerObservation) {
			o.Connected = false
			o.Error = "connection refused"
			o.Now = epoch.Add(time.Hour)
		}, all(away), "connection refused"},
		"connection lost": {func(o *ServerObservation) {
			o.Connected = false
			o.Error = "reset by peer"
			o.WasReady = true
		}, all(lost), "reset by peer"},
		"netbootd hangs": {func(o *ServerObservation) {
			o.Connected = false
			o.Silent = true
			o.Error = "netbootd does not respond"
			o.WasReady = true
		}, all(silent), "its watchdog restarts it"},
		"a service fails": {func(o *ServerObservation) { o.State.Services["tftp"] = netbootapi.Service{Error: "address in use"} },
			all(map[string]row{"TFTPReady": {"False", "NotServing"}, "Ready": {"False", "NotServing"}}), "TFTPReady: not serving: address in use"},
		"a service has not started": {func(o *ServerObservation) { delete(o.State.Services, "http") },
			all(map[string]row{"HTTPReady": {"False", "NotServing"}, "Ready": {"False", "NotServing"}}), "HTTPReady: not serving"},
		"configuration rejected": {func(o *ServerObservation) { o.ConfigError = "invalid" },
			all(map[string]row{"ContentReady": {"False", "Failed"}}), "served"},
		"content is being uploaded": {func(o *ServerObservation) { o.Upload = "sending 1 of 2 MB" },
			all(map[string]row{"ContentReady": {"False", "Uploading"}}), "served"},
		"content is missing": {func(o *ServerObservation) { o.Pending = 1 },
			all(map[string]row{"ContentReady": {"False", "Uploading"}}), "served"},
		"another configuration": {func(o *ServerObservation) { o.InForce = false },
			all(map[string]row{"ContentReady": {"False", "Uploading"}}), "served"},
		"machine is suspended": {func(o *ServerObservation) {
			o.Machine.Phase = machine.PhasePaused
			o.Machine.RunState = "io-error"
		},
			all(map[string]row{"MachineRunning": {"False", "Suspended"}, "Ready": {"False", "Suspended"}}), "io-error"},
	} {
		t.Run(name, func(t *testing.T) {
			o := ServerObservation{Machine: running, Connected: true, State: serving(), InForce: true, Now: epoch.Add(time.Minute)}
			c.edit(&o)
			got := map[string]row{}
			conditions := ServerConditions(o)
			for _, condition := range conditions {
				got[condition.Type] = row{string(condition.Status), condition.Reason}
				if condition.Message == "" {
					t.Errorf("condition %s: got no message, want one", condition.Type)
				}
			}
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(row{})); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
			last := conditions[len(conditions)-1]
			if last.Type != "Ready" {
				t.Errorf("got last condition %s, want Ready", last.Type)
			}
			checkMessage(t, "last condition", last.Message, c.message)
		})
	}
}

func TestMachineCondition(t *testing.T) {
	for name, c := range map[string]struct {
		state                   machine.State
		status, reason, message string
	}{
		"running":       {running, "True", "Running", "running since 2026-01-02T03:04:05Z on tcg"},
		"never started": {machine.State{Phase: machine.PhaseNotFound}, "False", "Starting", "not started yet"},
		"not observed":  {machine.State{}, "False", "Starting", "not started yet"},
		"stopped":       {machine.State{Phase: machine.PhaseStopped}, "False", "Stopped", "powered off"},
		"shut down": {
			machine.State{Phase: machine.PhaseStopped, Exit: &machine.Exit{Reason: machine.ExitGuestShutdown}}, "False",
			"Stopped", "powered off",
		},
		"exited": {
			machine.State{Phase: machine.PhaseStopped, Exit: &machine.Exit{Reason: machine.ExitFailed, Output: "no such file"}},
			"False", "ProcessExited", "Failed: no such file",
		},
		"suspended":     {machine.State{Phase: machine.PhasePaused, RunState: "paused"}, "False", "Suspended", "run state paused"},
		"panicked":      {machine.State{Phase: machine.PhasePaused, RunState: "guest-panicked"}, "False", "Suspended", "guest-panicked"},
		"unknown phase": {machine.State{Phase: "Other", RunState: "other"}, "False", "Failed", "run state other"},
		"internal error": {
			machine.State{Phase: machine.PhaseInternalError, RunState: "internal-error"}, "False", "InternalError",
			"internal-error",
		},
		"unresponsive": {machine.State{Phase: machine.PhaseUnresponsive, RunState: "unknown"}, "False", "Unresponsive", "unknown"},
	} {
		got := MachineCondition(c.state)
		if string(got.Status) != c.status {
			t.Errorf("%s: got status %s, want %s", name, got.Status, c.status)
		}
		if got.Reason != c.reason {
			t.Errorf("%s: got reason %s, want %s", name, got.Reason, c.reason)
		}
		checkMessage(t, name, got.Message, c.message)
	}
}
