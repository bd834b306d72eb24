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
	udpHeader   = 8

	// bootpReply and bootpMAC are the first bytes and the offset of the client's MAC
	// of a DHCP reply to a client on Ethernet (RFC 2131, section 2).
	bootpReply = "\x02\x01\x06"
	bootpMAC   = 28
)

// snoopIPv4 detects DHCP messages (DHCP snooping). A fragment other than the first has
// no UDP ports; it is harmless because the first fragment, which always has them, is
// dropped.
func snoopIPv4(p *packet, ip []byte) {
	if len(ip) < minIPHeader || ip[9] != protoUDP || binary.BigEndian.Uint16(ip[6:])&fragOffset != 0 {
		return
	}
	head := int(ip[0]&0x0f) * 4
	if head < minIPHeader || len(ip) < head {
		return
	}
	udp := ip[head:]
	p.kind = snoopUDP(udp, dhcpServer, dhcpClient)
	if p.kind != dhcpReply || len(udp) < udpHeader+bootpMAC+len(mac{}) {
		return
	}
	if bootp := udp[udpHeader:]; string(bootp[:len(bootpReply)]) == bootpReply {
		p.client = mac(bootp[bootpMAC : bootpMAC+len(mac{})])
	}
}

// snoopUDP detects a DHCP server message by its source port, or by its
// destination port because some clients accept replies from any source port. What else
// is sent to a server's port is a request.
func snoopUDP(udp []byte, server, client uint16) message {
	if len(udp) < 4 {
		return ordinary
	}
	from, to := binary.BigEndian.Uint16(udp), binary.BigEndian.Uint16(udp[2:])
	switch {
	case from == server || to == client:
		return dhcpReply
	case to == server:
		return dhcpRequest
	}
	return ordinary
}
