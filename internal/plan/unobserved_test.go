// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
)

// off is a machine that was killed.
var off = machine.State{Phase: machine.PhaseStopped, Exit: &machine.Exit{Reason: machine.ExitUnknown}}

// startedAt is a machine that runs since a time.
func startedAt(at time.Time) machine.State {
	m := running
	m.StartedAt = at
	return m
}

// targetIn returns the status of a target that entered a phase a minute after the epoch.
func targetIn(phase v1alpha1.TargetPhase) v1alpha1.BareMetalTargetStatus {
	ready := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: phaseReason[phase]}
	if phase == v1alpha1.TargetReady {
		ready.Status = metav1.ConditionTrue
	}
	return v1alpha1.BareMetalTargetStatus{
		ObservedGeneration: 3, Phase: phase, Power: v1alpha1.PowerOn, Conditions: []metav1.Condition{ready},
		Timeline: []v1alpha1.PhaseRecord{
			{Phase: v1alpha1.TargetPXE, StartedAt: microTime(epoch), Seconds: "60.0"},
			{Phase: phase, StartedAt: microTime(epoch.Add(time.Minute))},
		},
	}
}

func TestIsTargetStale(t *testing.T) {
	const ready = v1alpha1.TargetReady
	for name, c := range map[string]struct {
		phase v1alpha1.TargetPhase
		edit  func(*v1alpha1.BareMetalTargetStatus)
		m     machine.State
		want  bool
	}{
		"ready, runs":                  {phase: ready, m: running},
		"ready, suspended":             {phase: ready, m: machine.State{Phase: machine.PhasePaused, StartedAt: epoch}},
		"ready, QEMU does not respond": {phase: ready, m: machine.State{Phase: machine.PhaseUnresponsive, StartedAt: epoch}},
		"ready, off":                   {phase: ready, m: off, want: true},
		"ready, no machine":            {phase: ready, m: machine.State{Phase: machine.PhaseNotFound}, want: true},
		"ready, started since":         {phase: ready, m: startedAt(epoch.Add(time.Hour)), want: true},
		"ready, being started":         {phase: ready, m: machine.State{Phase: machine.PhaseStarting, StartedAt: epoch.Add(time.Hour)}, want: true},
		"ready, nanoseconds":           {phase: ready, m: startedAt(epoch.Add(time.Minute + 999*time.Nanosecond))},
		"network boot, off":            {phase: v1alpha1.TargetPXE, m: off, want: true},
		"installing, off":              {phase: v1alpha1.TargetInstalling, m: off, want: true},
		"installing, runs":             {phase: v1alpha1.TargetInstalling, m: running},
		"booting, off":                 {phase: v1alpha1.TargetBooting, m: off, want: true},
		"stopped, off":                 {phase: v1alpha1.TargetStopped, m: off},
		"stopped, runs":                {phase: v1alpha1.TargetStopped, m: startedAt(epoch.Add(time.Hour))},
		"pending, off":                 {phase: v1alpha1.TargetPending, m: off},
		"failed, off":                  {phase: v1alpha1.TargetFailed, m: off},
		"new":                          {m: machine.State{Phase: machine.PhaseNotFound}},
		"ready without a record, runs": {phase: ready, edit: func(s *v1alpha1.BareMetalTargetStatus) { s.Timeline = nil }, m: running, want: true},
		"deleted while it was Ready, off": {phase: ready, edit: func(s *v1alpha1.BareMetalTargetStatus) { s.Phase = v1alpha1.TargetDeleting },
			m: off, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := targetIn(c.phase)
			if c.edit != nil {
				c.edit(&s)
			}
			if got := IsTargetStale(&s, c.m); got != c.want {
				t.Errorf("got %t, want %t", got, c.want)
			}
		})
	}
}

// summary is what a reader sees of a status: each condition as "status reason".
func summary(conditions []metav1.Condition) map[string]string {
	out := map[string]string{}
	for _, c := range conditions {
		out[c.Type] = string(c.Status) + " " + c.Reason
	}
	return out
}

