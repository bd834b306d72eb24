// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"encoding/binary"
	"slices"
	"testing"
)

// ethernet is a frame from station 1 to all.
func ethernet(kind uint16, packet ...byte) []byte {
	one := station(1)
	f := append(append([]byte{}, broadcast[:]...), one[:]...)
	return append(binary.BigEndian.AppendUint16(f, kind), packet...)
}

func ports16(from, to uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	return append(binary.BigEndian.AppendUint16(b, to), 0, 8, 0, 0)
}

func udp(from, to uint16) []byte {
	ip := make([]byte, minIPHeader)
	ip[0], ip[9] = 0x45, protoUDP
	return ethernet(typeIPv4, append(ip, ports16(from, to)...)...)
}

// changed is f with b from an offset on.
func changed(f []byte, at int, b ...byte) []byte {
	f = slices.Clone(f)
	copy(f[at:], b)
	return f
}

// tagged is f with bytes before its EtherType.
func tagged(f []byte, tags ...byte) []byte { return slices.Insert(slices.Clone(f), 12, tags...) }

// ipv6 is a packet of the parts that follow its header, the first of which is
// of type next.
func ipv6(next byte, parts ...[]byte) []byte {
	head := make([]byte, ipv6Header)
	head[0], head[6], head[7] = 0x60, next, 255
	return ethernet(typeIPv6, append(head, slices.Concat(parts...)...)...)
}

// extension is a header of 8 bytes that is followed by next.
func extension(next byte) []byte { return []byte{next, 0, 0, 0, 0, 0, 0, 0} }

func fragmentHeader(next byte, offset uint16) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{next, 0}, offset<<3|1), 1, 2, 3, 4)
}

var (
	advertisement = []byte{routerAdvertisement, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}
	solicitation  = []byte{133, 0, 0, 0, 0, 0, 0, 0}
)

