// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"slices"
	"sync"
)

// Slots limits how much work runs at a time, fairly between tenants and between the
// parts of each tenant. The work of one tenant leaves a slot free for the others, and
// that of one part leaves another one free for the tenant's other parts. Among those
// that may run, the tenant, and then the part, that was served longest ago is next. It
// is safe for concurrent use.
type Slots struct {
	size int

	mu      sync.Mutex
	clock   int
	running map[owner]int
	// turns has when an owner was last served; only of owners with work.
	turns   map[owner]int
	waiting []*waiter // in order of arrival
}

// owner is a part of a tenant, or with part "" the tenant; the zero owner is
// everything.
type owner struct{ tenant, part string }

type waiter struct {
	owner   owner
	arrival int
	granted chan struct{}
}

// NewSlots returns n slots, at least 3.
func NewSlots(n int) *Slots {
	return &Slots{size: max(n, 3), running: map[owner]int{}, turns: map[owner]int{}}
}

// Acquire waits for a slot for the work of a tenant's part and returns the function
// that releases it, which must be called once. tenant and part must not be empty. The
// error is that of ctx.
func (s *Slots) Acquire(ctx context.Context, tenant, part string) (release func(), err error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	s.mu.Lock()
	s.clock++
	w := &waiter{owner: owner{tenant, part}, arrival: s.clock, granted: make(chan struct{})}
	s.waiting = append(s.waiting, w)
	s.grant()
	s.mu.Unlock()
	select {
	case <-w.granted:
		return func() { s.release(w) }, nil
	case <-ctx.Done():
		s.release(w)
		return nil, ctx.Err()
	}
}

// release ends the work of w, or its wait.
func (s *Slots) release(w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting, w); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	} else {
		for _, o := range w.owners() {
			if s.running[o]--; s.running[o] == 0 {
				delete(s.running, o)
			}
		}
	}
	for _, o := range w.owners() {
		if s.running[o] == 0 && !slices.ContainsFunc(s.waiting, func(w *waiter) bool { return slices.Contains(w.owners(), o) }) {
			delete(s.turns, o)
		}
	}
	s.grant()
}

// owners returns the owners of whose slots w takes one, the widest first.
func (w *waiter) owners() []owner { return []owner{{}, {tenant: w.owner.tenant}, w.owner} }

// grant gives slots to those who wait, as long as there are any.
func (s *Slots) grant() {
	for {
		next := -1
		for i, w := range s.waiting {
			if s.allowed(w) && (next < 0 || slices.Compare(s.rank(w), s.rank(s.waiting[next])) < 0) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		w := s.waiting[next]
		s.waiting = slices.Delete(s.waiting, next, next+1)
		s.clock++
		for _, o := range w.owners() {
			s.running[o]++
			s.turns[o] = s.clock
		}
		close(w.granted)
	}
}

func (s *Slots) allowed(w *waiter) bool {
	for i, o := range w.owners() {
		if s.running[o] >= s.size-i {
			return false
		}
	}
	return true
}

// rank orders those who wait. An owner that was not served counts from its arrival, so
// that it cannot overtake the others again and again.
func (s *Slots) rank(w *waiter) []int {
	var out []int
	for _, o := range w.owners()[1:] {
		turn, served := s.turns[o]
		if !served {
			turn = w.arrival
		}
		out = append(out, turn)
	}
	return append(out, w.arrival)
}