func TestUnobservedTarget(t *testing.T) {
	now := epoch.Add(time.Hour)
	for name, c := range map[string]struct {
		m       machine.State
		running string
		power   v1alpha1.PowerState
		message string
	}{
		"off": {off, "False ProcessExited", v1alpha1.PowerOff, "not observed yet since the manager started; machine: Unknown"},
		"started since": {startedAt(now), "True Running", v1alpha1.PowerOn,
			"not observed yet since the manager started; machine: running since 2026-01-02T04:04:05Z on tcg"},
	} {
		t.Run(name, func(t *testing.T) {
			before := targetIn(v1alpha1.TargetReady)
			got := UnobservedTarget(before, c.m, now)
			if diff := cmp.Diff(targetIn(v1alpha1.TargetReady), before); diff != "" {
				t.Errorf("argument (-want +got):\n%s", diff)
			}
			if got.Phase != v1alpha1.TargetPending || got.Power != c.power || got.Message != c.message {
				t.Errorf("got phase %s, power %s, message %q", got.Phase, got.Power, got.Message)
			}
			want := map[string]string{"Ready": "Unknown NotYetObserved", "Progressing": "Unknown NotYetObserved", "MachineRunning": c.running}
			if diff := cmp.Diff(want, summary(got.Conditions)); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
			last := got.Timeline[len(got.Timeline)-1]
			if last.Phase != v1alpha1.TargetPending || !last.StartedAt.Time.Equal(now) {
				t.Errorf("got last record %+v, want Pending at %s", last, now)
			}
			if IsTargetStale(&got, c.m) {
				t.Error("the result is stale, want it to hold")
			}
		})
	}
}

// serverIn returns the status of a server in a phase, since the power-on at the epoch.
func serverIn(phase v1alpha1.ServerPhase) v1alpha1.ProvisioningServerStatus {
	at := microTime(epoch)
	s := v1alpha1.ProvisioningServerStatus{ObservedGeneration: 3, Phase: phase, PoweredOnAt: &at}
	ready := condition(v1alpha1.ConditionReady, phase == v1alpha1.ServerReady, "x", "x")
	setConditions(&s.Conditions, 3, epoch, condition(v1alpha1.ConditionDHCPReady, true, v1alpha1.ReasonServing, "x"), ready)
	return s
}

func TestIsServerStale(t *testing.T) {
	const ready = v1alpha1.ServerReady
	noPowerOn := func(s *v1alpha1.ProvisioningServerStatus) { s.PoweredOnAt = nil }
	for name, c := range map[string]struct {
		phase v1alpha1.ServerPhase
		edit  func(*v1alpha1.ProvisioningServerStatus)
		m     machine.State
		want  bool
	}{
		"ready, runs":               {phase: ready, m: running},
		"ready, suspended":          {phase: ready, m: machine.State{Phase: machine.PhasePaused, StartedAt: epoch}},
		"ready, off":                {phase: ready, m: off, want: true},
		"ready, no machine":         {phase: ready, m: machine.State{Phase: machine.PhaseNotFound}, want: true},
		"ready, started since":      {phase: ready, m: startedAt(epoch.Add(time.Hour)), want: true},
		"ready without a power-on":  {phase: ready, edit: noPowerOn, m: running, want: true},
		"degraded, runs":            {phase: v1alpha1.ServerDegraded, m: running},
		"degraded, off":             {phase: v1alpha1.ServerDegraded, m: off, want: true},
		"booting, off":              {phase: v1alpha1.ServerBooting, m: off, want: true},
		"waits for its start, off":  {phase: v1alpha1.ServerBooting, edit: noPowerOn, m: off},
		"pending, off":              {phase: v1alpha1.ServerPending, edit: noPowerOn, m: off},
		"failed, off":               {phase: v1alpha1.ServerFailed, edit: noPowerOn, m: off},
		"deleted while in use, off": {phase: v1alpha1.ServerDeleting, m: off},
		"new":                       {edit: noPowerOn, m: machine.State{Phase: machine.PhaseNotFound}},
		"lab was stopped, off": {phase: ready, m: off, want: true,
			edit: func(s *v1alpha1.ProvisioningServerStatus) { *s = LabDownServer(*s, off, epoch) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := serverIn(c.phase)
			if c.edit != nil {
				c.edit(&s)
			}
			if got := IsServerStale(&s, c.m); got != c.want {
				t.Errorf("got %t, want %t", got, c.want)
			}
		})
	}
}

