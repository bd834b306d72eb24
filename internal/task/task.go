// SPDX-License-Identifier: Apache-2.0

// Package task runs long work in the background for reconcilers that must not
// block: downloads, conversions, shutdowns. A reconciler asks again and again
// for the same work and is told how far it is; it is woken when that changes.
//
// The package holds no queue and no persistence: whoever asks after a restart
// starts the work anew, so the work itself must be idempotent.
package task

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// Status is how far a piece of work is. Exactly one of Running, Done and Err
// holds.
type Status[P, R any] struct {
	Running bool
	// Progress is what the work reported last.
	Progress P
	Done     bool
	Result   R
	Err      error
	// RetryAt is when the work is next started, if it failed.
	RetryAt time.Time
}

// Func is a piece of work. It reports progress as often as it likes.
type Func[P, R any] func(ctx context.Context, report func(P)) (R, error)

// Options of a Group.
type Options struct {
	// Wake is called with the key when a task's progress changed, at most once
	// a second for a key, and at once when it ended. It must not block.
	Wake func(key string)
	// Backoff before the first retry, doubled each time up to MaxBackoff.
	Backoff, MaxBackoff time.Duration
	// Longest, when not nil, is the longest pause behind this error, which may
	// be shorter than MaxBackoff; 0 leaves it at that.
	Longest func(err error) time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Group runs tasks of one kind, at most one for a key. It is safe for
// concurrent use.
type Group[P, R any] struct {
	options Options
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu    sync.Mutex
	tasks map[string]*running[P, R]
}

type running[P, R any] struct {
	fingerprint string
	cancel      context.CancelFunc
	status      Status[P, R]
	failures    int
	wokenAt     time.Time
}

// NewGroup makes an empty group. Close it.
func NewGroup[P, R any](o Options) *Group[P, R] {
	if o.Now == nil {
		o.Now = time.Now
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Group[P, R]{options: o, ctx: ctx, cancel: cancel, tasks: map[string]*running[P, R]{}}
}

// Run makes sure that the work of key is under way or done, and tells how far
// it is. fingerprint stands for the work's input: when it differs from the last
// call's, what was done for the old one is dropped and the work starts over.
// Failed work is started again by the first call after RetryAt.
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

// Cancel ends the work of key and reports whether nothing of it runs any more.
// While it says false, the key is woken when the work has ended.
func (g *Group[P, R]) Cancel(key string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.tasks[key]
	if t == nil {
		return true
	}
	t.cancel()
	return !t.status.Running
}

// Forget ends the work of key, if it runs, and drops its result. The work may
// take its time to end; see Cancel.
func (g *Group[P, R]) Forget(key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.tasks[key]; t != nil {
		t.cancel()
		delete(g.tasks, key)
	}
}

// Close cancels all work and waits for it.
func (g *Group[P, R]) Close() {
	g.cancel()
	g.wg.Wait()
}

func (g *Group[P, R]) start(key string, t *running[P, R], work Func[P, R]) {
	ctx, cancel := context.WithCancel(g.ctx)
	t.cancel = cancel
	t.status = Status[P, R]{Running: true}
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
	current := g.tasks[key] == t
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
	if current && g.ctx.Err() == nil {
		g.options.Wake(key)
	}
}
