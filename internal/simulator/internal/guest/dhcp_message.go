// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// DHCP messages as RFC 2131 and 2132 define them. A client's options are sent in its
// own order, by which servers and people recognize it.

const (
	dhcpServerPort = 67
	dhcpClientPort = 68

	bootRequest, bootReply = 1, 2
	ethernetType           = 1
	// dhcpHeader is the size of the fixed header with the magic cookie.
	dhcpHeader    = 240
	flagBroadcast = 0x8000
)

var (
	dhcpCookie   = []byte{99, 130, 83, 99}
	broadcastMAC = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

// Message types.
const (
	dhcpDiscover = 1
	dhcpOffer    = 2
	dhcpRequest  = 3
	dhcpACK      = 5
	dhcpNAK      = 6
)

// Options.
const (
	optMask         = 1
	optRouter       = 3
	optDNS          = 6
	optHostName     = 12
	optDomain       = 15
	optMTU          = 26
	optVendor       = 43
	optRequested    = 50
	optLease        = 51
	optOverload     = 52
	optMessageType  = 53
	optServer       = 54
	optParameters   = 55
	optMaxSize      = 57
	optT1           = 58
	optVendorClass  = 60
	optClientID     = 61
	optBootFile     = 67
	optUserClass    = 77
	optArchitecture = 93
	optUNDI         = 94
	optUUID         = 97
	optIPXE         = 175
	optEnd          = 255
)

// option is one option of a message that is sent.
type option struct {
	code  byte
	value []byte
}

func option16(code byte, value uint16) option {
	return option{code, binary.BigEndian.AppendUint16(nil, value)}
}

func optionAddress(code byte, a netip.Addr) option { return option{code, a.AsSlice()} }

// message is a message that a client sends.
type message struct {
	xid       uint32
	seconds   uint16
	broadcast bool
	client    netip.Addr // the client's address, if it renews a lease
	mac       net.HardwareAddr
	options   []option
	// size is the least size of the message, in bytes.
	size int
}

func (m message) marshal() []byte {
	b := make([]byte, dhcpHeader, 576)
	b[0], b[1], b[2] = bootRequest, ethernetType, byte(len(m.mac))
	binary.BigEndian.PutUint32(b[4:], m.xid)
	binary.BigEndian.PutUint16(b[8:], m.seconds)
	if m.broadcast {
		binary.BigEndian.PutUint16(b[10:], flagBroadcast)
	}
	if m.client.IsValid() {
		copy(b[12:16], m.client.AsSlice())
	}
	copy(b[28:44], m.mac)
	copy(b[236:], dhcpCookie)
	for _, o := range m.options {
		b = append(append(b, o.code, byte(len(o.value))), o.value...)
	}
	b = append(b, optEnd)
	for len(b) < m.size {
		b = append(b, 0)
	}
	return b
}

// reply is a server's message.
type reply struct {
	xid uint32
	mac net.HardwareAddr
	// your is the address that the client gets, next that of the TFTP server.
	your, next netip.Addr
	file       string
	options    map[byte][]byte
}

var errNotDHCP = errors.New("not a DHCP reply")

// parseReply parses a server's message. Options that are split (RFC 3396) or in the
// fields for names (option 52) are joined.
func parseReply(b []byte) (reply, error) {
	if len(b) < dhcpHeader || b[0] != bootReply || b[1] != ethernetType || b[2] != 6 || !bytes.Equal(b[236:240], dhcpCookie) {
		return reply{}, errNotDHCP
	}
	r := reply{
		xid: binary.BigEndian.Uint32(b[4:]), mac: bytes.Clone(b[28:34]),
		your: netip.AddrFrom4([4]byte(b[16:20])), next: netip.AddrFrom4([4]byte(b[20:24])),
		options: map[byte][]byte{},
	}
	if err := r.parse(b[dhcpHeader:]); err != nil {
		return reply{}, err
	}
	overload := byte(0)
	if v := r.options[optOverload]; len(v) == 1 {
		overload = v[0]
	}
	name, file := b[44:108], b[108:236]
	for _, field := range []struct {
		bit   byte
		value []byte
	}{{1, file}, {2, name}} {
		if overload&field.bit != 0 {
			if err := r.parse(field.value); err != nil {
				return reply{}, err
			}
		}
	}
	if v := r.options[optBootFile]; len(v) > 0 {
		r.file = text(v)
	} else if overload&1 == 0 {
		r.file = text(file)
	}
	return r, nil
}

func (r *reply) parse(b []byte) error {
	for len(b) > 0 {
		switch {
		case b[0] == 0:
			b = b[1:]
			continue
		case b[0] == optEnd:
			return nil
		case len(b) < 2 || len(b) < 2+int(b[1]):
			return errNotDHCP
		}
		n := 2 + int(b[1])
		r.options[b[0]] = append(r.options[b[0]], b[2:n]...)
		b = b[n:]
	}
	return nil
}

// text returns a string up to its first zero.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}

func (r *reply) kind() byte {
	if v := r.options[optMessageType]; len(v) == 1 {
		return v[0]
	}
	return 0
}

// address returns the first address of an option, or the zero Addr.
func (r *reply) address(code byte) netip.Addr {
	if v := r.options[code]; len(v) >= 4 {
		return netip.AddrFrom4([4]byte(v[:4]))
	}
	return netip.Addr{}
}

// number returns an option's value of 16 or 32 bits, or 0.
func (r *reply) number(code byte) uint32 {
	switch v := r.options[code]; len(v) {
	case 2:
		return uint32(binary.BigEndian.Uint16(v))
	case 4:
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

// prefix returns the address that the client gets with the length of its network.
func (r *reply) prefix() (netip.Prefix, error) {
	bits := 24
	if mask := r.options[optMask]; len(mask) == 4 {
		ones, size := net.IPMask(mask).Size()
		if size == 0 {
			return netip.Prefix{}, errors.New("the subnet mask has holes")
		}
		bits = ones
	}
	if r.your.IsUnspecified() || r.your.IsMulticast() {
		return netip.Prefix{}, errors.New("the reply assigns no address")
	}
	return netip.PrefixFrom(r.your, bits), nil
}

// dhcpFrame returns the Ethernet frame of a message that a client broadcasts. A client
// without an address sends frames, not datagrams.
func dhcpFrame(mac net.HardwareAddr, id uint16, payload []byte) []byte {
	frame := make([]byte, header.EthernetMinimumSize+header.IPv4MinimumSize+header.UDPMinimumSize+len(payload))
	header.Ethernet(frame).Encode(&header.EthernetFields{
		SrcAddr: tcpip.LinkAddress(mac), DstAddr: header.EthernetBroadcastAddress, Type: header.IPv4ProtocolNumber,
	})
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(ip)), ID: id, TTL: 64, Protocol: uint8(header.UDPProtocolNumber),
		SrcAddr: header.IPv4Any, DstAddr: header.IPv4Broadcast,
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	udp := header.UDP(ip[header.IPv4MinimumSize:])
	udp.Encode(&header.UDPFields{SrcPort: dhcpClientPort, DstPort: dhcpServerPort, Length: uint16(len(udp))})
	copy(udp[header.UDPMinimumSize:], payload)
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, header.IPv4Any, header.IPv4Broadcast, uint16(len(udp)))
	sum = checksum.Checksum(payload, sum)
	udp.SetChecksum(^udp.CalculateChecksum(sum))
	return frame
}

// dhcpIn returns the message to a DHCP client in a frame, or nil if there is none.
func dhcpIn(frame []byte) []byte {
	if len(frame) < header.EthernetMinimumSize || header.Ethernet(frame).Type() != header.IPv4ProtocolNumber {
		return nil
	}
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	if !ip.IsValid(len(ip)) || !ip.IsChecksumValid() || ip.Protocol() != uint8(header.UDPProtocolNumber) ||
		ip.More() || ip.FragmentOffset() != 0 {
		return nil
	}
	udp := header.UDP(ip.Payload())
	if len(udp) < header.UDPMinimumSize || udp.DestinationPort() != dhcpClientPort || udp.SourcePort() != dhcpServerPort {
		return nil
	}
	if int(udp.Length()) < header.UDPMinimumSize || int(udp.Length()) > len(udp) {
		return nil
	}
	udp = udp[:udp.Length()]
	payload := udp.Payload()
	if udp.Checksum() != 0 && !udp.IsChecksumValid(ip.SourceAddress(), ip.DestinationAddress(), checksum.Checksum(payload, 0)) {
		return nil
	}
	return payload
}
