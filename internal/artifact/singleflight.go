// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"context"
	"sync"
)

// flights lets concurrent calls for the same key share one piece of work. The
// work runs until it is done or its last caller leaves.
type flights struct {
	mu  sync.Mutex
	all map[string]*flight
}

type flight struct {
	cancel context.CancelFunc
	done   chan struct{}
	result outcome
	err    error

	// Guarded by flights.mu.
	callers map[chan Progress]struct{}
	latest  Progress
}

// outcome is the result of a flight.
type outcome struct {
	artifact Artifact
	meta     map[string]string
}

// workFunc is the work of a flight; it reports its progress to report.
type workFunc = func(ctx context.Context, report func(Progress)) (outcome, error)

// do runs work under key, or joins the flight that is running. It calls progress
// on the caller's goroutine, and not after it has returned. When ctx ends, do
// returns the cause at once if other callers remain; the last caller cancels the
// work and waits for it, so that nothing runs after do has returned.
func (f *flights) do(ctx context.Context, key string, progress func(Progress), work workFunc) (outcome, error) {
	updates := make(chan Progress, 1)
	fl, err := f.join(ctx, key, updates, work)
	if err != nil {
		return outcome{}, err
	}
	for {
		select {
		case p := <-updates:
			if progress != nil {
				progress(p)
			}
		case <-fl.done:
			return fl.result, fl.err
		case <-ctx.Done():
			if f.leave(fl, updates) {
				fl.cancel()
				<-fl.done
			}
			return outcome{}, context.Cause(ctx)
		}
	}
}

// join adds the caller to the flight under key, which it starts if necessary.
func (f *flights) join(ctx context.Context, key string, updates chan Progress, work workFunc) (*flight, error) {
	for {
		f.mu.Lock()
		fl := f.all[key]
		if fl == nil {
			fl = f.start(ctx, key, updates, work)
			f.mu.Unlock()
			return fl, nil
		}
		if len(fl.callers) > 0 {
			fl.callers[updates] = struct{}{}
			if fl.latest.Stage != "" {
				updates <- fl.latest
			}
			f.mu.Unlock()
			return fl, nil
		}
		f.mu.Unlock()
		// All callers have left and the flight is ending: wait, then start another.
		select {
		case <-fl.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// start must be called with mu held.
func (f *flights) start(ctx context.Context, key string, updates chan Progress, work workFunc) *flight {
	// The work must outlive the caller that started it.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	fl := &flight{cancel: cancel, done: make(chan struct{}), callers: map[chan Progress]struct{}{updates: {}}}
	if f.all == nil {
		f.all = make(map[string]*flight)
	}
	f.all[key] = fl
	go func() {
		defer cancel()
		fl.result, fl.err = work(ctx, func(p Progress) { f.broadcast(fl, p) })
		f.mu.Lock()
		delete(f.all, key)
		f.mu.Unlock()
		close(fl.done)
	}()
	return fl
}

// broadcast sends p to all callers. It replaces an update that a caller has not
// received yet.
func (f *flights) broadcast(fl *flight, p Progress) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl.latest = p
	for c := range fl.callers {
		select {
		case <-c:
		default:
		}
		c <- p // never blocks: capacity 1, and all sends happen under mu
	}
}

// leave removes the caller and reports whether it was the last.
func (f *flights) leave(fl *flight, updates chan Progress) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(fl.callers, updates)
	return len(fl.callers) == 0
}
