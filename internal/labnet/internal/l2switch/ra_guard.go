// SPDX-License-Identifier: Apache-2.0

package l2switch

import "encoding/binary"

const (
	protoICMPv6 = 58

	routerAdvertisement = 134
	redirect            = 137

	ipv6Header = 40
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

// snoopIPv6 detects router advertisements and redirects (RA guard, RFC 6105) and
// DHCPv6 server messages (DHCPv6-Shield, RFC 7610). It parses the whole chain of
// extension headers as RFC 7113 requires. A first fragment that does not contain
// the whole chain up to and including the upper-layer header, or a chain that is
// too long, counts as a message of a server, so that it cannot hide one.
func snoopIPv6(ip []byte) message {
	if len(ip) < ipv6Header {
		return ordinary
	}
	next, rest := ip[6], ip[ipv6Header:]
	for n := 0; ; n++ {
		size := 0
		switch next {
		case protoUDP:
			if n > 0 && len(rest) < 4 { // the ports follow in the next fragment
				return dhcpReply
			}
			return snoopUDP(rest, dhcpv6Server, dhcpv6Client)
		case protoICMPv6:
			if len(rest) > 0 && (rest[0] == routerAdvertisement || rest[0] == redirect) {
				return routerMessage
			}
			if len(rest) == 0 && n > 0 {
				return routerMessage
			}
			return ordinary
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
					return ordinary
				}
			}
		default:
			return ordinary
		}
		if size == 0 || size > len(rest) || n == maxExtensions {
			return routerMessage
		}
		next, rest = rest[0], rest[size:]
	}
}
