// SPDX-License-Identifier: Apache-2.0

package qemu_test

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-logr/logr/funcr"

	"github.com/pxelab/pxelab/internal/machine"
)

// A guest that panics again and again floods neither the log nor the events.
func TestPanicsAreReportedSeldom(t *testing.T) {
	_, o := fakeProgram(t)
	var logged atomic.Int32
	o.Log = funcr.New(func(_, args string) {
		if strings.Contains(args, "The guest panicked") {
			logged.Add(1)
		}
	}, funcr.Options{})
	stopAll(t, o)
	l := open(t, o)
	m := bare(machine.X8664)
	start(t, l, m)
	events := l.Watch(within(t))
	panics := func(n int) {
		t.Helper()
		for range n {
			monitor(t, l, m.ID, "o /b 0x505 1")
		}
	}
	panics(100)
	if err := l.Reset(within(t), m.ID); err != nil {
		t.Fatal(err)
	}
	awaitState(t, l, m.ID, "the reset", func(s machine.State) bool { return s.Resets == 1 && !s.GuestPanicked })
	if got := logged.Load(); got != 7 {
		t.Errorf("100 panics: got %d lines in the log, want 7", got)
	}
	panics(1)
	awaitState(t, l, m.ID, "the panic after the reset", func(s machine.State) bool { return s.GuestPanicked })
	published := 0
	for reset := false; !reset; {
		switch e := <-events; e.Type {
		case machine.EventGuestPanicked:
			published++
		case machine.EventReset:
			reset = true
		}
	}
	if published != 1 {
		t.Errorf("100 panics: got %d events, want 1", published)
	}
	for e := range events {
		if e.Type == machine.EventGuestPanicked {
			break // the one after the reset
		}
	}
}
