// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"time"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/qemu/internal/qmp"
)

const (
	// runStatePrelaunch is the run state of a guest that has not been let run since
	// its start, or since a reset that it could not survive.
	runStatePrelaunch = "prelaunch"

	// pollInterval is how often a machine is observed without an event, and
	// stallCheck how often one that does not run.
	pollInterval = 5 * time.Second
	stallCheck   = 2 * time.Second
	// answerTimeout is how long QEMU may take to answer before it is unresponsive;
	// startTimeout how long after its start, which takes seconds on a busy host.
	answerTimeout = 5 * time.Second
	startTimeout  = 60 * time.Second
)

// watcher keeps the view of one process current. It is level-triggered: it acts on
// the run state that it observes, and so also on what happened while no Local was
// connected.
type watcher struct {
	m   *instance
	log logr.Logger
	// process is the process that is watched, and since is when that began.
	process process.Identity
	since   time.Time
	policy  resumePolicy
	// stalled is set while a failed write is known to have stopped the guest.
	stalled bool
}

func newWatcher(m *instance, log logr.Logger, p process.Identity) *watcher {
	return &watcher{m: m, log: log, process: p, since: time.Now()}
}

// poke wakes watch.
func (m *instance) poke() {
	select {
	case m.poked <- struct{}{}:
	default:
	}
}

// watch observes the machine after each event and at intervals. It blocks until ctx
// ends.
func (w *watcher) watch(ctx context.Context) {
	for {
		w.observe(ctx)
		if ctx.Err() != nil {
			return
		}
		wait := stallCheck
		if w.current().phase == machine.PhaseRunning {
			wait = pollInterval
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-w.m.poked:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (w *watcher) current() view {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	return w.m.view
}

// observe queries the run state, acts on it and updates the view.
func (w *watcher) observe(ctx context.Context) {
	asking, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	r, client := w.m.snapshot()
	if client == nil {
		w.unanswered(w.since)
		return
	}
	runState, err := queryStatus(asking, client)
	if err != nil {
		w.log.V(1).Info("QEMU does not answer", "error", err.Error())
		if ctx.Err() == nil {
			w.unanswered(time.Time{})
		}
		return
	}
	v := view{phase: phaseOf(runState), runState: runState}
	requested := w.takeResume()
	switch runState {
	case "shutdown":
		w.m.guestShutDown(asking, w.log, client)
	case "guest-panicked":
		w.m.update(func() {
			if w.m.record.Resets == r.Resets { // else the answer is from before a reset
				w.m.record.GuestPanicked = true
			}
		})
	case runStatePrelaunch:
		w.resume(asking, client)
	case "paused":
		if requested {
			w.resume(asking, client)
		}
	case runStateIOError:
		if v.stall, err = w.stall(asking, client, requested); err != nil {
			w.log.V(1).Info("Querying the failed disk", "error", err.Error())
			v.stall = w.current().stall
		}
	}
	if runState != runStateIOError {
		w.stalled = false
	}
	w.set(v)
}

// unanswered records that QEMU does not answer, unless it has just been started or
// adopted. since is the beginning of the wait, zero when it is over.
func (w *watcher) unanswered(since time.Time) {
	patience := time.Duration(0)
	switch w.current().phase {
	case machine.PhaseStarting:
		since, patience = w.since, startTimeout
	case "":
		patience = queryTimeout
	}
	if time.Since(since) >= patience {
		w.set(view{phase: machine.PhaseUnresponsive})
	}
}

// set replaces the view and publishes a change of the phase or run state. It does
// nothing once the process has ended: the machine may have another one.
func (w *watcher) set(v view) {
	before := v
	w.m.update(func() {
		if w.m.record.running() && w.m.record.Process == w.process {
			before, w.m.view = w.m.view, v
		}
	})
	switch {
	case before.phase == v.phase && before.runState == v.runState:
	case before.phase == machine.PhaseStarting && v.phase == machine.PhaseRunning:
		w.m.local.publish(w.m.id, machine.EventStarted, "")
	case v.stall != nil:
		w.m.local.publish(w.m.id, machine.EventChanged, v.stall.String())
	default:
		w.m.local.publish(w.m.id, machine.EventChanged, string(v.phase)+" "+v.runState)
	}
}

// resume lets the guest execute. The next observation has the result.
func (w *watcher) resume(ctx context.Context, client *qmp.Client) {
	if err := client.Commands(ctx).Cont(); err != nil {
		w.log.V(1).Info("Resuming the guest failed", "error", err.Error())
		return
	}
	w.m.poke()
}

// takeResume reports whether a start requested that a paused guest resumes.
func (w *watcher) takeResume() bool {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	requested := w.m.resume
	w.m.resume = false
	return requested
}

// stall returns why a failed write has stopped the guest. It resumes the guest once
// the write can succeed, or when a start requested it.
func (w *watcher) stall(ctx context.Context, client *qmp.Client, requested bool) (*machine.Stall, error) {
	r, _ := w.m.snapshot()
	s, err := failedDisk(ctx, client, r.Machine)
	if err != nil {
		return nil, err
	}
	if s == nil {
		w.stalled = false
		if requested {
			w.resume(ctx, client)
		}
		return nil, nil
	}
	now := time.Now()
	if !w.stalled && !w.policy.triedRecently(now) {
		w.policy.refused = 0 // what stopped the guest is another write
	}
	demand(s, w.policy.refused)
	if !w.stalled {
		w.policy.stopped(s, now)
		w.log.Info("A failed write stopped the guest", "disk", s.Path, "noSpace", s.NoSpace, "free", s.Free, "needed", s.Needed)
	}
	w.stalled = true
	if requested || w.policy.shouldResume(s, now) {
		w.policy.triedAt = now
		w.log.Info("Resuming the guest", "disk", s.Path, "free", s.Free)
		w.resume(ctx, client)
		w.stalled = false // an event arrives if it stops again
	}
	return s, nil
}
