// SPDX-License-Identifier: Apache-2.0

package dhcp

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"sort"
	"time"
)

// LeaseState is the state of a lease.
type LeaseState string

// The states of a lease.
const (
	Offered  LeaseState = "Offered"
	Bound    LeaseState = "Bound"
	Released LeaseState = "Released"
	Expired  LeaseState = "Expired"
)

// Lease is the assignment of an address to a machine. It marshals to JSON with
// the MAC in colon-separated form.
type Lease struct {
	MAC      net.HardwareAddr
	Address  netip.Addr
	State    LeaseState
	Hostname string    // as sent by the client
	Expires  time.Time // of the offer or the lease
	LastSeen time.Time
}

type leaseJSON struct {
	MAC      string     `json:"mac"`
	Address  netip.Addr `json:"address"`
	State    LeaseState `json:"state"`
	Hostname string     `json:"hostname,omitempty"`
	Expires  time.Time  `json:"expires"`
	LastSeen time.Time  `json:"lastSeen"`
}

// MarshalJSON implements json.Marshaler.
func (l Lease) MarshalJSON() ([]byte, error) {
	return json.Marshal(leaseJSON{l.MAC.String(), l.Address, l.State, l.Hostname, l.Expires, l.LastSeen})
}

// UnmarshalJSON implements json.Unmarshaler.
func (l *Lease) UnmarshalJSON(b []byte) error {
	var j leaseJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return fmt.Errorf("reading a lease: %w", err)
	}
	mac, err := net.ParseMAC(j.MAC)
	if err != nil {
		return fmt.Errorf("reading a lease: %w", err)
	}
	*l = Lease{mac, j.Address, j.State, j.Hostname, j.Expires, j.LastSeen}
	return nil
}

// hwAddr is a MAC address that can be a map key.
type hwAddr [6]byte

const (
	// offerTime holds an offered address: EDK2 waits up to 32 s before it
	// selects an offer.
	offerTime = time.Minute
	// declineTime keeps an address out of the pool after a conflict was
	// detected.
	declineTime = 10 * time.Minute
	// maxScan bounds the search for a free address in a large pool.
	maxScan = 4096
)

// lease is an entry of the table. An address has at most one lease, and so does
// a machine.
type lease struct {
	mac      hwAddr
	addr     netip.Addr
	bound    bool // acknowledged, not only offered
	released bool
	probed   bool // a probe found no other user of the address
	hostname string
	expires  time.Time
	seen     time.Time
}

func (l *lease) active(now time.Time) bool { return !l.released && now.Before(l.expires) }

func (l *lease) state(now time.Time) LeaseState {
	switch {
	case l.released:
		return Released
	case !now.Before(l.expires):
		return Expired
	case l.bound:
		return Bound
	}
	return Offered
}

// table holds leases. Its size is bounded by the pool and the reservations
// because every entry occupies a different address.
type table struct {
	byMAC    map[hwAddr]*lease
	byAddr   map[netip.Addr]*lease
	declined map[netip.Addr]time.Time // until when
}

func newTable() table {
	return table{map[hwAddr]*lease{}, map[netip.Addr]*lease{}, map[netip.Addr]time.Time{}}
}

// assign makes addr the only address of mac, removing any lease that another
// machine has on it.
func (t *table) assign(mac hwAddr, addr netip.Addr) *lease {
	l := t.byMAC[mac]
	if l != nil && l.addr == addr {
		return l
	}
	host := ""
	if l != nil {
		host = l.hostname
		t.remove(l)
	}
	if other := t.byAddr[addr]; other != nil {
		t.remove(other)
	}
	delete(t.declined, addr)
	l = &lease{mac: mac, addr: addr, hostname: host}
	t.byMAC[mac], t.byAddr[addr] = l, l
	return l
}

func (t *table) remove(l *lease) {
	delete(t.byMAC, l.mac)
	delete(t.byAddr, l.addr)
}

func (t *table) decline(addr netip.Addr, now time.Time) {
	if l := t.byAddr[addr]; l != nil {
		t.remove(l)
	}
	t.declined[addr] = now.Add(declineTime)
}

// pool is the address range for machines without a reservation.
type pool struct {
	start, size uint32
	allowed     func(netip.Addr) bool // excludes the server, the router and reservations
}

func toUint(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func fromUint(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

func (p pool) contains(a netip.Addr) bool {
	return p.size > 0 && a.Is4() && toUint(a)-p.start < p.size && p.allowed(a)
}

// find selects an address for mac: its last one, the requested one, or one
// derived from a hash of the MAC, so that a machine tends to get the same address
// again. When no address is free it reuses, in this order, the lease that expired
// first, the oldest unacknowledged offer, and the address that was declined
// first. A flood of requests therefore cannot exhaust the pool permanently.
func (t *table) find(p pool, mac hwAddr, requested netip.Addr, now time.Time) (netip.Addr, bool) {
	if l := t.byMAC[mac]; l != nil && p.contains(l.addr) {
		return l.addr, true
	}
	if p.contains(requested) && t.free(requested, now) {
		return requested, true
	}
	var best [3]netip.Addr
	var age [3]time.Time
	consider := func(class int, a netip.Addr, at time.Time) {
		if !best[class].IsValid() || at.Before(age[class]) {
			best[class], age[class] = a, at
		}
	}
	h := fnv.New32a()
	_, _ = h.Write(mac[:])
	first := h.Sum32()
	for i := range min(p.size, maxScan) {
		a := fromUint(p.start + uint32((uint64(first)+uint64(i))%uint64(p.size)))
		if !p.allowed(a) {
			continue
		}
		l := t.byAddr[a]
		until, declined := t.declined[a]
		switch {
		case declined && now.Before(until):
			consider(2, a, until)
		case l == nil:
			return a, true
		case !l.active(now):
			consider(0, a, l.expires)
		case !l.bound:
			consider(1, a, l.seen)
		}
	}
	for _, a := range best {
		if a.IsValid() {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// free reports whether an address has no active lease and is not declined.
func (t *table) free(a netip.Addr, now time.Time) bool {
	if until, ok := t.declined[a]; ok && now.Before(until) {
		return false
	}
	l := t.byAddr[a]
	return l == nil || !l.active(now)
}

func (t *table) snapshot(now time.Time) []Lease {
	all := make([]Lease, 0, len(t.byAddr))
	for _, l := range t.byAddr {
		all = append(all, Lease{
			MAC: l.mac.hardware(), Address: l.addr, State: l.state(now),
			Hostname: l.hostname, Expires: l.expires, LastSeen: l.seen,
		})
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Address.Less(all[j].Address) })
	return all
}

func (h hwAddr) hardware() net.HardwareAddr { return net.HardwareAddr(append([]byte(nil), h[:]...)) }
