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

// clock is a clock that tests advance.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time        { return time.Unix(0, c.at.Load()) }
func (c *clock) move(by time.Duration) { c.at.Add(int64(by)) }

func newGroup(t *testing.T) (*Group[int, string], *clock, chan string) {
	t.Helper()
	c, woken := &clock{}, make(chan string, 100)
	g := NewGroup[int, string](Options{
		Wake:    func(k string) { woken <- k },
		Backoff: time.Second, MaxBackoff: 3 * time.Second,
		Now: c.now,
	})
	t.Cleanup(g.Close)
	return g, c, woken
}

func TestRunKeepsResult(t *testing.T) {
	g, _, woken := newGroup(t)
	var runs atomic.Int32
	work := func(context.Context, func(int)) (string, error) {
		runs.Add(1)
		return "result", nil
	}
	if s := g.Run("k", "f", work); !s.Running {
		t.Fatalf("first Run = %+v, want running", s)
	}
	<-woken
	for range 3 {
		s := g.Run("k", "f", work)
		if !s.Done {
			t.Fatalf("later Run = %+v, want done", s)
		}
		if s.Result != "result" {
			t.Fatalf("later Run: got result %q, want \"result\"", s.Result)
		}
	}
	if runs.Load() != 1 {
		t.Errorf("work ran %d times, want once", runs.Load())
	}
}

func TestRunRetriesWithBackoff(t *testing.T) {
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
		if !errors.Is(s.Err, boom) {
			t.Fatalf("after failure %d: got error %v, want %v", i+1, s.Err, boom)
		}
		if got := s.RetryAt.Sub(c.now()); got != want {
			t.Fatalf("after failure %d: got a retry in %s, want %s", i+1, got, want)
		}
		c.move(want)
	}
	if runs.Load() != 4 {
		t.Errorf("work ran %d times, want 4", runs.Load())
	}
}

func TestRunCancelsWorkOfOldInput(t *testing.T) {
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
		t.Errorf("got %+v, want the result of the new work", s)
	}
}

// Work that was replaced or forgotten may still write its files.
func TestCancelWaitsForReplacedWork(t *testing.T) {
	for name, replace := range map[string]func(*Group[int, string]){
		"replaced": func(g *Group[int, string]) {
			g.Run("k", "new", func(context.Context, func(int)) (string, error) { return "", nil })
		},
		"forgotten": func(g *Group[int, string]) { g.Forget("k") },
	} {
		t.Run(name, func(t *testing.T) {
			g, _, woken := newGroup(t)
			started, cleanup := make(chan struct{}), make(chan struct{})
			g.Run("k", "old", func(context.Context, func(int)) (string, error) {
				close(started)
				<-cleanup
				return "", nil
			})
			<-started
			replace(g)
			if g.Cancel("k") {
				t.Error("while the old work runs: got true, want false")
			}
			close(cleanup)
			for !g.Cancel("k") {
				<-woken
			}
		})
	}
}

func TestCancelReportsEnd(t *testing.T) {
	g, _, woken := newGroup(t)
	if !g.Cancel("k") {
		t.Error("Cancel of an unknown key = false, want true")
	}
	cleanup := make(chan struct{})
	g.Run("k", "f", func(ctx context.Context, _ func(int)) (string, error) {
		<-ctx.Done()
		<-cleanup
		return "", ctx.Err()
	})
	if g.Cancel("k") {
		t.Error("Cancel during clean-up = true, want false")
	}
	close(cleanup)
	<-woken
	if !g.Cancel("k") {
		t.Error("Cancel after the end = false, want true")
	}
}

func TestProgressWakesOncePerSecond(t *testing.T) {
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
		t.Errorf("woke %q, want %q", key, "k")
	}
	next <- struct{}{}
	<-reported
	s := g.Run("k", "f", work)
	if !s.Running {
		t.Errorf("got %+v, want running", s)
	}
	if s.Progress != 1 {
		t.Errorf("got progress %d, want 1", s.Progress)
	}
	if len(woken) != 0 {
		t.Errorf("got %d more wake-ups within a second, want none", len(woken))
	}
	c.move(time.Second)
	next <- struct{}{}
	<-reported
	<-woken
	next <- struct{}{}
	<-woken
	if s := g.Run("k", "f", work); !s.Done {
		t.Errorf("got %+v, want done", s)
	}
}

func TestForgetDropsResult(t *testing.T) {
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

func TestPanicIsReportedAsError(t *testing.T) {
	g, _, woken := newGroup(t)
	work := func(context.Context, func(int)) (string, error) { panic("ouch") }
	g.Run("k", "f", work)
	<-woken
	if s := g.Run("k", "f", work); s.Err == nil {
		t.Errorf("got %+v, want an error", s)
	}
}