// served are frames by what they serve; the fuzz test starts from them.
var served = []struct {
	name  string
	frame []byte
	want  service
}{
	{"server's reply", udp(67, 68), dhcpReply},
	{"reply from another port", udp(1067, 68), dhcpReply},
	{"reply to a relay", udp(67, 67), dhcpReply},
	{"client", udp(68, 67), nothing},
	{"other UDP", udp(40000, 53), nothing},
	{"TFTP", udp(2048, 69), nothing},
	{"IP options", func() []byte {
		f := changed(udp(67, 68), 14, 0x46)
		return slices.Insert(f, 14+minIPHeader, 0, 0, 0, 0)
	}(), dhcpReply},
	{"VLAN tag", tagged(udp(67, 68), 0x81, 0, 0, 5), dhcpReply},
	{"priority tag", tagged(udp(67, 68), 0x81, 0, 0xe0, 0), dhcpReply},
	{"two tags", tagged(udp(67, 68), 0x88, 0xa8, 0, 5, 0x81, 0, 0, 6), dhcpReply},
	{"many tags", tagged(udp(67, 68), 0x91, 0, 0, 5, 0x91, 0, 0, 5, 0x88, 0xa8, 0, 5, 0x81, 0, 0, 6), dhcpReply},
	{"tagged client", tagged(udp(68, 67), 0x81, 0, 0, 5), nothing},
	{"TCP", changed(udp(67, 68), 14+9, 6), nothing},
	{"first fragment", changed(udp(67, 68), 14+6, 0x20), dhcpReply},
	{"later fragment", changed(udp(67, 68), 14+7, 1), nothing},
	{"header length lies", changed(udp(67, 68), 14, 0x4f), nothing},
	{"header too short", changed(udp(67, 68), 14, 0x44), nothing},
	{"cut tag", changed(udp(67, 68), 12, 0x81, 0)[:14], nothing},
	{"cut IP", udp(67, 68)[:20], nothing},
	{"cut ports", udp(67, 68)[:14+minIPHeader+3], nothing},
	{"ARP", ethernet(0x0806, make([]byte, 28)...), nothing},
	{"802.3 length", ethernet(60, make([]byte, 60)...), nothing},

	{"router advertisement", ipv6(protoICMPv6, advertisement), routing},
	{"redirect", ipv6(protoICMPv6, []byte{redirect, 0, 0, 0}), routing},
	{"router solicitation", ipv6(protoICMPv6, solicitation), nothing},
	{"neighbour advertisement", ipv6(protoICMPv6, []byte{136, 0, 0, 0}), nothing},
	{"advertisement behind options", ipv6(hopByHop, extension(destinationOptions), extension(protoICMPv6), advertisement), routing},
	{"advertisement behind authentication", ipv6(authentication, []byte{protoICMPv6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, advertisement), routing},
	{"advertisement behind a tag", tagged(ipv6(protoICMPv6, advertisement), 0x81, 0, 0, 5), routing},
	{"advertisement in a first fragment", ipv6(fragment, fragmentHeader(protoICMPv6, 0), advertisement), routing},
	{"later IPv6 fragment", ipv6(fragment, fragmentHeader(protoICMPv6, 1), advertisement), nothing},
	{"first fragment that hides what it carries", ipv6(fragment, fragmentHeader(destinationOptions, 0), []byte{protoICMPv6, 4}), routing},
	{"first fragment with nothing", ipv6(fragment, fragmentHeader(protoICMPv6, 0)), routing},
	{"endless extensions", ipv6(destinationOptions, slices.Repeat(extension(destinationOptions), 40)), routing},
	{"DHCPv6 reply", ipv6(protoUDP, ports16(547, 546)), dhcpReply},
	{"DHCPv6 reply from another port", ipv6(protoUDP, ports16(4000, 546)), dhcpReply},
	{"DHCPv6 request", ipv6(protoUDP, ports16(546, 547)), nothing},
	{"DHCPv6 reply behind options", ipv6(destinationOptions, extension(protoUDP), ports16(547, 546)), dhcpReply},
	{"IPv6 TCP", ipv6(6, ports16(547, 546)), nothing},
	{"no next header", ipv6(59), nothing},
	{"cut IPv6", ipv6(protoICMPv6)[:40], nothing},
}

func TestServedBy(t *testing.T) {
	for _, tt := range served {
		t.Run(tt.name, func(t *testing.T) {
			if got := servedBy(tt.frame); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

// FuzzServedBy: whatever a guest sends is looked at without harm, and one more
// tag hides nothing.
func FuzzServedBy(f *testing.F) {
	for _, s := range served {
		f.Add(s.frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < ethHeader {
			return
		}
		if plain, behind := servedBy(frame), servedBy(tagged(frame, 0x81, 0, 0, 5)); plain != behind {
			t.Errorf("%d, and %d with a tag", plain, behind)
		}
	})
}

func TestOnlyTheServersPortServes(t *testing.T) {
	guest, server := station(1), station(2)
	s, _, g := lab(t, Options{}, 3, func(c *PortConfig) {
		switch c.Name {
		case "a":
			c.Policy = Policy{MAC: guest[:], DenyServer: true}
		case "b":
			c.Policy = Policy{MAC: server[:]}
		}
	})
	for _, tt := range served {
		g[0].send(tt.frame)
		if tt.want == nothing {
			g[1].want(tt.frame)
			g[2].want(tt.frame)
		}
	}
	for _, tt := range served {
		fromServer := changed(tt.frame, 6, server[:]...)
		g[1].send(fromServer)
		g[0].want(fromServer)
		g[2].want(fromServer)
	}
	var want Drops
	for _, tt := range served {
		switch tt.want {
		case dhcpReply:
			want.DHCPServer++
		case routing:
			want.Router++
		}
	}
	if got := stats(t, s, "a").Drops; got != want {
		t.Errorf("drops %+v, want %+v", got, want)
	}
	if got := stats(t, s, "b").Drops; got != (Drops{}) {
		t.Errorf("the server's drops: %+v", got)
	}
}

// QEMU announces a machine that moved by RARP from its own address: that is
// no theft.
func TestAnnouncementsPass(t *testing.T) {
	own := station(1)
	s, _, g := lab(t, Options{}, 2, func(c *PortConfig) {
		if c.Name == "a" {
			c.Policy = Policy{MAC: own[:], DenyServer: true}
		}
	})
	rarp := ethernet(0x8035, append([]byte{0, 1, 8, 0, 6, 4, 0, 3}, make([]byte, 52-6)...)...)
	g[0].send(rarp)
	g[1].want(rarp)
	if got := stats(t, s, "a").Drops; got != (Drops{}) {
		t.Errorf("drops %+v", got)
	}
}
