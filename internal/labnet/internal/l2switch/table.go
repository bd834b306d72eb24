// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"sync"
	"time"
)

type mac [6]byte

func (m mac) group() bool { return m[0]&1 != 0 }

// refresh is the age at which a frame renews an entry. It keeps the write lock
// out of the fast path.
const refresh = time.Second

// table maps an address to the port on which it was last seen.
type table struct {
	age     time.Duration
	maxPort int

	mu      sync.RWMutex
	entries map[mac]entry
	ports   map[*port]*tablePort
}

type entry struct {
	port   *port
	seen   time.Time
	locked bool
}

type tablePort struct {
	count int
	swept time.Time
}

func (t *table) init(age time.Duration, maxPort int) {
	t.age, t.maxPort = age, maxPort
	t.entries = map[mac]entry{}
	t.ports = map[*port]*tablePort{}
}

// verdict is the result of learning a frame's source address.
type verdict int

const (
	learned verdict = iota
	unlearned
	spoofed
)

// learn records that src was seen on p, unless src is locked to another port.
func (t *table) learn(p *port, src mac, now time.Time) verdict {
	t.mu.RLock()
	e, ok := t.entries[src]
	t.mu.RUnlock()
	switch {
	case ok && e.locked && e.port != p:
		return spoofed
	case ok && e.locked, ok && e.port == p && now.Sub(e.seen) < refresh:
		return learned
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	tp := t.ports[p]
	if tp == nil {
		return unlearned // the port is being removed
	}
	e, ok = t.entries[src]
	if ok && e.locked {
		if e.port != p {
			return spoofed
		}
		return learned
	}
	if !ok || e.port != p {
		if tp.count >= t.maxPort && !t.sweep(p, tp, now) {
			return unlearned
		}
		t.remove(src)
		tp.count++
	}
	t.entries[src] = entry{port: p, seen: now}
	return learned
}

// lookup returns the port of dst, or nil if it is unknown.
func (t *table) lookup(dst mac, now time.Time) *port {
	t.mu.RLock()
	defer t.mu.RUnlock()
	e, ok := t.entries[dst]
	if !ok || (!e.locked && now.Sub(e.seen) > t.age) {
		return nil
	}
	return e.port
}

// lock registers a port and, if the policy has a MAC, locks the MAC to the port.
func (t *table) lock(p *port, pol policy) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ports[p] == nil {
		t.ports[p] = &tablePort{}
	}
	for m, e := range t.entries {
		if e.port == p && e.locked && (!pol.locked || m != pol.mac) {
			t.remove(m)
		}
	}
	if pol.locked {
		t.remove(pol.mac)
		t.ports[p].count++
		t.entries[pol.mac] = entry{port: p, locked: true}
	}
}

func (t *table) forget(p *port) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for m, e := range t.entries {
		if e.port == p {
			delete(t.entries, m)
		}
	}
	delete(t.ports, p)
}

func (t *table) count(p *port) int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if tp := t.ports[p]; tp != nil {
		return tp.count
	}
	return 0
}

// remove and sweep require t.mu.

func (t *table) remove(m mac) {
	if e, ok := t.entries[m]; ok {
		t.ports[e.port].count--
		delete(t.entries, m)
	}
}

// sweep removes p's aged entries and reports whether there is room now. It runs at
// most once a second, so that a machine that forges addresses cannot cause load.
func (t *table) sweep(p *port, tp *tablePort, now time.Time) bool {
	if now.Sub(tp.swept) < refresh {
		return false
	}
	tp.swept = now
	for m, e := range t.entries {
		if e.port == p && !e.locked && now.Sub(e.seen) > t.age {
			t.remove(m)
		}
	}
	return tp.count < t.maxPort
}
