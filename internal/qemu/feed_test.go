// SPDX-License-Identifier: Apache-2.0

package qemu_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/pxelab/pxelab/internal/qemu"
)

// TestFeedKeepsTheLast has a watcher that reads nothing while far more is
// published than it may lag behind.
func TestFeedKeepsTheLast(t *testing.T) {
	var f qemu.Feed
	ctx, cancel := context.WithCancel(within(t))
	events := f.Watch(ctx)
	const machines, each = 10, 1000
	for n := range each {
		for m := range machines {
			f.Publish(qemu.Event{ID: fmt.Sprint(m), Type: qemu.EventReset, Detail: fmt.Sprint(n)})
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
		t.Errorf("all %d events were kept", count)
	}
	cancel()
	for range events {
		t.Error("an event after the end")
	}
	f.Publish(qemu.Event{ID: "0"}) // nobody watches
}

func TestFeedKeepsOrder(t *testing.T) {
	var f qemu.Feed
	ctx, cancel := context.WithCancel(within(t))
	a, b := f.Watch(ctx), f.Watch(ctx)
	for n := range 100 {
		f.Publish(qemu.Event{Detail: fmt.Sprint(n)})
	}
	for n := range 100 {
		if x, y := <-a, <-b; x.Detail != fmt.Sprint(n) || y != x {
			t.Fatalf("event %d: %+v and %+v", n, x, y)
		}
	}
	cancel()
	for range a {
	}
	for range b {
	}
}
