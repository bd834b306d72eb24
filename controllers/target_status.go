// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/metrics"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/seriallog"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// connectPatience is how long a manager that has just started may take to connect to a
// server before the statuses of its targets no longer hold, and connectInterval how often
// its targets look for it. Events of the session come earlier.
const (
	connectPatience = 30 * time.Second
	connectInterval = 5 * time.Second
)

// connecting reports whether the manager has just started, and is connecting to the
// target's server for the first time.
func (r *BareMetalTargetReconciler) connecting(scope *targetScope) bool {
	s := scope.server
	if s == nil || scope.session.Connected || s.Status.PoweredOnAt == nil || r.Host.Now().Sub(r.started) >= connectPatience {
		return false
	}
	return r.Host.Sessions.Observe(string(s.UID)).Error == nil
}

// report computes the status from what was observed and from the error that ended the
// steps, if any. It returns the time until the next reconciliation.
func (r *BareMetalTargetReconciler) report(ctx context.Context, scope *targetScope, failure error) time.Duration {
	t, now := scope.target, r.Host.Now()
	o := r.observation(scope, failure)
	if failure == nil && plan.StatusHolds(t, o) {
		scope.holds, scope.unobserved = true, true
		return connectInterval
	}
	out := plan.TargetStatus(t, o)
	if plan.AttemptFailed(t, o, out) {
		if err := r.recordFailure(ctx, scope, out); err != nil {
			o.Failure = errors.Join(o.Failure, err)
		}
		o.Record = scope.record
		out = plan.TargetStatus(t, o)
	}
	scope.unobserved = out.Unobserved
	s := &t.Status
	s.Phase = out.Phase
	s.Progress = out.Progress
	s.Message = clip(out.Message, maxMessage)
	s.Accelerator = string(scope.state.Accelerator)
	if out.Install != nil {
		shown := *out.Install
		shown.ID = plan.LastAttempt(t)
		s.Install = &shown
	}
	if found := plan.HardwareStatus(scope.seen); found != nil {
		s.Hardware = found
	}
	s.Power = v1alpha1.PowerOff
	if scope.state.Phase.Alive() {
		s.Power = v1alpha1.PowerOn
	}
	s.Timeline = plan.Timeline(s.Timeline, out.Phase, plan.PhaseStart(out.Phase, s.Timeline, scope.state.StartedAt, now))
	conditions := plan.TargetConditions(t, o, out)
	s.PendingChanges = plan.PendingChanges(t, o)
	for _, c := range conditions {
		setCondition(&s.Conditions, t.Generation, c)
	}
	recheck := resyncInterval
	if o.Diagnosis == nil && plan.IsBooting(out.Phase) {
		recheck = diagnosisInterval
	}
	return earliest(recheck, out.Recheck, scope.recheck)
}

// observation returns what the phase and the conditions are computed from.
func (r *BareMetalTargetReconciler) observation(scope *targetScope, failure error) plan.TargetObservation {
	t, now := scope.target, r.Host.Now()
	o := plan.TargetObservation{
		Blocker: scope.blocker, Unfit: scope.unfit, Machine: scope.state, Failure: failure, Paused: scope.paused,
		Restarts: scope.restarts, Record: scope.record, ProfileDigest: scope.profileDigest(),
		Network:        plan.NetworkOfTemplates(scope.network, scope.templates),
		AgentConnected: scope.session.Connected, Connecting: r.connecting(scope), Seen: scope.seen, Now: now,
		OtherDisks: scope.stopping || (scope.record.Generation != 0 && scope.record.Generation != plan.Generation(t)),
	}
	if scope.state.Phase.Alive() {
		o.PowerOn = plan.PowerOnID(scope.state.StartedAt)
		o.Started = scope.started
	}
	if scope.keys != nil {
		o.Declared = plan.Declared(scope.entryInput())
	}
	// Progress is not observed while the server is away, and impossible while the
	// target is paused or its disk must not be written.
	round := fmt.Sprint(o.PowerOn, o.AgentConnected, o.Paused, scope.state.Stall != nil)
	step := plan.CurrentStep(t, o)
	if plan.IsBooting(step.Phase) {
		o.Diagnosis = r.logs.diagnose(t.UID, scope.paths.SerialLog, scope.state, now)
	}
	reached := r.steps.observe(t.UID, step, round, o.Diagnosis, now)
	o.StepSince, o.Furthest, o.Earlier = reached.Since, reached.Step, reached.Finding
	return o
}

// recordFailure records on disk that the current attempt has failed.
func (r *BareMetalTargetReconciler) recordFailure(ctx context.Context, scope *targetScope, out plan.TargetOutcome) error {
	t := scope.target
	record, err := targetdisk.MarkFailed(scope.paths.Dir, targetdisk.Failure{
		Attempt: scope.record.Attempt, Reason: out.Reason, Message: clip(out.Message, maxMessage), Lines: out.Lines, At: r.Host.Now().UTC(),
		Declared: t.Generation, ProfileDigest: scope.profileDigest(),
	}, plan.ConsecutiveFailures(t, scope.record, scope.profileDigest())+1)
	if err != nil {
		return err
	}
	r.Host.Metrics.AttemptEnded(metrics.AttemptFailed, out.Reason)
	ctrl.LoggerFrom(ctx).Info("Attempt failed", "attempt", record.Attempt.String(), "reason", out.Reason)
	recordEvent(r.Events, t, event{corev1.EventTypeWarning, v1alpha1.ReasonAttemptFailed, "Install", out.Message})
	scope.setRecord(record)
	return nil
}

// stepTimes records how far each target has come, and since when. It is safe for
// concurrent use. A restart only delays the report of a stall.
type stepTimes struct {
	mu sync.Mutex
	at map[types.UID]plan.Reached
}

func (s *stepTimes) observe(uid types.UID, step plan.Step, round string, f *seriallog.Finding, now time.Time) plan.Reached {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil {
		s.at = map[types.UID]plan.Reached{}
	}
	s.at[uid] = s.at[uid].Observe(step, round, f, now)
	return s.at[uid]
}

func (s *stepTimes) forget(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.at, uid)
}

// earliest returns the shortest of the delays, at least a second; 0 and a delay that
// is over are never.
func earliest(delays ...time.Duration) time.Duration {
	var first time.Duration
	for _, d := range delays {
		if d <= 0 {
			continue
		}
		if d = max(d, time.Second); first == 0 || d < first {
			first = d
		}
	}
	return first
}
