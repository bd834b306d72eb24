// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// watchRetry is the pause before an ended watch is started again: the control plane
// may be down.
const watchRetry = 200 * time.Millisecond

// moment is an observed state of an object.
type moment struct {
	at  time.Time
	obj client.Object
}

// watcher records every state of the lab's servers, profiles and targets that the
// API has reported, so that a test can wait for events and examine the history
// afterwards. It survives restarts of the control plane.
type watcher struct {
	mu      sync.Mutex
	changed chan struct{}
	history map[string][]moment // by kind and name
}

// watch watches the lab until the test ends.
func (l *lab) watch(t testing.TB) *watcher {
	t.Helper()
	w := &watcher{changed: make(chan struct{}), history: map[string][]moment{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, list := range []func() client.ObjectList{
		func() client.ObjectList { return &v1alpha1.BareMetalTargetList{} },
		func() client.ObjectList { return &v1alpha1.ProvisioningServerList{} },
		func() client.ObjectList { return &v1alpha1.BootProfileList{} },
	} {
		wg.Go(func() {
			for ctx.Err() == nil {
				w.follow(ctx, l.client, list())
				select {
				case <-ctx.Done():
				case <-time.After(watchRetry):
				}
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	return w
}

// follow watches one kind until the watch ends. Without a resource version a watch
// starts with the existing objects.
func (w *watcher) follow(ctx context.Context, c client.WithWatch, list client.ObjectList) {
	stream, err := c.Watch(ctx, list)
	if err != nil {
		return
	}
	defer stream.Stop()
	for event := range stream.ResultChan() {
		if o, ok := event.Object.(client.Object); ok {
			w.record(o)
		}
	}
}

func (w *watcher) record(o client.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := keyOf(o)
	if h := w.history[key]; len(h) > 0 && h[len(h)-1].obj.GetResourceVersion() == o.GetResourceVersion() {
		return // reported again by a new watch
	}
	w.history[key] = append(w.history[key], moment{time.Now(), o})
	close(w.changed)
	w.changed = make(chan struct{})
}

func keyOf(o client.Object) string {
	switch o.(type) {
	case *v1alpha1.BareMetalTarget:
		return "target/" + o.GetName()
	case *v1alpha1.ProvisioningServer:
		return "server/" + o.GetName()
	default:
		return "profile/" + o.GetName()
	}
}

// since returns the states of an object observed at or after at, oldest first, and
// a channel that is closed at the next change of any object.
func (w *watcher) since(key string, at time.Time) ([]moment, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.history[key]
	first := len(h)
	for first > 0 && !h[first-1].at.Before(at) {
		first--
	}
	return h[first:len(h):len(h)], w.changed
}

// latest returns the last observed state, or nil.
func (w *watcher) latest(key string) client.Object {
	w.mu.Lock()
	defer w.mu.Unlock()
	if h := w.history[key]; len(h) > 0 {
		return h[len(h)-1].obj
	}
	return nil
}

// errTimeout is returned when a state was not observed within guestLimit.
var errTimeout = errors.New("timed out")

// until waits for a state of an object, observed at or after from, that satisfies
// ok, and returns it with the time of its observation. Past states count as well.
// ok returns an error if the state can no longer be reached.
func until[T client.Object](
	ctx context.Context, w *watcher, key string, from time.Time, ok func(T) (bool, error),
) (T, time.Time, error) {
	timeout := time.NewTimer(guestLimit)
	defer timeout.Stop()
	var last T
	for {
		states, changed := w.since(key, from)
		for _, m := range states {
			o, matches := m.obj.(T)
			if !matches {
				continue
			}
			last, from = o, m.at.Add(1)
			if done, err := ok(o); done || err != nil {
				return o, m.at, err
			}
		}
		select {
		case <-changed:
		case <-timeout.C:
			return last, time.Time{}, errTimeout
		case <-ctx.Done():
			return last, time.Time{}, ctx.Err()
		}
	}
}
