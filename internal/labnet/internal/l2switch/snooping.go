// SPDX-License-Identifier: Apache-2.0

package l2switch

import "encoding/binary"

// message is the kind of a frame as far as a port may be forbidden to send it.
type message int

const (
	ordinary message = iota
	// dhcpReply is a DHCP or DHCPv6 message that only a server sends.
	dhcpReply
	// routerMessage is an IPv6 router advertisement or redirect.
	routerMessage
)

const (
	typeIPv4 = 0x0800
	typeIPv6 = 0x86dd
	typeVLAN = 0x8100
	typeQinQ = 0x88a8
	typeOldQ = 0x9100
)

// snoop classifies a frame that has at least an Ethernet header, with any number
// of VLAN tags. A truncated packet is ordinary because its receiver discards it.
func snoop(frame []byte) message {
	at := 12
	kind := binary.BigEndian.Uint16(frame[at:])
	for kind == typeVLAN || kind == typeQinQ || kind == typeOldQ {
		at += 4
		if len(frame) < at+2 {
			return ordinary
		}
		kind = binary.BigEndian.Uint16(frame[at:])
	}
	switch packet := frame[at+2:]; kind {
	case typeIPv4:
		return snoopIPv4(packet)
	case typeIPv6:
		return snoopIPv6(packet)
	}
	return ordinary
}
