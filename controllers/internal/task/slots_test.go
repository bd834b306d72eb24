// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

// queue is work that waits for slots, and that it got in order.
type queue struct {
	t     *testing.T
	slots *Slots

	mu      sync.Mutex
	granted []string
	release map[string]func()
}

func newQueue(t *testing.T, slots *Slots) *queue {
	return &queue{t: t, slots: slots, release: map[string]func(){}}
}

// add starts work named "tenant/part/number" for each number, and waits until each
// has a slot or waits for one.
func (q *queue) add(ctx context.Context, tenant, part string, numbers ...int) {
	for _, n := range numbers {
		go func() {
			release, err := q.slots.Acquire(ctx, tenant, part)
			if err != nil {
				return
			}
			q.mu.Lock()
			defer q.mu.Unlock()
			name := fmt.Sprintf("%s/%s/%d", tenant, part, n)
			q.granted = append(q.granted, name)
			q.release[name] = release
		}()
		synctest.Wait()
	}
}

// end ends work and waits until the slot is given to other work.
func (q *queue) end(names ...string) {
	for _, name := range names {
		q.mu.Lock()
		release := q.release[name]
		delete(q.release, name)
		q.mu.Unlock()
		if release == nil {
			q.t.Fatalf("%s does not run", name)
		}
		release()
		synctest.Wait()
	}
}

// endAll ends all work in the order in which it got its slots.
func (q *queue) endAll() {
	for i := 0; i < len(q.granted); i++ {
		if name := q.granted[i]; q.release[name] != nil {
			q.end(name)
		}
	}
}

func (q *queue) check(want ...string) {
	q.t.Helper()
	if diff := cmp.Diff(want, q.granted); diff != "" {
		q.t.Errorf("slots were given to (-want +got):\n%s", diff)
	}
}

func TestSlotsLeaveRoomForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, NewSlots(3))
		q.add(t.Context(), "a", "slow", 1, 2, 3, 4)
		q.check("a/slow/1")
		q.add(t.Context(), "a", "other", 1, 2)
		q.check("a/slow/1", "a/other/1")
		q.add(t.Context(), "a", "third", 1)
		q.check("a/slow/1", "a/other/1")
		q.add(t.Context(), "b", "x", 1, 2)
		q.check("a/slow/1", "a/other/1", "b/x/1")
		q.add(t.Context(), "c", "x", 1)
		q.endAll()
		if len(q.granted) != 10 {
			t.Errorf("got %v, want all 10", q.granted)
		}
	})
}

func TestSlotsAreFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, NewSlots(3))
		q.add(t.Context(), "a", "p", 1, 2, 3, 4)
		q.add(t.Context(), "a", "q", 1, 2)
		q.add(t.Context(), "b", "p", 1, 2)
		q.add(t.Context(), "c", "p", 1)
		q.check("a/p/1", "a/q/1", "b/p/1")
		q.end("a/p/1") // tenant a was served before b; c came after both
		q.check("a/p/1", "a/q/1", "b/p/1", "a/p/2")
		q.end("a/p/2")
		q.check("a/p/1", "a/q/1", "b/p/1", "a/p/2", "c/p/1")
		// b's part takes its only slot, so a is next: q was served before p.
		q.end("a/q/1")
		q.check("a/p/1", "a/q/1", "b/p/1", "a/p/2", "c/p/1", "a/q/2")
		q.end("b/p/1")
		q.check("a/p/1", "a/q/1", "b/p/1", "a/p/2", "c/p/1", "a/q/2", "b/p/2")
		q.endAll()
	})
}

// Work that comes back at once does not overtake other work that waits.
func TestSlotsServeWaitingBeforeReturning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, NewSlots(3))
		q.add(t.Context(), "a", "p", 1)
		q.add(t.Context(), "b", "p", 1)
		q.add(t.Context(), "c", "p", 1)
		q.add(t.Context(), "d", "p", 1)
		for i := range 3 {
			q.add(t.Context(), "e", "p", i)
		}
		q.end("c/p/1")
		q.add(t.Context(), "c", "p", 2)
		q.end("a/p/1", "b/p/1")
		q.check("a/p/1", "b/p/1", "c/p/1", "d/p/1", "e/p/0", "c/p/2")
		q.endAll()
	})
}

func TestSlotsReleaseCancelledWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots(0)
		q := newQueue(t, s)
		q.add(t.Context(), "a", "p", 1)
		ctx, cancel := context.WithCancel(t.Context())
		q.add(ctx, "a", "p", 2)
		q.add(t.Context(), "a", "p", 3)
		cancel()
		synctest.Wait()
		q.end("a/p/1")
		q.check("a/p/1", "a/p/3")
		q.endAll()
		if _, err := s.Acquire(ctx, "a", "p"); !errors.Is(err, context.Canceled) {
			t.Errorf("got error %v, want context.Canceled", err)
		}
		q.add(t.Context(), "a", "p", 4)
		q.endAll()
		if len(s.running)+len(s.waiting)+len(s.turns) > 0 {
			t.Errorf("slots keep %v, %v and %v of work that has ended", s.running, s.waiting, s.turns)
		}
	})
}
