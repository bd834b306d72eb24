// SPDX-License-Identifier: Apache-2.0

package dhcp

import (
	"encoding/binary"
	"net"
	"net/netip"
)

const (
	etherIPv4      = 0x0800
	etherARP       = 0x0806
	protoUDP       = 17
	timeToLive     = 64
	ethernetHeader = 14
	ipHeader       = 20
	udpHeader      = 8
)

// udpFrame returns a complete Ethernet frame with a UDP datagram. The UDP
// checksum is computed because clients that read raw frames verify it.
func udpFrame(src, dst net.HardwareAddr, from, to netip.AddrPort, payload []byte) []byte {
	b := make([]byte, 0, ethernetHeader+ipHeader+udpHeader+len(payload))
	b = append(append(b, dst...), src...)
	b = binary.BigEndian.AppendUint16(b, etherIPv4)

	ip := make([]byte, ipHeader)
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(ipHeader+udpHeader+len(payload)))
	ip[8], ip[9] = timeToLive, protoUDP
	copy(ip[12:], from.Addr().AsSlice())
	copy(ip[16:], to.Addr().AsSlice())
	binary.BigEndian.PutUint16(ip[10:], ^checksum(0, ip))

	udp := make([]byte, udpHeader)
	binary.BigEndian.PutUint16(udp, from.Port())
	binary.BigEndian.PutUint16(udp[2:], to.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(udpHeader+len(payload)))
	// Pseudo header: addresses, protocol, length.
	sum := checksum(0, ip[12:])
	sum = checksum(sum, []byte{0, protoUDP})
	sum = checksum(sum, udp[4:6])
	sum = ^checksum(checksum(sum, udp), payload)
	if sum == 0 {
		sum = 0xffff // zero means that no checksum was computed
	}
	binary.BigEndian.PutUint16(udp[6:], sum)

	return append(append(append(b, ip...), udp...), payload...)
}

// checksum adds b to a ones' complement sum (RFC 1071). Only the last part of a
// sum may have an odd length.
func checksum(sum uint16, b []byte) uint16 {
	s := uint32(sum)
	for len(b) >= 2 {
		s += uint32(b[0])<<8 | uint32(b[1])
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// arpProbe returns an ARP probe for an address: a request that announces no
// sender address (RFC 5227).
func arpProbe(mac net.HardwareAddr, a netip.Addr) []byte {
	b := append(append([]byte{}, broadcastMAC...), mac...)
	b = binary.BigEndian.AppendUint16(b, etherARP)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, 1)
	b = append(append(b, mac...), 0, 0, 0, 0)
	b = append(append(b, 0, 0, 0, 0, 0, 0), a.AsSlice()...)
	return b
}

// arpFrom returns the sender address of an ARP frame, or the zero Addr for any
// other frame.
func arpFrom(b []byte) netip.Addr {
	if len(b) < ethernetHeader+28 || binary.BigEndian.Uint16(b[12:]) != etherARP {
		return netip.Addr{}
	}
	a, _ := netip.AddrFromSlice(b[28:32])
	return a
}
