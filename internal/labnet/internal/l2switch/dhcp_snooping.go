// SPDX-License-Identifier: Apache-2.0

package l2switch

import "encoding/binary"

const (
	protoUDP = 17

	dhcpServer   = 67
	dhcpClient   = 68
	dhcpv6Server = 547
	dhcpv6Client = 546

	fragOffset  = 0x1fff
	minIPHeader = 20
)

// snoopIPv4 detects DHCP server messages (DHCP snooping). A fragment other than
// the first has no UDP ports; it is harmless because the first fragment, which
// always has them, is dropped.
func snoopIPv4(ip []byte) message {
	if len(ip) < minIPHeader || ip[9] != protoUDP || binary.BigEndian.Uint16(ip[6:])&fragOffset != 0 {
		return ordinary
	}
	head := int(ip[0]&0x0f) * 4
	if head < minIPHeader || len(ip) < head {
		return ordinary
	}
	return snoopUDP(ip[head:], dhcpServer, dhcpClient)
}

// snoopUDP detects a DHCP server message by its source port, or by its
// destination port because some clients accept replies from any source port.
func snoopUDP(udp []byte, server, client uint16) message {
	if len(udp) >= 4 && (binary.BigEndian.Uint16(udp) == server || binary.BigEndian.Uint16(udp[2:]) == client) {
		return dhcpReply
	}
	return ordinary
}
