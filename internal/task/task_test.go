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

func TestCancelTellsWhenTheWorkHasEnded(t *testing.T) {
	g, _, woken := newGroup(t)
	if !g.Cancel("k") {
		t.Error("work that nobody asked for still runs")
	}
	cleanup := make(chan struct{})
	g.Run("k", "f", func(ctx context.Context, _ func(int)) (string, error) {
		<-ctx.Done()
		<-cleanup
		return "", ctx.Err()
	})
	if g.Cancel("k") {
		t.Error("the work has ended while it cleans up")
	}
	close(cleanup)
	<-woken
	if !g.Cancel("k") {
		t.Error("the work has not ended after it said so")
	}
}

func TestProgressIsTold(t *testing.T) {
	g, c, woken := newGroup(t)
	reported, next := make(chan struct{}), make(chan struct{})
	work := func(_ context.Context, report func(int)) (string, error) {
		for i := range 3 {
			report(i)
			reported <- struct{}{}
			<-next
		}
		return "end", nil
	}
	c.move(time.Hour)
	g.Run("k", "f", work)
	<-reported
	if key := <-woken; key != "k" {
		t.Errorf("woke %q", key)
	}
	next <- struct{}{}
	<-reported
	if s := g.Run("k", "f", work); !s.Running || s.Progress != 1 {
		t.Errorf("%+v, want the latest progress", s)
	}
	if len(woken) != 0 {
		t.Error("woken twice within a second")
	}
	c.move(time.Second)
	next <- struct{}{}
	<-reported
	<-woken
	next <- struct{}{}
	<-woken
	if s := g.Run("k", "f", work); !s.Done {
		t.Errorf("%+v, want done", s)
	}
}

func TestForgottenWorkStartsOver(t *testing.T) {
	g, _, woken := newGroup(t)
	var runs atomic.Int32
	work := func(context.Context, func(int)) (string, error) {
		runs.Add(1)
		return "", nil
	}
	for range 2 {
		g.Run("k", "f", work)
		<-woken
		g.Forget("k")
	}
	if runs.Load() != 2 {
		t.Errorf("work ran %d times, want 2", runs.Load())
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
