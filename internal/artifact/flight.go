// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"context"
	"sync"
)

// flights lets concurrent calls for the same thing share one piece of work.
// The work runs until it is done or the last of its callers has gone.
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

// outcome is what a flight brings back.
type outcome struct {
	artifact Artifact
	meta     map[string]string
}

// do runs work under key, or joins the one that runs. progress is called from
// the goroutine of the caller and not after do has returned. When ctx ends,
// do returns its error at once unless the work is to end with it: then it waits
// for that, so nothing runs behind the last caller's back.
func (f *flights) do(ctx context.Context, key string, progress func(Progress), work func(context.Context, func(Progress)) (outcome, error)) (outcome, error) {
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

// join enters the flight under key, starting it when there is none.
func (f *flights) join(ctx context.Context, key string, updates chan Progress, work func(context.Context, func(Progress)) (outcome, error)) (*flight, error) {
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
		// Its callers have gone and it is ending: wait, then begin anew.
		select {
		case <-fl.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// start must be called with mu held.
func (f *flights) start(ctx context.Context, key string, updates chan Progress, work func(context.Context, func(Progress)) (outcome, error)) *flight {
	// The work must outlive the caller who happened to be first.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	fl := &flight{cancel: cancel, done: make(chan struct{}), callers: map[chan Progress]struct{}{updates: {}}}
	if f.all == nil {
		f.all = make(map[string]*flight)
	}
	f.all[key] = fl
	go func() {
		defer cancel()
		fl.result, fl.err = work(ctx, func(p Progress) { f.tell(fl, p) })
		f.mu.Lock()
		delete(f.all, key)
		f.mu.Unlock()
		close(fl.done)
	}()
	return fl
}

// tell hands p to all callers; one who has not taken the last gets the newer.
func (f *flights) tell(fl *flight, p Progress) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl.latest = p
	for c := range fl.callers {
		select {
		case <-c:
		default:
		}
		c <- p // room for one, and only we send, under mu
	}
}

// leave reports whether the caller was the last.
func (f *flights) leave(fl *flight, updates chan Progress) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(fl.callers, updates)
	return len(fl.callers) == 0
}
