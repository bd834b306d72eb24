// SPDX-License-Identifier: Apache-2.0

package l2switch

import "encoding/binary"

// message is the kind of a frame, as far as a port may be forbidden to send it or not
// all ports need it.
type message int

const (
	ordinary message = iota
	// dhcpReply is a DHCP or DHCPv6 message that only a server sends.
	dhcpReply
	// routerMessage is an IPv6 router advertisement or redirect.
	routerMessage
	// dhcpRequest is a DHCP or DHCPv6 message to a server.
	dhcpRequest
	// routerRequest is an IPv6 message to routers: a router solicitation, or a report
	// of multicast listeners (MLD).
	routerRequest
	// arp is an ARP packet for IPv4 over Ethernet.
	arp
	// ndSolicitation is an IPv6 neighbor solicitation, ndAdvertisement a neighbor
	// advertisement.
	ndSolicitation
	ndAdvertisement
)

// packet is what the switch reads from a frame.
type packet struct {
	kind message
	// tagged means that the frame has a VLAN tag.
	tagged bool
	// malformed means that no machine sends such a packet honestly: its addresses cannot
	// be read, or are in a later fragment.
	malformed bool
	// family is the version of IP; ARP belongs to familyIPv4.
	family family
	// source4 and source6 are the addresses of the sender of a packet of a family.
	source4 ipv4
	source6 ipv6Addr
	// unnumbered means that a machine without an address sends such packets.
	unnumbered bool
	// hardware is the MAC of the sender that ARP, neighbor discovery or a DHCP (not
	// DHCPv6) request contain; hasHardware is false if there is none.
	hardware    mac
	hasHardware bool
	// relayed means that a DHCP request contains the address of a relay agent.
	relayed bool
	// client is the MAC that a DHCP (not DHCPv6) reply names; zero if it names none.
	client mac
	// target4 is the target of an ARP packet, target6 that of a neighbor solicitation or
	// advertisement; hasTarget is false if there is no target6.
	target4   ipv4
	target6   ipv6Addr
	hasTarget bool
	// holder is the group of the address that the sender of a solicitation or an
	// advertisement has; hasHolder is false if it announces none.
	holder    group
	hasHolder bool
}

// family is the version of IP of a packet.
type family int

const (
	noFamily family = iota
	familyIPv4
	familyIPv6
)

const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeIPv6 = 0x86dd
	typeVLAN = 0x8100
	typeQinQ = 0x88a8
	typeOldQ = 0x9100

	// maxLength is the largest value of the EtherType field that is the length of an
	// IEEE 802.3 frame, snapHeader what precedes the EtherType in such a frame (RFC 1042).
	maxLength  = 1500
	snapHeader = "\xaa\xaa\x03\x00\x00\x00"
)

// snoop reads a frame that has at least an Ethernet header, with any number of VLAN
// tags. A truncated packet is ordinary, because its receiver discards it, and malformed.
func snoop(frame []byte) (p packet) {
	at := 12
	kind := binary.BigEndian.Uint16(frame[at:])
	for kind == typeVLAN || kind == typeQinQ || kind == typeOldQ {
		p.tagged = true
		at += 4
		if len(frame) < at+2 {
			p.malformed = true
			return p
		}
		kind = binary.BigEndian.Uint16(frame[at:])
	}
	if rest := frame[at+2:]; kind <= maxLength && len(rest) >= len(snapHeader)+2 && string(rest[:len(snapHeader)]) == snapHeader {
		at += 2 + len(snapHeader)
		kind = binary.BigEndian.Uint16(frame[at:])
	}
	switch rest := frame[at+2:]; kind {
	case typeIPv4:
		snoopIPv4(&p, rest)
	case typeARP:
		snoopARP(&p, rest)
	case typeIPv6:
		snoopIPv6(&p, rest)
	}
	return p
}

const (
	arpLength   = 28
	arpEthernet = 1
)

// snoopARP reads an ARP packet for IPv4 over Ethernet (RFC 826). Its sender has no address
// yet if it probes for one (RFC 5227).
func snoopARP(p *packet, b []byte) {
	if len(b) < arpLength || binary.BigEndian.Uint16(b) != arpEthernet || binary.BigEndian.Uint16(b[2:]) != typeIPv4 ||
		b[4] != byte(len(mac{})) || b[5] != byte(len(ipv4{})) {
		p.malformed = true
		return
	}
	p.kind, p.family, p.unnumbered = arp, familyIPv4, true
	p.hardware, p.hasHardware = mac(b[8:14]), true
	p.source4, p.target4 = ipv4(b[14:18]), ipv4(b[24:28])
}
