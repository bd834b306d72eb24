// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"slices"
	"sync"
	"time"
)

// ipv4 is an IPv4 address as a packet contains it.
type ipv4 [4]byte

// bindings maps each IPv4 address of [Policy.Addresses] to its port.
type bindings struct {
	// age is how long the other machines may remember the MAC of an earlier owner.
	age time.Duration

	mu        sync.RWMutex
	addresses map[ipv4]*binding
	// left are the addresses without an owner, in the order in which they lost it.
	left []leftAddress
}

// binding is one address. Two ports that have it, as while it moves from one to the
// other, are both in owners, and the address then counts as unknown.
type binding struct {
	owners []*port
	// last is the MAC of the last owner.
	last mac
	// loudUntil is when announcements of the address end to matter to all machines.
	loudUntil time.Time
	// leftAt is when the last owner left.
	leftAt time.Time
}

type leftAddress struct {
	address ipv4
	at      time.Time
}

func (b *bindings) init(age time.Duration) {
	b.age = age
	b.addresses = map[ipv4]*binding{}
}

// set replaces the addresses of a port whose machine has a MAC.
func (b *bindings) set(p *port, own mac, addresses []ipv4, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forgetLeft(now)
	for _, a := range p.bound {
		if !slices.Contains(addresses, a) {
			b.release(p, a, now)
		}
	}
	for _, a := range addresses {
		e := b.addresses[a]
		if e == nil {
			e = &binding{last: own}
			b.addresses[a] = e
		}
		if !slices.Contains(e.owners, p) {
			e.owners = append(e.owners, p)
		}
		if e.last != own {
			e.last, e.loudUntil = own, now.Add(b.age)
		}
	}
	p.bound = addresses
}

// forget releases the addresses of a port.
func (b *bindings) forget(p *port, now time.Time) { b.set(p, mac{}, nil, now) }

// release requires b.mu.
func (b *bindings) release(p *port, a ipv4, now time.Time) {
	e := b.addresses[a]
	e.owners = slices.DeleteFunc(e.owners, func(o *port) bool { return o == p })
	if len(e.owners) == 0 {
		e.leftAt = now
		b.left = append(b.left, leftAddress{a, now})
	}
}

// forgetLeft removes the addresses that lost their owner so long ago that no machine
// remembers its MAC. It requires b.mu.
func (b *bindings) forgetLeft(now time.Time) {
	for len(b.left) > 0 && now.Sub(b.left[0].at) > b.age {
		gone := b.left[0]
		b.left = b.left[1:]
		if e := b.addresses[gone.address]; e != nil && len(e.owners) == 0 && e.leftAt.Equal(gone.at) {
			delete(b.addresses, gone.address)
		}
	}
}

// owner returns the port of an address, or nil if it is unknown, and whether
// announcements of it matter to all machines.
func (b *bindings) owner(a ipv4, now time.Time) (p *port, loud bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	e := b.addresses[a]
	if e == nil || len(e.owners) != 1 {
		return nil, false
	}
	return e.owners[0], now.Before(e.loudUntil)
}

// foreign reports whether an address belongs to other ports than p.
func (b *bindings) foreign(p *port, a ipv4) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	e := b.addresses[a]
	return e != nil && len(e.owners) > 0 && !slices.Contains(e.owners, p)
}

// contest records that a machine that is not the owner announced an address: for a
// while the owner's announcements, with which it defends the address, go to all
// machines.
func (b *bindings) contest(a ipv4, now time.Time) {
	until := now.Add(b.age)
	b.mu.RLock()
	e := b.addresses[a]
	known := e == nil || until.Sub(e.loudUntil) < refresh
	b.mu.RUnlock()
	if known {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.addresses[a]; e != nil {
		e.loudUntil = until
	}
}
