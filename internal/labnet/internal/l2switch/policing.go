// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"sync"
	"sync/atomic"
	"time"
)

// Rates of a port whose policy limits them, and how much it may send at once after a
// pause. A system that boots sends a few dozen such frames.
const (
	// copyRate and copyBurst are in copies that the switch makes of frames that it
	// floods or sends to a group: a flood to a thousand ports costs as much as a thousand
	// frames. A flood counts for floodCopies at least, because each receiver handles it.
	copyRate    = 50_000
	copyBurst   = 2 * copyRate
	floodCopies = 50
	// resolveRate and resolveBurst are in ARP and neighbor discovery packets.
	resolveRate  = 500
	resolveBurst = 2 * resolveRate
	// requestRate and requestBurst are in messages to DHCP servers and routers.
	requestRate  = 50
	requestBurst = 2 * requestRate
)

// police limits what a port may send to many machines, or to services that keep state for
// each message. The zero value has not sent anything yet.
type police struct {
	mu                         sync.Mutex
	copies, resolves, requests bucket
}

// bucket is a token bucket. The zero value is full.
type bucket struct {
	tokens float64
	filled time.Time
}

// take takes n tokens if there are as many.
func (b *bucket) take(n, rate, burst float64, now time.Time) bool {
	if b.filled.IsZero() {
		b.tokens = burst
	} else if since := now.Sub(b.filled); since > 0 {
		b.tokens = min(burst, b.tokens+rate*since.Seconds())
	}
	b.filled = now
	// A frame that costs more than a burst passes if the bucket is full.
	if n = min(n, burst); b.tokens < n {
		return false
	}
	b.tokens -= n
	return true
}

// excess returns the counter of the rate that a packet from p exceeds, or nil.
func (s *Switch) excess(p *port, pk *packet, d decision, now time.Time) *atomic.Uint64 {
	copies := 0
	switch d.reach {
	case toAll:
		copies = max(floodCopies, s.ports.count())
	case toGroup:
		copies = s.groups.size(d.group)
	}
	p.police.mu.Lock()
	defer p.police.mu.Unlock()
	switch pk.kind {
	case dhcpRequest, routerRequest:
		if !p.police.requests.take(1, requestRate, requestBurst, now) {
			return &p.drops.requestRate
		}
	case arp, ndSolicitation, ndAdvertisement:
		if !p.police.resolves.take(1, resolveRate, resolveBurst, now) {
			return &p.drops.resolveRate
		}
	}
	if copies > 0 && !p.police.copies.take(float64(copies), copyRate, copyBurst, now) {
		return &p.drops.floodRate
	}
	return nil
}

const (
	// askedAddresses bounds the neighbor solicitations that are remembered of a port,
	// repeatWithin is how long.
	askedAddresses = 8
	repeatWithin   = 10 * time.Second
)

// asked remembers the addresses for which a machine has sent neighbor solicitations. The
// zero value remembers none.
type asked struct {
	mu   sync.Mutex
	last [askedAddresses]struct {
		address ipv6Addr
		at      time.Time
	}
	next int
}

// repeats reports whether a solicitation repeats one that nothing has answered.
func (a *asked) repeats(address ipv6Addr, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.last {
		if e := &a.last[i]; e.address == address && !e.at.IsZero() {
			again := now.Sub(e.at) < repeatWithin
			e.at = now
			return again
		}
	}
	a.last[a.next].address, a.last[a.next].at = address, now
	a.next = (a.next + 1) % askedAddresses
	return false
}
