// SPDX-License-Identifier: Apache-2.0

package l2switch

import "encoding/binary"

const (
	protoICMPv6 = 58

	routerSolicitation    = 133
	routerAdvertisement   = 134
	neighborSolicitation  = 135
	neighborAdvertisement = 136
	redirect              = 137
	listenerReport        = 131
	listenerDone          = 132
	listenerReport2       = 143

	ipv6Header    = 40
	ipv6Address   = 16
	sourceAddress = 8
	// neighborTarget is the offset of the address in a neighbor solicitation or
	// advertisement, which has at least neighborLength bytes.
	neighborTarget = 8
	neighborLength = neighborTarget + ipv6Address
	// routerLength is the length of a router solicitation without options.
	routerLength = 8
	// sourceLinkLayer and targetLinkLayer are the options of neighbor discovery with the
	// sender's MAC, optionUnit is the unit of options' lengths.
	sourceLinkLayer = 1
	targetLinkLayer = 2
	optionUnit      = 8

	// maxExtensions is more IPv6 extension headers than legitimate packets have.
	maxExtensions = 8
)

// IPv6 extension headers (RFC 7045, section 4).
const (
	hopByHop           = 0
	routingHeader      = 43
	fragment           = 44
	authentication     = 51
	destinationOptions = 60
	mobility           = 135
	hip                = 139
	shim6              = 140
)

// snoopIPv6 detects router advertisements and redirects (RA guard, RFC 6105), DHCPv6
// messages (DHCPv6-Shield, RFC 7610), neighbor discovery and messages to routers. It
// parses the whole chain of extension headers as RFC 7113 requires. A first fragment
// that does not contain the whole chain up to and including the upper-layer header, or
// a chain that is too long, counts as a message of a server, so that it cannot hide one.
//
// Neighbor discovery in fragments is malformed: its receivers ignore it (RFC 6980).
func snoopIPv6(p *packet, ip []byte) {
	if len(ip) < ipv6Header || ip[0]>>4 != 6 {
		p.malformed = true
		return
	}
	p.family, p.source6 = familyIPv6, ipv6Addr(ip[sourceAddress:])
	next, rest, fragmented := ip[6], ip[ipv6Header:], false
	for n := 0; ; n++ {
		size := 0
		switch next {
		case protoUDP:
			p.kind = snoopUDP(rest, dhcpv6Server, dhcpv6Client)
			if n > 0 && len(rest) < 4 { // the ports follow in the next fragment
				p.kind = dhcpReply
			}
			return
		case protoICMPv6:
			snoopICMPv6(p, rest)
			if n > 0 && len(rest) == 0 {
				p.kind = routerMessage
			}
			p.malformed = p.malformed || fragmented && p.kind != ordinary
			return
		case hopByHop, routingHeader, destinationOptions, mobility, hip, shim6:
			if len(rest) >= 2 {
				size = 8 * (int(rest[1]) + 1)
			}
		case authentication:
			if len(rest) >= 2 {
				size = 4 * (int(rest[1]) + 2)
			}
		case fragment:
			fragmented = true
			if len(rest) >= 8 {
				size = 8
				if binary.BigEndian.Uint16(rest[2:])>>3 != 0 {
					return
				}
			}
		default:
			return
		}
		if size == 0 || size > len(rest) || n == maxExtensions {
			p.kind = routerMessage
			return
		}
		next, rest = rest[0], rest[size:]
	}
}

// snoopICMPv6 classifies a message and reads from neighbor discovery (RFC 4861) which
// address its sender has: the source of a solicitation, its target while that is
// tested for duplicates (RFC 4862), and the target of an advertisement.
func snoopICMPv6(p *packet, icmp []byte) {
	if len(icmp) == 0 {
		return
	}
	switch icmp[0] {
	case routerAdvertisement, redirect:
		p.kind = routerMessage
	case routerSolicitation:
		p.kind, p.unnumbered = routerRequest, true
		if len(icmp) >= routerLength {
			snoopOptions(p, icmp[routerLength:], sourceLinkLayer)
		}
	case listenerReport, listenerDone, listenerReport2:
		p.kind, p.unnumbered = routerRequest, true
	case neighborSolicitation, neighborAdvertisement:
		if len(icmp) < neighborLength {
			p.malformed = true
			return
		}
		p.target6, p.hasTarget = ipv6Addr(icmp[neighborTarget:]), true
		address, option := p.source6, byte(sourceLinkLayer)
		if icmp[0] == neighborAdvertisement {
			p.kind, option = ndAdvertisement, targetLinkLayer
			address = p.target6
		} else if p.kind, p.unnumbered = ndSolicitation, true; address == (ipv6Addr{}) {
			address = p.target6
		}
		p.holder, p.hasHolder = group(address[ipv6Address-len(group{}):]), true
		snoopOptions(p, icmp[neighborLength:], option)
	}
}

// snoopOptions reads the sender's MAC from the options of neighbor discovery. Options that
// end beyond the packet or have no length, and two different addresses, are malformed.
func snoopOptions(p *packet, options []byte, wanted byte) {
	for len(options) >= optionUnit {
		size := optionUnit * int(options[1])
		if size == 0 || size > len(options) {
			p.malformed = true
			return
		}
		if options[0] == wanted {
			m := mac(options[2:])
			p.malformed = p.malformed || p.hasHardware && p.hardware != m
			p.hardware, p.hasHardware = m, true
		}
		options = options[size:]
	}
}
