// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"fmt"
	"slices"
	"time"
)

// policy is a parsed [Policy].
type policy struct {
	mac         mac
	locked      bool
	foreignMACs bool
	denyDHCP    bool
	denyRouter  bool
	sources     SourceGuard
	limitRates  bool
	addresses   []ipv4
	// former are addresses of earlier policies of the port.
	former []ipv4
}

func parsePolicy(p Policy) (policy, error) {
	pol := policy{
		foreignMACs: p.ForeignMACs, denyDHCP: p.DenyDHCP, denyRouter: p.DenyRouter, sources: p.Sources, limitRates: p.LimitRates,
	}
	for _, a := range p.Addresses {
		if a = a.Unmap(); !a.Is4() || a.IsUnspecified() {
			return policy{}, fmt.Errorf("policy address %s is not an IPv4 address of a host", a)
		}
		pol.addresses = append(pol.addresses, a.As4())
	}
	if len(p.MAC) == 0 {
		if len(pol.addresses) > 0 {
			return policy{}, fmt.Errorf("policy addresses %s have no MAC to which they belong", p.Addresses)
		}
		return pol, nil
	}
	if len(p.MAC) != len(pol.mac) || mac(p.MAC).group() || mac(p.MAC) == (mac{}) {
		return policy{}, fmt.Errorf("policy MAC %s is not a 6-byte unicast address", p.MAC)
	}
	pol.mac, pol.locked = mac(p.MAC), true
	return pol, nil
}

func (p *policy) equal(o *policy) bool {
	return p.mac == o.mac && p.locked == o.locked && p.foreignMACs == o.foreignMACs &&
		p.denyDHCP == o.denyDHCP && p.denyRouter == o.denyRouter && p.sources == o.sources &&
		p.limitRates == o.limitRates && slices.Equal(p.addresses, o.addresses)
}

// forward delivers one frame from p's machine to its destination ports. It does
// not retain the frame.
func (s *Switch) forward(p *port, frame []byte) {
	now := time.Now()
	p.rxFrames.Add(1)
	p.rxBytes.Add(uint64(len(frame)))
	switch {
	case len(frame) < ethHeader:
		p.drops.runt.Add(1)
		return
	case len(frame) > s.maxFrame:
		p.drops.oversize.Add(1)
		return
	}
	// Captured before any policy applies, so that dropped frames are visible.
	for _, c := range *s.captures.Load() {
		c.add(frame, now)
	}
	src := mac(frame[6:12])
	if src.group() || src == (mac{}) {
		p.drops.badSource.Add(1)
		return
	}
	if !s.admit(p, src, now) {
		p.drops.spoofed.Add(1)
		return
	}
	pk, pol := snoop(frame), p.policy.Load()
	if counter := s.refuse(p, pol, src, &pk, now); counter != nil {
		counter.Add(1)
		return
	}
	d := s.decide(p, mac(frame[:6]), &pk, now)
	if pol.limitRates {
		if counter := s.excess(p, &pk, d, now); counter != nil {
			counter.Add(1)
			return
		}
	}
	s.deliver(p, frame, d, now)
}

// admit reports whether p's machine may use a source address, and learns the address.
func (s *Switch) admit(p *port, src mac, now time.Time) bool {
	if pol := p.policy.Load(); pol.locked && (src == pol.mac || !pol.foreignMACs) {
		return src == pol.mac // it is in the table
	}
	switch s.table.learn(p, src, now) {
	case spoofed:
		return false
	case unlearned:
		p.unlearned.Add(1)
	}
	return true
}

// reach is which ports receive a frame. The port that sent it never does.
type reach int

const (
	// toAll floods the frame.
	toAll reach = iota
	// toPort is the one port of a decision.
	toPort
	// toTrusted are the ports that may act as a server.
	toTrusted
	// toGroup are the ports in the group of a decision.
	toGroup
)

type decision struct {
	reach reach
	port  *port
	group group
}