func TestUnobservedServer(t *testing.T) {
	for name, c := range map[string]struct {
		m       machine.State
		running string
	}{
		"off": {off, "False ProcessExited"}, "started since": {startedAt(epoch.Add(time.Hour)), "True Running"},
	} {
		t.Run(name, func(t *testing.T) {
			got := UnobservedServer(serverIn(v1alpha1.ServerReady), c.m, epoch.Add(2*time.Hour))
			if got.Phase != v1alpha1.ServerPending || got.PoweredOnAt != nil || got.Message == "" {
				t.Errorf("got phase %s, power-on %v, message %q", got.Phase, got.PoweredOnAt, got.Message)
			}
			const unknown = "Unknown NotYetObserved"
			want := map[string]string{
				"Ready": unknown, "AgentConnected": unknown, "DHCPReady": unknown, "TFTPReady": unknown, "HTTPReady": unknown, "DNSReady": unknown, "NTPReady": unknown,
				"ContentReady": unknown, "MachineRunning": c.running,
			}
			if diff := cmp.Diff(want, summary(got.Conditions)); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
			if IsServerStale(&got, c.m) {
				t.Error("the result is stale, want it to hold")
			}
			if DescribesPowerOn(&got, c.m) {
				t.Error("the result describes a power-on, want it replaced by the first observation")
			}
		})
	}
}

// After a start of the manager a status holds while the server is connected for the first
// time, and is not trusted when that fails.
func TestStatusHolds(t *testing.T) {
	for name, c := range map[string]struct {
		phase v1alpha1.TargetPhase
		edit  func(*v1alpha1.BareMetalTarget, *TargetObservation)
		holds bool
		// after is the phase when the connection fails, ready the status of Ready.
		after v1alpha1.TargetPhase
		ready string
	}{
		"ready":      {phase: v1alpha1.TargetReady, holds: true, after: v1alpha1.TargetPending, ready: "Unknown NotYetObserved"},
		"installing": {phase: v1alpha1.TargetInstalling, holds: true, after: v1alpha1.TargetInstalling, ready: "Unknown NotYetObserved"},
		"booting":    {phase: v1alpha1.TargetBooting, holds: true, after: v1alpha1.TargetBooting, ready: "Unknown NotYetObserved"},
		"failed":     {phase: v1alpha1.TargetFailed, holds: true, after: v1alpha1.TargetFailed, ready: "Unknown NotYetObserved"},
		"not observed by an earlier manager either": {phase: v1alpha1.TargetPending, holds: true,
			edit: func(bmt *v1alpha1.BareMetalTarget, _ *TargetObservation) {
				bmt.Status = UnobservedTarget(targetIn(v1alpha1.TargetReady), running, epoch.Add(time.Hour))
			}, after: v1alpha1.TargetPending, ready: "Unknown NotYetObserved"},
		"paused": {phase: v1alpha1.TargetReady, holds: true,
			edit:  func(_ *v1alpha1.BareMetalTarget, o *TargetObservation) { o.Paused = true },
			after: v1alpha1.TargetPending, ready: "Unknown NotYetObserved"},
		"paused, power off declared": {phase: v1alpha1.TargetReady, holds: true,
			edit: func(bmt *v1alpha1.BareMetalTarget, o *TargetObservation) {
				bmt.Spec.Power, o.Paused = v1alpha1.PowerOff, true
			},
			after: v1alpha1.TargetPending, ready: "Unknown NotYetObserved"},
		"pending": {phase: v1alpha1.TargetPending, after: v1alpha1.TargetBooting, ready: "False Booting"},
		"power off declared": {phase: v1alpha1.TargetReady,
			edit:  func(bmt *v1alpha1.BareMetalTarget, _ *TargetObservation) { bmt.Spec.Power = v1alpha1.PowerOff },
			after: v1alpha1.TargetStopped, ready: "False PoweredOff"},
		"started since": {phase: v1alpha1.TargetReady,
			edit:  func(_ *v1alpha1.BareMetalTarget, o *TargetObservation) { o.Machine = startedAt(epoch.Add(time.Hour)) },
			after: v1alpha1.TargetBooting, ready: "False Booting"},
		"off": {phase: v1alpha1.TargetReady, edit: func(_ *v1alpha1.BareMetalTarget, o *TargetObservation) { o.Machine = off },
			after: v1alpha1.TargetPending, ready: "False Starting"},
	} {
		t.Run(name, func(t *testing.T) {
			bmt := target("a")
			bmt.Status = targetIn(c.phase)
			bmt.Status.InstalledGeneration = 1
			o := TargetObservation{Machine: running, Connecting: true, Now: epoch.Add(2 * time.Hour)}
			if c.edit != nil {
				c.edit(bmt, &o)
				bmt.Status.InstalledGeneration = 1
			}
			if got := StatusHolds(bmt, o); got != c.holds {
				t.Errorf("while connecting: got %t, want %t", got, c.holds)
			}
			o.Connecting = false
			if StatusHolds(bmt, o) {
				t.Error("the connection failed: the status holds, want it not to")
			}
			rounds := 1
			if c.ready == "Unknown NotYetObserved" {
				rounds = 3 // nothing grows
			}
			bmt.Status.Message = ""
			for range rounds {
				out := TargetStatus(bmt, o)
				if out.Phase != c.after {
					t.Errorf("the connection failed: got phase %s, want %s", out.Phase, c.after)
				}
				conditions := TargetConditions(bmt, o, out)
				setConditions(&bmt.Status.Conditions, 1, o.Now, conditions...)
				if got := summary(bmt.Status.Conditions)["Ready"]; got != c.ready {
					t.Errorf("the connection failed: got Ready %s, want %s", got, c.ready)
				}
				if first := bmt.Status.Message; first != "" && first != out.Message {
					t.Errorf("got message %q after %q, want it unchanged", out.Message, first)
				}
				bmt.Status.Phase, bmt.Status.Message = out.Phase, out.Message
				bmt.Status.Timeline = Timeline(bmt.Status.Timeline, out.Phase, o.Now)
			}
		})
	}
}

