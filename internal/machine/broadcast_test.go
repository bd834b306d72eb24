// SPDX-License-Identifier: Apache-2.0

package machine_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/pxelab/pxelab/internal/machine"
)

// TestFeedKeepsTheLast has a watcher that reads nothing while far more is
// published than it may lag behind.
func TestFeedKeepsTheLast(t *testing.T) {
	var f machine.Feed
	ctx, cancel := context.WithCancel(t.Context())
	events := f.Watch(ctx)
	const machines, each = 10, 1000
	for n := range each {
		for m := range machines {
			f.Publish(machine.Event{ID: fmt.Sprint(m), Type: machine.EventReset, Detail: fmt.Sprint(n)})
		}
	}
	last, count := map[string]string{}, 0
	for done := 0; done < machines; count++ {
		e := <-events
		last[e.ID] = e.Detail
		if e.Detail == fmt.Sprint(each-1) {
			done++
		}
	}
	if count >= machines*each {
		t.Errorf("got %d events, want fewer than the %d that were published", count, machines*each)
	}
	cancel()
	for e := range events {
		t.Errorf("after the end: got event %+v, want none", e)
	}
	f.Publish(machine.Event{ID: "0"}) // no watcher is left
}

func TestFeedKeepsOrder(t *testing.T) {
	var f machine.Feed
	ctx, cancel := context.WithCancel(t.Context())
	a, b := f.Watch(ctx), f.Watch(ctx)
	for n := range 100 {
		f.Publish(machine.Event{Detail: fmt.Sprint(n)})
	}
	for n := range 100 {
		want := machine.Event{Detail: fmt.Sprint(n)}
		for name, events := range map[string]<-chan machine.Event{"a": a, "b": b} {
			if got := <-events; got != want {
				t.Fatalf("watcher %s, event %d: got %+v, want %+v", name, n, got, want)
			}
		}
	}
	cancel()
	for range a {
	}
	for range b {
	}
}
