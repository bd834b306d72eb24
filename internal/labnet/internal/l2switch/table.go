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

// table maps an address to the port on which it was last seen. What it does for one
// port depends on the addresses of that port only.
type table struct {
	age     time.Duration
	maxPort int

	mu      sync.RWMutex
	entries map[mac]entry
}

type entry struct {
	port   *port
	seen   time.Time
	locked bool
}

// tablePort is what the table knows of one port.
type tablePort struct {
	// locked is the address that is locked to the port; zero for none.
	locked mac
	// learned are the other addresses; nil before the first.
	learned map[mac]struct{}
	swept   time.Time
}

func (tp *tablePort) count() int {
	n := len(tp.learned)
	if tp.locked != (mac{}) {
		n++
	}
	return n
}

func (t *table) init(age time.Duration, maxPort int) {
	t.age, t.maxPort = age, maxPort
	t.entries = map[mac]entry{}
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
	e, ok = t.entries[src]
	if ok && e.locked {
		if e.port != p {
			return spoofed
		}
		return learned
	}
	if !ok || e.port != p {
		if p.macs.count() >= t.maxPort && !t.sweep(p, now) {
			return unlearned
		}
		t.remove(src)
		if p.macs.learned == nil {
			p.macs.learned = map[mac]struct{}{}
		}
		p.macs.learned[src] = struct{}{}
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

// lockedTo returns the port to which an address is locked, or nil.
func (t *table) lockedTo(m mac) *port {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if e := t.entries[m]; e.locked {
		return e.port
	}
	return nil
}

// lock locks the MAC of a policy to a port, or unlocks it if the policy has none.
func (t *table) lock(p *port, pol policy) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.macs.locked != (mac{}) && p.macs.locked != pol.mac {
		t.remove(p.macs.locked)
	}
	if pol.locked && p.macs.locked != pol.mac {
		t.remove(pol.mac)
		p.macs.locked = pol.mac
		t.entries[pol.mac] = entry{port: p, locked: true}
	}
}

func (t *table) forget(p *port) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for m := range p.macs.learned {
		delete(t.entries, m)
	}
	if p.macs.locked != (mac{}) {
		delete(t.entries, p.macs.locked)
	}
	p.macs = tablePort{}
}

func (t *table) count(p *port) int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return p.macs.count()
}

// remove and sweep require t.mu.

func (t *table) remove(m mac) {
	e, ok := t.entries[m]
	if !ok {
		return
	}
	delete(t.entries, m)
	if e.locked {
		e.port.macs.locked = mac{}
	} else {
		delete(e.port.macs.learned, m)
	}
}

// sweep removes p's aged entries and reports whether there is room now. It runs at
// most once a second, so that a machine that forges addresses cannot cause load.
func (t *table) sweep(p *port, now time.Time) bool {
	if now.Sub(p.macs.swept) < refresh {
		return false
	}
	p.macs.swept = now
	for m := range p.macs.learned {
		if now.Sub(t.entries[m].seen) > t.age {
			t.remove(m)
		}
	}
	return p.macs.count() < t.maxPort
}
