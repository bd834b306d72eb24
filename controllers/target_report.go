// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/plan"
)

// report writes what was observed into the status, and the error that ended
// the reconciliation, if any. It says when to look again.
func (r *BareMetalTargetReconciler) report(w *targetWork, failure error) time.Duration {
	t, now := w.target, r.Host.Now()
	o := plan.TargetObservation{
		Blocker: w.blocker, Unfit: w.unfit, Machine: w.state, Failure: failure,
		AgentConnected: w.session.Connected, Seen: w.seen, Now: now,
		OtherDisks: w.record.Generation != 0 && w.record.Generation != t.Spec.InstallGeneration,
	}
	if w.state.Phase.Alive() {
		o.PowerOn = plan.PowerOn(w.state.StartedAt)
	}
	step := plan.TargetStep(t, o)
	o.StepSince = r.steps.since(t.UID, step, o.PowerOn, now)
	if plan.Boots(step.Phase) {
		o.Diagnosis = r.logs.diagnose(t.UID, w.paths.SerialLog, w.state, now)
	}
	out := plan.Target(t, o)
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

// steps remembers since when a target is at its step. It is safe for
// concurrent use. What is forgotten by a restart only delays the word that a
// target has stalled.
type steps struct {
	mu sync.Mutex
	at map[types.UID]stepSince
}

type stepSince struct {
	step  plan.Step
	power string
	since time.Time
}

func (s *steps) since(uid types.UID, step plan.Step, power string, now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil {
		s.at = map[types.UID]stepSince{}
	}
	if old, ok := s.at[uid]; ok && old.step == step && old.power == power {
		return old.since
	}
	s.at[uid] = stepSince{step: step, power: power, since: now}
	return now
}

func (s *steps) forget(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.at, uid)
}
