// SPDX-License-Identifier: Apache-2.0

package l2switch

import "encoding/binary"

const (
	protoUDP  = 17
	protoIGMP = 2

	dhcpServer   = 67
	dhcpClient   = 68
	dhcpv6Server = 547
	dhcpv6Client = 546

	fragOffset  = 0x1fff
	fragMore    = 0x2000
	sourceIPv4  = 12
	minIPHeader = 20
	udpHeader   = 8

	// bootpReply and bootpMAC are the first bytes and the offset of the client's MAC
	// of a DHCP reply to a client on Ethernet (RFC 2131, section 2).
	bootpReply = "\x02\x01\x06"
	bootpMAC   = 28
	// bootpRequest are the first bytes of a request of a client on Ethernet, bootpRelay is
	// the offset of the address of the relay agent.
	bootpRequest = "\x01\x01\x06"
	bootpRelay   = 24
)

// snoopIPv4 reads the source of a packet and detects DHCP messages (DHCP snooping). A
// fragment other than the first has no UDP ports; it is harmless because the first
// fragment, which always has them, is dropped: that of a server's message because it is
// one, and that of a request because no client sends its requests in fragments.
func snoopIPv4(p *packet, ip []byte) {
	if len(ip) < minIPHeader || ip[0]>>4 != 4 {
		p.malformed = true
		return
	}
	p.family, p.source4 = familyIPv4, ipv4(ip[sourceIPv4:])
	p.unnumbered = ip[9] == protoIGMP
	head := int(ip[0]&0x0f) * 4
	if head < minIPHeader || len(ip) < head {
		p.malformed = true
		return
	}
	fragments := binary.BigEndian.Uint16(ip[6:])
	if ip[9] != protoUDP || fragments&fragOffset != 0 {
		return
	}
	udp := ip[head:]
	p.kind = snoopUDP(udp, dhcpServer, dhcpClient)
	switch p.kind {
	case dhcpReply:
		if bootp := bootpOf(udp); bootp != nil && string(bootp[:len(bootpReply)]) == bootpReply {
			p.client = mac(bootp[bootpMAC:])
		}
	case dhcpRequest:
		p.unnumbered = true
		snoopRequest(p, udp, fragments&fragMore != 0)
	}
}

// snoopRequest reads for which client a DHCP request is.
func snoopRequest(p *packet, udp []byte, fragmented bool) {
	bootp := bootpOf(udp)
	if fragmented || bootp == nil || string(bootp[:len(bootpRequest)]) != bootpRequest {
		p.malformed = true
		return
	}
	p.relayed = ipv4(bootp[bootpRelay:]) != ipv4{}
	p.hardware, p.hasHardware = mac(bootp[bootpMAC:]), true
}

// bootpOf returns the DHCP message of a datagram, or nil if it ends before the address of
// the client does.
func bootpOf(udp []byte) []byte {
	if len(udp) < udpHeader+bootpMAC+len(mac{}) {
		return nil
	}
	return udp[udpHeader:]
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
