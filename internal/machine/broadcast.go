// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"sync"
)

// feedLimit is how many events a watcher may lag behind before older events of
// a machine give way to its newest.
const feedLimit = 1024

// Feed hands events to any number of watchers without ever waiting for one. It
// is for implementations of [Runner]; the zero Feed is ready to use.
type Feed struct {
	mu       sync.Mutex
	watchers map[*watcher]struct{}
}

// watcher is one reader's queue.
type watcher struct {
	mu    sync.Mutex
	queue []Event
	wake  chan struct{} // holds one token when queue is not empty
}

// Publish queues the event for every watcher. Never blocks.
func (f *Feed) Publish(e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.watchers {
		w.push(e)
	}
}

// Watch implements [Runner.Watch].
func (f *Feed) Watch(ctx context.Context) <-chan Event {
	w := &watcher{wake: make(chan struct{}, 1)}
	f.mu.Lock()
	if f.watchers == nil {
		f.watchers = map[*watcher]struct{}{}
	}
	f.watchers[w] = struct{}{}
	f.mu.Unlock()

	out := make(chan Event)
	go func() {
		defer close(out)
		defer func() {
			f.mu.Lock()
			delete(f.watchers, w)
			f.mu.Unlock()
		}()
		w.deliver(ctx, out)
	}()
	return out
}

func (w *watcher) push(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) >= feedLimit {
		w.queue = newestPerMachine(w.queue)
	}
	w.queue = append(w.queue, e)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) deliver(ctx context.Context, out chan<- Event) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
		w.mu.Lock()
		batch := w.queue
		w.queue = nil
		w.mu.Unlock()
		for _, e := range batch {
			select {
			case out <- e:
			case <-ctx.Done():
				return
			}
		}
	}
}

// newestPerMachine keeps each machine's last event, in their order.
func newestPerMachine(queue []Event) []Event {
	last := map[string]int{}
	for i, e := range queue {
		last[e.ID] = i
	}
	kept := make([]Event, 0, len(last)+1)
	for i, e := range queue {
		if last[e.ID] == i {
			kept = append(kept, e)
		}
	}
	return kept
}
