// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"sync"
	"time"
)

// ipv6Addr is an IPv6 address as a packet contains it.
type ipv6Addr [16]byte

// mac returns the MAC from which an interface identifier was made (RFC 4291, appendix A).
func (a ipv6Addr) mac() (m mac, ok bool) {
	if a[11] != 0xff || a[12] != 0xfe {
		return mac{}, false
	}
	return mac{a[8] ^ 2, a[9], a[10], a[13], a[14], a[15]}, true
}

const (
	// maxClaims bounds the IPv6 addresses of a port. Systems use a few at a time, and
	// replace some of them once a day.
	maxClaims = 32
	// claimAge is how long an address remains claimed after its last packet.
	claimAge = time.Hour
)

// claims knows which port used an IPv6 address first: it keeps the address until it has
// not used it for claimAge, or is removed.
type claims struct {
	mu        sync.RWMutex
	addresses map[ipv6Addr]claim
}

type claim struct {
	port *port
	seen time.Time
}

func (c *claims) init() { c.addresses = map[ipv6Addr]claim{} }

// claim reports whether an address belongs to p, which it does from now on if it is free
// and p has not too many.
func (c *claims) claim(p *port, a ipv6Addr, now time.Time) bool {
	c.mu.RLock()
	e, held := c.addresses[a]
	c.mu.RUnlock()
	if held && e.port == p && now.Sub(e.seen) < refresh {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e, held = c.addresses[a]
	switch {
	case held && e.port == p:
	case held && now.Sub(e.seen) <= claimAge:
		return false
	case len(p.claimed) >= maxClaims && !c.sweep(p, now):
		return false
	default:
		if held {
			delete(e.port.claimed, a)
		}
		if p.claimed == nil {
			p.claimed = map[ipv6Addr]struct{}{}
		}
		p.claimed[a] = struct{}{}
	}
	c.addresses[a] = claim{port: p, seen: now}
	return true
}

// sweep removes p's addresses that it has not used for long, and reports whether there is
// room now. It runs at most once a second, so that a machine that forges addresses cannot
// cause load. It requires c.mu.
func (c *claims) sweep(p *port, now time.Time) bool {
	if now.Sub(p.claimsSwept) < refresh {
		return false
	}
	p.claimsSwept = now
	for a := range p.claimed {
		if now.Sub(c.addresses[a].seen) > claimAge {
			delete(c.addresses, a)
			delete(p.claimed, a)
		}
	}
	return len(p.claimed) < maxClaims
}

// forget removes the addresses of a port.
func (c *claims) forget(p *port) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for a := range p.claimed {
		delete(c.addresses, a)
	}
	p.claimed = nil
}
