// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a hand-moved clock.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time        { return time.Unix(0, c.at.Load()) }
func (c *clock) move(by time.Duration) { c.at.Add(int64(by)) }

func newGroup(t *testing.T) (*Group[int, string], *clock, chan string) {
	t.Helper()
	c, woken := &clock{}, make(chan string, 100)
	g := NewGroup[int, string](Options{Wake: func(k string) { woken <- k }, Backoff: time.Second, MaxBackoff: 3 * time.Second, Now: c.now})
	t.Cleanup(g.Close)
	return g, c, woken
}

func TestWorkRunsOnceAndItsResultStays(t *testing.T) {
	g, _, woken := newGroup(t)
	var runs atomic.Int32
	work := func(context.Context, func(int)) (string, error) {
		runs.Add(1)
		return "result", nil
	}
	if s := g.Run("k", "f", work); !s.Running {
		t.Fatalf("first call: %+v, want running", s)
	}
	<-woken
	for range 3 {
		if s := g.Run("k", "f", work); !s.Done || s.Result != "result" {
			t.Fatalf("later call: %+v, want done", s)
		}
	}
	if runs.Load() != 1 {
		t.Errorf("work ran %d times, want once", runs.Load())
	}
}

func TestFailedWorkIsRetriedAfterABackoffThatGrows(t *testing.T) {
	g, c, woken := newGroup(t)
	boom := errors.New("boom")
	var runs atomic.Int32
	work := func(context.Context, func(int)) (string, error) {
		runs.Add(1)
		return "", boom
	}
	for i, want := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second} {
		g.Run("k", "f", work)
		<-woken
		s := g.Run("k", "f", work)
		if !errors.Is(s.Err, boom) || s.RetryAt.Sub(c.now()) != want {
			t.Fatalf("after failure %d: %+v, want retry in %s", i+1, s, want)
		}
		c.move(want)
	}
	if runs.Load() != 4 {
		t.Errorf("work ran %d times, want 4", runs.Load())
	}
}

func TestNewInputCancelsTheOldWork(t *testing.T) {
	g, _, woken := newGroup(t)
	cancelled := make(chan struct{})
	g.Run("k", "old", func(ctx context.Context, _ func(int)) (string, error) {
		<-ctx.Done()
		close(cancelled)
		return "", ctx.Err()
	})
	g.Run("k", "new", func(context.Context, func(int)) (string, error) { return "new", nil })
	<-cancelled
	<-woken
	if s := g.Run("k", "new", nil); s.Result != "new" {
		t.Errorf("got %+v, want the new work's result", s)
	}
}

func TestPanicIsAnError(t *testing.T) {
	g, _, woken := newGroup(t)
	work := func(context.Context, func(int)) (string, error) { panic("ouch") }
	g.Run("k", "f", work)
	<-woken
	if s := g.Run("k", "f", work); s.Err == nil {
		t.Errorf("got %+v, want an error", s)
	}
}