func TestLabDown(t *testing.T) {
	now := epoch.Add(time.Hour)
	const down = "False LabDown"
	bmt := LabDownTarget(targetIn(v1alpha1.TargetReady), off, now)
	if bmt.Phase != v1alpha1.TargetStopped || bmt.Power != v1alpha1.PowerOff || bmt.Message != labDown || bmt.Progress != "" {
		t.Errorf("target: got %+v", bmt)
	}
	want := map[string]string{"Ready": down, "Progressing": down, "MachineRunning": "False ProcessExited"}
	if diff := cmp.Diff(want, summary(bmt.Conditions)); diff != "" {
		t.Errorf("target's conditions (-want +got):\n%s", diff)
	}
	if IsTargetStale(&bmt, off) {
		t.Error("target: the status of a stopped lab is stale, want it to hold until the manager has observed the target")
	}
	if got := meta.FindStatusCondition(bmt.Conditions, v1alpha1.ConditionReady).ObservedGeneration; got != 3 {
		t.Errorf("target: got generation %d, want that of the status, 3", got)
	}
	if diff := cmp.Diff(bmt, LabDownTarget(bmt, off, now.Add(time.Hour))); diff != "" {
		t.Errorf("target, again (-want +got):\n%s", diff)
	}

	s := LabDownServer(serverIn(v1alpha1.ServerReady), off, now)
	if s.Phase != v1alpha1.ServerStopped || s.PoweredOnAt != nil || s.Message != labDown {
		t.Errorf("server: got %+v", s)
	}
	want = map[string]string{
		"Ready": down, "AgentConnected": down, "DHCPReady": down, "TFTPReady": down, "HTTPReady": down, "DNSReady": down, "NTPReady": down, "ContentReady": down,
		"MachineRunning": "False ProcessExited",
	}
	if diff := cmp.Diff(want, summary(s.Conditions)); diff != "" {
		t.Errorf("server's conditions (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(s, LabDownServer(s, off, now.Add(time.Hour))); diff != "" {
		t.Errorf("server, again (-want +got):\n%s", diff)
	}
}
