// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/startrecord"
)

func TestServerStatus(t *testing.T) {
	for name, c := range map[string]struct {
		edit    func(*ServerObservation)
		phase   v1alpha1.ServerPhase
		message string
	}{
		"ready":     {func(*ServerObservation) {}, v1alpha1.ServerReady, "DHCP, TFTP, HTTP, DNS and NTP are being served"},
		"uploading": {func(o *ServerObservation) { o.Upload = "sending 1 of 2 MB" }, v1alpha1.ServerReady, "sending 1 of 2 MB"},
		"booting":   {func(o *ServerObservation) { o.Connected = false }, v1alpha1.ServerBooting, ""},
		"degraded": {func(o *ServerObservation) {
			o.Connected = false
			o.WasReady = true
		}, v1alpha1.ServerDegraded, ""},
		"ready_again": {func(o *ServerObservation) { o.WasReady = true }, v1alpha1.ServerReady, ""},
		"upload_is_late": {func(o *ServerObservation) {
			o.Connected = false
			o.Upload = "sending"
		}, v1alpha1.ServerBooting, ""},
	} {
		t.Run(name, func(t *testing.T) {
			o := ServerObservation{
				Machine:   machine.State{Phase: machine.PhaseRunning, StartedAt: epoch},
				Connected: true, State: serving(), InForce: true, Now: epoch,
			}
			c.edit(&o)
			out := ServerStatus(o)
			ready := out.Conditions[len(out.Conditions)-1]
			want := c.message
			if want == "" {
				want = ready.Message
			}
			if out.Phase != c.phase {
				t.Errorf("got phase %s, want %s", out.Phase, c.phase)
			}
			if out.Message != want {
				t.Errorf("got message %q, want %q", out.Message, want)
			}
			if ready.Type != v1alpha1.ConditionReady {
				t.Errorf("got last condition %s, want %s", ready.Type, v1alpha1.ConditionReady)
			}
		})
	}
}

func TestMachineUpToDate(t *testing.T) {
	was, s := &v1alpha1.ProvisioningServer{}, &v1alpha1.ProvisioningServer{}
	s.Spec.Machine.CPUs = 2
	started := startrecord.Record{Digest: "other", Fields: ServerStart(was)}
	for digest, c := range map[string]struct {
		reason, message string
		pending         []v1alpha1.PendingChange
	}{
		"desired": {v1alpha1.ReasonUpToDate, "current spec", nil},
		"other": {v1alpha1.ReasonRestartNeeded, "spec.machine.cpus changed since the machine started",
			[]v1alpha1.PendingChange{{Field: "spec.machine.cpus", AppliesAt: v1alpha1.AppliesAtPowerOn}}},
		"unrecorded": {v1alpha1.ReasonRestartNeeded, "what the machine is started from changed", nil},
	} {
		got, pending := MachineUpToDate(s, machine.State{Phase: machine.PhaseRunning, Digest: digest}, "desired", started)
		if got.Reason != c.reason || !strings.Contains(got.Message, c.message) {
			t.Errorf("running %s: got %+v, want reason %s and %q", digest, got, c.reason, c.message)
		}
		if diff := cmp.Diff(c.pending, pending); diff != "" {
			t.Errorf("running %s: (-want +got)\n%s", digest, diff)
		}
	}
}

func TestServerStatusPoweredOnAt(t *testing.T) {
	for name, c := range map[string]struct {
		machine machine.State
		want    *metav1.MicroTime
	}{
		"running": {machine.State{Phase: machine.PhaseRunning, StartedAt: epoch.Add(1234567 * time.Nanosecond)},
			&metav1.MicroTime{Time: epoch.Add(1234 * time.Microsecond)}},
		"suspended": {machine.State{Phase: machine.PhasePaused, StartedAt: epoch}, &metav1.MicroTime{Time: epoch}},
		"stopped":   {machine.State{Phase: machine.PhaseStopped}, nil},
		"not_found": {machine.State{Phase: machine.PhaseNotFound}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := ServerStatus(ServerObservation{Machine: c.machine, Now: epoch}).PoweredOnAt
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("PoweredOnAt (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDescribesPowerOn(t *testing.T) {
	running := func(at time.Time) machine.State {
		return machine.State{Phase: machine.PhaseRunning, StartedAt: at, Accelerator: machine.TCG}
	}
	started := epoch.Add(1234567 * time.Nanosecond) // finer than the API's precision
	for name, c := range map[string]struct {
		was, is machine.State
		edit    func(*v1alpha1.ProvisioningServerStatus)
		want    bool
	}{
		"same": {was: running(started), is: running(started), want: true},
		"same_with_other_message": {was: running(started), is: running(started), want: true,
			edit: func(s *v1alpha1.ProvisioningServerStatus) { s.Conditions[0].Message = "reworded" }},
		"same_in_other_time_zone": {was: running(started), is: running(started.In(time.FixedZone("", 3600))), want: true},
		"other":                   {was: running(started), is: running(started.Add(time.Millisecond))},
		"stalled_since":           {was: running(started), is: machine.State{Phase: machine.PhasePaused, StartedAt: started}},
		"resumed_since":           {was: machine.State{Phase: machine.PhasePaused, StartedAt: started}, is: running(started)},
		"stopped_since":           {was: running(started), is: machine.State{Phase: machine.PhaseStopped}},
		"off_before_and_after":    {was: machine.State{Phase: machine.PhaseStopped}, is: machine.State{Phase: machine.PhaseStopped}},
		"without_power_on": {was: running(started), is: running(started),
			edit: func(s *v1alpha1.ProvisioningServerStatus) { s.PoweredOnAt = nil }},
		"without_condition": {was: running(started), is: running(started),
			edit: func(s *v1alpha1.ProvisioningServerStatus) { s.Conditions = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			out, status := ServerStatus(ServerObservation{Machine: c.was, Now: epoch}), v1alpha1.ProvisioningServerStatus{}
			status.PoweredOnAt = out.PoweredOnAt
			for _, c := range out.Conditions {
				status.Conditions = append(status.Conditions,
					metav1.Condition{Type: c.Type, Status: c.Status, Reason: c.Reason, Message: c.Message})
			}
			if c.edit != nil {
				c.edit(&status)
			}
			if got := DescribesPowerOn(&status, c.is); got != c.want {
				t.Errorf("got %t, want %t", got, c.want)
			}
		})
	}
}
