// SPDX-License-Identifier: Apache-2.0

// Package task runs long work in the background for reconcilers that must not
// block: downloads, conversions, shutdowns. Each reconcile requests the same work
// and gets its status; the reconciler is woken when the status changes.
//
// Tasks are neither queued nor persisted: after a restart the next request starts
// the work from scratch, so the work must be idempotent.
package task

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// Status is the state of a task. Exactly one of Running, Done and Err is set.
type Status[P, R any] struct {
	Running bool
	// Progress is the last progress that the work reported.
	Progress P
	Done     bool
	Result   R
	Err      error
	// RetryAt is the earliest time of the next attempt if the work failed.
	RetryAt time.Time
}

// Func is the work of a task. It may report progress at any rate.
type Func[P, R any] func(ctx context.Context, report func(P)) (R, error)

// Options configures a Group.
type Options struct {
	// Wake is called with the key when a task reports progress, at most once a
	// second for each key, and immediately when it ends. It must not block.
	Wake func(key string)
	// Backoff is the time before the first retry. It doubles with each failure up
	// to MaxBackoff.
	Backoff, MaxBackoff time.Duration
	// Longest, if not nil, returns an upper bound for the backoff after an error,
	// which may be shorter than MaxBackoff; 0 means no additional bound.
	Longest func(err error) time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Group runs tasks of one kind, at most one for each key. It is safe for concurrent
// use.
type Group[P, R any] struct {
	options Options
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu    sync.Mutex
	tasks map[string]*running[P, R]
	// works counts, by key, the work that has not ended: that of the task, and that
	// which was replaced or forgotten.
	works map[string]int
}

type running[P, R any] struct {
	fingerprint string
	cancel      context.CancelFunc
	status      Status[P, R]
	failures    int
	wokenAt     time.Time
}

// NewGroup returns an empty group. The caller must call Close.
func NewGroup[P, R any](o Options) *Group[P, R] {
	if o.Now == nil {
		o.Now = time.Now
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Group[P, R]{options: o, ctx: ctx, cancel: cancel, tasks: map[string]*running[P, R]{}, works: map[string]int{}}
}

// Run ensures that the work of key is running or done, and returns its status.
// fingerprint identifies the work's input: if it differs from that of the previous
// call, the old work is cancelled, its result dropped, and the new work started.
// Failed work is restarted by the first call at or after RetryAt.
func (g *Group[P, R]) Run(key, fingerprint string, work Func[P, R]) Status[P, R] {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.tasks[key]
	switch {
	case t == nil || t.fingerprint != fingerprint:
		if t != nil {
			t.cancel()
		}
		t = &running[P, R]{fingerprint: fingerprint}
		g.tasks[key] = t
		g.start(key, t, work)
	case t.status.Err != nil && !g.options.Now().Before(t.status.RetryAt):
		g.start(key, t, work)
	}
	return t.status
}

// Cancel cancels the work of key and reports whether all of it has ended, also that
// which was replaced or forgotten. If not, Wake is called with the key when it has.
func (g *Group[P, R]) Cancel(key string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.tasks[key]; t != nil {
		t.cancel()
	}
	return g.works[key] == 0
}

// Forget cancels the work of key and drops its result. It does not wait for the
// work to end; see Cancel.
func (g *Group[P, R]) Forget(key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.tasks[key]; t != nil {
		t.cancel()
		delete(g.tasks, key)
	}
}

// Close cancels all work and waits until it has ended.
func (g *Group[P, R]) Close() {
	g.cancel()
	g.wg.Wait()
}

func (g *Group[P, R]) start(key string, t *running[P, R], work Func[P, R]) {
	ctx, cancel := context.WithCancel(g.ctx)
	t.cancel = cancel
	t.status = Status[P, R]{Running: true}
	g.works[key]++
	g.wg.Go(func() {
		defer cancel()
		result, err := call(ctx, work, func(p P) { g.report(key, t, p) })
		g.finish(key, t, result, err)
	})
}

func call[P, R any](ctx context.Context, work Func[P, R], report func(P)) (result R, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return work(ctx, report)
}

func (g *Group[P, R]) report(key string, t *running[P, R], p P) {
	g.mu.Lock()
	current := g.tasks[key] == t
	t.status.Progress = p
	now := g.options.Now()
	wake := current && now.Sub(t.wokenAt) >= time.Second
	if wake {
		t.wokenAt = now
	}
	g.mu.Unlock()
	if wake {
		g.options.Wake(key)
	}
}

func (g *Group[P, R]) finish(key string, t *running[P, R], result R, err error) {
	g.mu.Lock()
	wake := g.tasks[key] == t
	if g.works[key]--; g.works[key] == 0 {
		delete(g.works, key)
		wake = true
	}
	if err != nil {
		backoff := min(g.options.Backoff<<min(t.failures, 16), g.options.MaxBackoff)
		if g.options.Longest != nil {
			if longest := g.options.Longest(err); longest > 0 {
				backoff = min(backoff, longest)
			}
		}
		t.failures++
		t.status = Status[P, R]{Err: err, RetryAt: g.options.Now().Add(backoff)}
	} else {
		t.failures = 0
		t.status = Status[P, R]{Done: true, Result: result}
	}
	g.mu.Unlock()
	if wake && g.ctx.Err() == nil {
		g.options.Wake(key)
	}
}
