// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/seriallog"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// view is what the manager knows of a target.
type view struct {
	target      *v1alpha1.BareMetalTarget
	observation plan.TargetObservation
	reached     plan.Reached
}

// newView returns that of a target whose machine has just been started by a power-on.
func newView(c faultOutcome, powerOn string) *view {
	v := &view{target: &v1alpha1.BareMetalTarget{}}
	v.target.Spec.InstallGeneration = 1
	v.target.Spec.Power = v1alpha1.PowerOn
	record := targetdisk.Record{Attempt: targetdisk.Attempt{}.Begin(1), Installed: c.installed}
	v.target.Status.InstalledGeneration = record.InstalledGeneration()
	now := time.Now()
	v.observation = plan.TargetObservation{
		Record: record, AgentConnected: true, Now: now, PowerOn: powerOn,
		Machine: machine.State{Phase: machine.PhaseRunning, RunState: "running", StartedAt: now, Accelerator: machine.NoGuest},
	}
	return v
}

// poweredOff is the end of a machine that has switched itself off.
func (v *view) poweredOff() {
	o := &v.observation
	exit := &machine.Exit{Reason: machine.ExitGuestShutdown, At: o.Now, StartedAt: o.Machine.StartedAt, Code: -1}
	o.Machine = machine.State{Phase: machine.PhaseStopped, Exit: exit}
	o.PowerOn = ""
	o.Restarts = plan.Restarts{}.Observe(o.Machine, o.Now)
	o.Blocker = plan.Blocker{Reason: v1alpha1.ReasonRestartPending, Message: o.Restarts.Condition(o.Machine).Message}
}

// see observes the machine.
func (v *view) see(m netbootapi.MachineState, log string) {
	o := &v.observation
	o.Seen, o.Diagnosis = &m, nil
	step := plan.CurrentStep(v.target, *o)
	if plan.IsBooting(step.Phase) {
		o.Diagnosis = diagnose(log)
	}
	v.reached = v.reached.Observe(step, o.PowerOn, o.Diagnosis, o.Now)
	o.StepSince, o.Furthest, o.Earlier = v.reached.Since, v.reached.Step, v.reached.Finding
}

func diagnose(log string) *seriallog.Finding {
	f, found := seriallog.Diagnose([]byte(log))
	if !found {
		return nil
	}
	return &f
}

// after returns the outcome and a condition after a time without progress.
func (v *view) after(t *testing.T, waited time.Duration, condition string) (plan.TargetOutcome, plan.Condition) {
	t.Helper()
	o := v.observation
	o.Now = o.Now.Add(waited)
	out := plan.TargetStatus(v.target, o)
	conditions := plan.TargetConditions(v.target, o, out)
	i := slices.IndexFunc(conditions, func(c plan.Condition) bool { return c.Type == condition })
	if i < 0 {
		t.Fatalf("got the conditions %+v, want %s among them", conditions, condition)
	}
	return out, conditions[i]
}

func (v *view) check(t *testing.T, c faultOutcome) {
	t.Helper()
	if c.after > 0 {
		if _, is := v.after(t, c.after-time.Second, v1alpha1.ConditionProgressing); is.Status != metav1.ConditionTrue {
			t.Errorf("before the limit: got %s with %q, want no stall", is.Reason, is.Message)
		}
	}
	kind := c.condition
	if kind == "" {
		kind = v1alpha1.ConditionProgressing
	}
	out, is := v.after(t, c.after, kind)
	if out.Phase != c.phase {
		t.Errorf("got phase %s, want %s", out.Phase, c.phase)
	}
	if is.Status != metav1.ConditionFalse || is.Reason != c.reason {
		t.Errorf("condition %s: got %s with reason %s, want False with reason %s", kind, is.Status, is.Reason, c.reason)
	}
	for _, want := range c.messages {
		if !strings.Contains(is.Message, want) {
			t.Errorf("got message %q, want it to contain %q", is.Message, want)
		}
	}
}

// checkRealLog checks that a guest with the real cause gets the same reason, by the log
// that it has printed.
func (v *view) checkRealLog(t *testing.T, c faultOutcome) {
	t.Helper()
	log, err := seriallog.Tail(filepath.Join("..", "..", "..", "seriallog", "testdata", "logs", c.real+".log"), 0)
	if err != nil {
		t.Fatal(err)
	}
	other := *v
	if other.observation.Diagnosis = diagnose(string(log)); other.observation.Diagnosis == nil {
		t.Fatalf("got no finding in the log %s, want one", c.real)
	}
	out, is := other.after(t, c.after, v1alpha1.ConditionProgressing)
	if out.Phase != c.phase || is.Reason != c.reason {
		t.Errorf("with the log %s of a guest: got phase %s, reason %s, want %s, %s", c.real, out.Phase, is.Reason, c.phase, c.reason)
	}
}

// checkAttempt checks that the fault ends an attempt to install the machine, and only
// that, with the same reason.
func (v *view) checkAttempt(t *testing.T, c faultOutcome) {
	t.Helper()
	v.target.Spec.InstallTimeout.Duration = time.Minute
	o := v.observation
	o.Now = o.Now.Add(max(c.after, time.Minute))
	out := plan.TargetStatus(v.target, o)
	ends := !c.installed && !c.off
	if got := plan.AttemptFailed(v.target, o, out); got != ends {
		t.Fatalf("after the installation timeout: got a failed attempt %t, want %t", got, ends)
	}
	if !ends {
		return
	}
	v.target.Spec.MaxAttempts = 2
	for failures, phase := range map[int]v1alpha1.TargetPhase{1: v1alpha1.TargetPending, 2: v1alpha1.TargetFailed} {
		o.Record.Failures = failures
		o.Record.Failure = &targetdisk.Failure{Attempt: o.Record.Attempt, Reason: out.Reason, Message: out.Message, At: o.Now}
		if got := plan.TargetStatus(v.target, o); got.Phase != phase || got.Reason != c.reason {
			t.Errorf("after attempt %d of 2: got phase %s, reason %s, want %s, %s", failures, got.Phase, got.Reason, phase, c.reason)
		}
	}
}
