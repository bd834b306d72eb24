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
	// client is the MAC that a DHCP (not DHCPv6) reply names; zero if it names none.
	client mac
	// sender and target are the IPv4 addresses of an ARP packet.
	sender, target ipv4
	// holder is the group of the address that the sender of a solicitation or an
	// advertisement has; hasHolder is false if it announces none.
	holder    group
	hasHolder bool
}

const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeIPv6 = 0x86dd
	typeVLAN = 0x8100
	typeQinQ = 0x88a8
	typeOldQ = 0x9100
)

// snoop reads a frame that has at least an Ethernet header, with any number of VLAN
// tags. A truncated packet is ordinary because its receiver discards it.
func snoop(frame []byte) (p packet) {
	at := 12
	kind := binary.BigEndian.Uint16(frame[at:])
	for kind == typeVLAN || kind == typeQinQ || kind == typeOldQ {
		p.tagged = true
		at += 4
		if len(frame) < at+2 {
			return p
		}
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

// snoopARP reads an ARP packet for IPv4 over Ethernet (RFC 826).
func snoopARP(p *packet, b []byte) {
	if len(b) < arpLength || binary.BigEndian.Uint16(b) != arpEthernet || binary.BigEndian.Uint16(b[2:]) != typeIPv4 ||
		b[4] != byte(len(mac{})) || b[5] != byte(len(ipv4{})) {
		return
	}
	p.kind = arp
	p.sender, p.target = ipv4(b[14:18]), ipv4(b[24:28])
}
