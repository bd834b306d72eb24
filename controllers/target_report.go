// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/storage"
)

// report writes what was observed into the status, and the error that ended
// the reconciliation, if any. It says when to look again.
func (r *BareMetalTargetReconciler) report(w *targetWork, failure error) time.Duration {
	t, now := w.target, r.Host.Now()
	o := r.observation(w, failure)
	out := plan.Target(t, o)
	if plan.AttemptFailed(t, o, out) {
		if err := r.recordFailure(w, out); err != nil {
			o.Failure = errors.Join(o.Failure, err)
		}
		o.Record = w.record
		out = plan.Target(t, o)
	}
	s := &t.Status
	s.Phase, s.Progress, s.Message, s.Accelerator = out.Phase, out.Progress, clip(out.Message, maxMessage), string(w.state.Accelerator)
	if out.Install != nil {
		s.Install = out.Install
	}
	s.Power = v1alpha1.PowerOff
	if w.state.Phase.Alive() {
		s.Power = v1alpha1.PowerOn
	}
	s.Timeline = plan.Timeline(s.Timeline, out.Phase, plan.PhaseStart(out.Phase, s.Timeline, w.state.StartedAt, now))
	for _, c := range plan.TargetConditions(t, o, out) {
		set(&s.Conditions, t.Generation, c)
	}
	recheck := recheckEvery
	if o.Diagnosis == nil && plan.Boots(out.Phase) {
		recheck = diagnoseEvery
	}
	for _, sooner := range []time.Duration{out.Recheck, w.recheck} {
		if sooner > 0 {
			recheck = min(recheck, max(sooner, time.Second))
		}
	}
	return recheck
}

// observation is what the phase and the conditions are computed from.
func (r *BareMetalTargetReconciler) observation(w *targetWork, failure error) plan.TargetObservation {
	t, now := w.target, r.Host.Now()
	o := plan.TargetObservation{
		Blocker: w.blocker, Unfit: w.unfit, Machine: w.state, Failure: failure, Paused: w.paused,
		Record: w.record, ProfileDigest: w.profileDigest(),
		AgentConnected: w.session.Connected, Seen: w.seen, Now: now,
		OtherDisks: w.stopping || (w.record.Generation != 0 && w.record.Generation != t.Spec.InstallGeneration),
	}
	if w.state.Phase.Alive() {
		o.PowerOn = plan.PowerOn(w.state.StartedAt)
	}
	// Nobody saw it move while its server was away, and it could not while it
	// was paused or its disk was not to be written.
	round := fmt.Sprint(o.PowerOn, o.AgentConnected, o.Paused, w.state.Stall != nil)
	step := plan.TargetStep(t, o)
	o.StepSince = r.steps.since(t.UID, step, round, now)
	if plan.Boots(step.Phase) {
		o.Diagnosis = r.logs.diagnose(t.UID, w.paths.SerialLog, w.state, now)
	}
	return o
}

// recordFailure writes down that the present attempt has failed.
func (r *BareMetalTargetReconciler) recordFailure(w *targetWork, out plan.TargetOutcome) error {
	t := w.target
	record, err := storage.MarkFailed(w.paths.Dir, storage.Failure{
		Attempt: w.record.Attempt, Reason: out.Reason, Message: clip(out.Message, maxMessage), Lines: out.Lines, At: r.Host.Now().UTC(),
		Declared: t.Generation, ProfileDigest: w.profileDigest(),
	}, plan.Failures(t, w.record, w.profileDigest())+1)
	if err != nil {
		return err
	}
	tell(r.Events, t, corev1.EventTypeWarning, "AttemptFailed", "Install", out.Message)
	w.setRecord(record)
	return nil
}

// steps remembers since when a target is at its step. It is safe for
// concurrent use. What is forgotten by a restart only delays the word that a
// target has stalled.
type steps struct {
	mu sync.Mutex
	at map[types.UID]stepSince
}

type stepSince struct {
	step  plan.Step
	round string
	since time.Time
}

func (s *steps) since(uid types.UID, step plan.Step, round string, now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil {
		s.at = map[types.UID]stepSince{}
	}
	if old, ok := s.at[uid]; ok && old.step == step && old.round == round {
		return old.since
	}
	s.at[uid] = stepSince{step: step, round: round, since: now}
	return now
}

func (s *steps) forget(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.at, uid)
}