// decide returns which ports receive a frame from p to dst that no policy drops. It
// sends nothing, so that the rules can be tested without sockets; it learns the groups
// of IPv6 addresses, and that an IPv4 address is contested.
//
// A frame to all machines must not cost one copy for each of a thousand machines where
// the switch knows which of them can answer. It is then sent to these, unchanged: the
// answer is the machine's own, and a machine that is gone does not answer. A frame with
// a VLAN tag is flooded, because the addresses in it may be those of another network.
func (s *Switch) decide(p *port, dst mac, pk *packet, now time.Time) decision {
	if pk.hasHolder && !pk.tagged {
		s.groups.join(p, pk.holder)
	}
	if !dst.group() {
		if to := s.table.lookup(dst, now); to != nil {
			return decision{reach: toPort, port: to}
		}
	}
	if pk.tagged {
		return decision{reach: toAll}
	}
	switch pk.kind {
	case dhcpRequest, routerRequest:
		return decision{reach: toTrusted}
	case dhcpReply:
		// Firmware requests broadcast replies, although only one machine needs each.
		if to := s.table.lookup(pk.client, now); to != nil && dst.group() {
			return decision{reach: toPort, port: to}
		}
	case arp:
		if dst.group() {
			return s.decideARP(p, pk, now)
		}
	case ndSolicitation:
		// A machine that has not sent anything since the switch began is in no group. It
		// receives the second solicitation, which is flooded.
		id := group(dst[len(mac{})-len(group{}):])
		if dst.solicitedNode() && s.groups.known(p, id) && !p.asked.repeats(pk.target6, now) {
			return decision{reach: toGroup, group: id}
		}
	}
	return decision{reach: toAll}
}

// decideARP decides for a broadcast ARP packet: a request, a probe or an announcement
// (RFC 5227). A packet about an address of a policy concerns the machine that has it,
// which answers, or defends the address.
func (s *Switch) decideARP(p *port, pk *packet, now time.Time) decision {
	owner, loud := s.addresses.owner(pk.target4, now)
	switch {
	case owner == nil:
		return decision{reach: toAll}
	case owner != p:
		if pk.source4 == pk.target4 {
			s.addresses.contest(pk.target4, now)
		}
		return decision{reach: toPort, port: owner}
	case loud:
		// The others may still know the MAC of an earlier owner or of a rival.
		return decision{reach: toAll}
	default:
		// Its own probe or announcement: no other machine has the address, and those
		// that know it know the right MAC.
		return decision{reach: toTrusted}
	}
}

// solicitedNode reports whether m is the Ethernet address of a solicited-node multicast
// group (RFC 2464, section 7).
func (m mac) solicitedNode() bool { return m[0] == 0x33 && m[1] == 0x33 && m[2] == 0xff }

// deliver sends a frame from p as decided.
func (s *Switch) deliver(p *port, frame []byte, d decision, now time.Time) {
	impair := s.impair.Load()
	switch d.reach {
	case toPort:
		if d.port != p {
			d.port.send(frame, now, impair)
		}
	case toTrusted:
		s.ports.mu.RLock()
		defer s.ports.mu.RUnlock()
		sendTo(s.ports.trusted, p, frame, now, impair)
	case toGroup:
		s.groups.mu.RLock()
		defer s.groups.mu.RUnlock()
		sendTo(s.groups.members[d.group], p, frame, now, impair)
		sendTo(s.groups.everywhere, p, frame, now, impair)
	case toAll:
		p.flooded.Add(1)
		s.ports.mu.RLock()
		defer s.ports.mu.RUnlock()
		sendTo(s.ports.all, p, frame, now, impair)
	}
}

// sendTo sends a frame to all ports of a list but the one that it came from.
func sendTo(ports []*port, from *port, frame []byte, now time.Time, i *Impairment) {
	for _, to := range ports {
		if to != from {
			to.send(frame, now, i)
		}
	}
}
