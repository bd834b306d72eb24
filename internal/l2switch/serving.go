// SPDX-License-Identifier: Apache-2.0

package l2switch

import "encoding/binary"

// service is what a frame gives to others that only a network's own server
// may.
type service int

const (
	nothing service = iota
	dhcpReply
	routing
)

const (
	typeIPv4 = 0x0800
	typeIPv6 = 0x86dd
	typeVLAN = 0x8100
	typeQinQ = 0x88a8
	typeOldQ = 0x9100

	protoUDP    = 17
	protoICMPv6 = 58

	dhcpServer, dhcpClient     = 67, 68
	dhcpv6Server, dhcpv6Client = 547, 546

	routerAdvertisement, redirect = 134, 137

	fragOffset  = 0x1fff
	minIPHeader = 20
	ipv6Header  = 40
	// maxExtensions is more IPv6 extension headers than anybody has a use for.
	maxExtensions = 8
)

// servedBy tells what a frame of at least an Ethernet header serves, whatever
// tags it has. A packet cut short is nobody's reply: its receiver refuses it.
func servedBy(frame []byte) service {
	at := 12
	kind := binary.BigEndian.Uint16(frame[at:])
	for kind == typeVLAN || kind == typeQinQ || kind == typeOldQ {
		at += 4
		if len(frame) < at+2 {
			return nothing
		}
		kind = binary.BigEndian.Uint16(frame[at:])
	}
	switch packet := frame[at+2:]; kind {
	case typeIPv4:
		return servedByIPv4(packet)
	case typeIPv6:
		return servedByIPv6(packet)
	}
	return nothing
}

// servedByIPv4 looks at the ports of UDP. A later fragment carries none; it is
// harmless without its first, in which they always are.
func servedByIPv4(ip []byte) service {
	if len(ip) < minIPHeader || ip[9] != protoUDP || binary.BigEndian.Uint16(ip[6:])&fragOffset != 0 {
		return nothing
	}
	head := int(ip[0]&0x0f) * 4
	if head < minIPHeader || len(ip) < head {
		return nothing
	}
	return ports(ip[head:], dhcpServer, dhcpClient)
}

// ports tells a DHCP reply: it comes from the server's port, or goes to the
// client's, since not every client looks where it came from.
func ports(udp []byte, server, client uint16) service {
	if len(udp) >= 4 && (binary.BigEndian.Uint16(udp) == server || binary.BigEndian.Uint16(udp[2:]) == client) {
		return dhcpReply
	}
	return nothing
}

// IPv6 extension headers (RFC 7045, section 4).
const (
	hopByHop, routingHeader, fragment, authentication = 0, 43, 44, 51
	destinationOptions, mobility, hip, shim6          = 60, 135, 139, 140
)

// servedByIPv6 follows the extension headers as RFC 7113 asks: a first
// fragment that leaves open what it carries, or a chain without end, is taken
// for what it hides.
func servedByIPv6(ip []byte) service {
	if len(ip) < ipv6Header {
		return nothing
	}
	next, rest := ip[6], ip[ipv6Header:]
	for n := 0; ; n++ {
		size := 0
		switch next {
		case protoUDP:
			return ports(rest, dhcpv6Server, dhcpv6Client)
		case protoICMPv6:
			if len(rest) > 0 && (rest[0] == routerAdvertisement || rest[0] == redirect) {
				return routing
			}
			if len(rest) == 0 && n > 0 {
				return routing
			}
			return nothing
		case hopByHop, routingHeader, destinationOptions, mobility, hip, shim6:
			if len(rest) >= 2 {
				size = 8 * (int(rest[1]) + 1)
			}
		case authentication:
			if len(rest) >= 2 {
				size = 4 * (int(rest[1]) + 2)
			}
		case fragment:
			if len(rest) >= 8 {
				size = 8
				if binary.BigEndian.Uint16(rest[2:])>>3 != 0 {
					return nothing
				}
			}
		default:
			return nothing
		}
		if size == 0 || size > len(rest) || n == maxExtensions {
			return routing
		}
		next, rest = rest[0], rest[size:]
	}
}
