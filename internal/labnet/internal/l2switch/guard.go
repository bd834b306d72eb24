// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"slices"
	"sync/atomic"
	"time"
)

// SourceGuard is which addresses the packets of a port may contain as those of their
// sender. It covers the source of IPv4 and IPv6 packets, the sender of ARP packets, the
// target of neighbor advertisements, and the MAC addresses within ARP, neighbor discovery
// and DHCP requests, whatever VLAN tags precede them.
type SourceGuard int

const (
	// AnySource checks nothing: that of a router, which forwards what others send.
	AnySource SourceGuard = iota
	// NotOthers refuses the addresses of other ports: those of their policies, and the
	// IPv6 addresses that contain the MAC of a policy.
	NotOthers
	// OwnSource refuses all but the addresses of the policy, and IPv6 addresses that
	// another port used first.
	OwnSource
)

// maxFormer bounds the addresses that a port may still use after its policy was replaced.
const maxFormer = 4

// formerUnder returns the addresses that a machine had before the policy next and that it
// may use until another port has them: a system that is installed uses its address until it is installed again.
func (p *policy) formerUnder(next *policy) []ipv4 {
	var out []ipv4
	for _, a := range slices.Concat(p.addresses, p.former) {
		if !slices.Contains(next.addresses, a) && !slices.Contains(out, a) && len(out) < maxFormer {
			out = append(out, a)
		}
	}
	return out
}

// refuse returns the counter of the reason for which a policy refuses a packet from src at
// p, or nil if it does not.
func (s *Switch) refuse(p *port, pol *policy, src mac, pk *packet, now time.Time) *atomic.Uint64 {
	switch {
	case pk.kind == dhcpReply && pol.denyDHCP:
		return &p.drops.dhcpServer
	case pk.kind == routerMessage && pol.denyRouter:
		return &p.drops.router
	case pol.sources == AnySource:
		return nil
	case pk.malformed:
		return &p.drops.malformed
	case pk.kind == dhcpRequest && (pk.relayed && pol.denyDHCP || pk.hasHardware && pk.hardware != src):
		return &p.drops.dhcpClient
	case pk.family == familyIPv4:
		return s.refuseIPv4(p, pol, src, pk)
	case pk.family == familyIPv6:
		return s.refuseIPv6(p, pol, src, pk, now)
	}
	return nil
}

// refuseIPv4 checks the source of an IPv4 packet or the sender of an ARP packet. A machine
// without an address uses the unspecified one for DHCP, multicast groups and ARP probes.
func (s *Switch) refuseIPv4(p *port, pol *policy, src mac, pk *packet) *atomic.Uint64 {
	counter := &p.drops.ipSource
	if pk.kind == arp {
		if counter = &p.drops.arp; pk.hardware != src {
			return counter
		}
	}
	switch {
	case pk.source4 == (ipv4{}):
		if pk.unnumbered {
			return nil
		}
	case slices.Contains(pol.addresses, pk.source4):
		return nil
	case pol.sources == NotOthers, slices.Contains(pol.former, pk.source4):
		if !s.addresses.foreign(p, pk.source4) {
			return nil
		}
	}
	return counter
}

// refuseIPv6 checks the source of an IPv6 packet and what neighbor discovery in it claims.
func (s *Switch) refuseIPv6(p *port, pol *policy, src mac, pk *packet, now time.Time) *atomic.Uint64 {
	counter := &p.drops.ipSource
	if pk.kind == ndSolicitation || pk.kind == ndAdvertisement || pk.kind == routerRequest {
		counter = &p.drops.neighbor
	}
	if pk.hasHardware && pk.hardware != src {
		return counter
	}
	if pk.source6 == (ipv6Addr{}) {
		if !pk.unnumbered {
			return counter
		}
	} else if !s.mayUse(p, pol, src, pk.source6, now) {
		return counter
	}
	switch {
	case !pk.hasTarget:
	case pk.kind == ndAdvertisement:
		if !s.mayUse(p, pol, src, pk.target6, now) {
			return counter
		}
	case pk.source6 == (ipv6Addr{}):
		// A test for duplicates claims the address if it is free. It is never refused:
		// the machine that has the address must hear of it.
		s.mayUse(p, pol, src, pk.target6, now)
	}
	return nil
}

// mayUse reports whether a machine may use an IPv6 address. An address that contains a MAC
// (RFC 4291, appendix A) belongs to the port that is locked to it. Any other belongs to
// the port that used it first (as in RFC 6620).
func (s *Switch) mayUse(p *port, pol *policy, src mac, a ipv6Addr, now time.Time) bool {
	if m, ok := a.mac(); ok {
		if m == src {
			return true
		}
		if owner := s.table.lockedTo(m); owner != nil && owner != p {
			return false
		}
	}
	return pol.sources == NotOthers || s.claims.claim(p, a, now)
}
