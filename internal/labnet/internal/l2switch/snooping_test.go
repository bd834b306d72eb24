// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
)

// ethernet returns a broadcast frame from station 1.
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

// changed returns a copy of f with b written at an offset.
func changed(f []byte, at int, b ...byte) []byte {
	f = slices.Clone(f)
	copy(f[at:], b)
	return f
}

// tagged returns a copy of f with bytes inserted before its EtherType.
func tagged(f []byte, tags ...byte) []byte { return slices.Insert(slices.Clone(f), 12, tags...) }

// ipv6 returns a frame with an IPv6 packet: a header whose next header is next,
// followed by parts.
func ipv6(next byte, parts ...[]byte) []byte {
	head := make([]byte, ipv6Header)
	head[0] = 0x60
	head[6] = next
	head[7] = 255
	return ethernet(typeIPv6, append(head, slices.Concat(parts...)...)...)
}

// arpFrame returns a broadcast ARP request.
func arpFrame(from mac, sender, target string) []byte {
	a := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	a = append(append(a, from[:]...), netip.MustParseAddr(sender).AsSlice()...)
	a = append(append(a, make([]byte, 6)...), netip.MustParseAddr(target).AsSlice()...)
	return changed(ethernet(typeARP, a...), 6, from[:]...)
}

// neighbor returns a neighbor solicitation to the target's group, or a neighbor
// advertisement to all nodes.
func neighbor(from mac, kind byte, source, target string) []byte {
	at := netip.MustParseAddr(target).AsSlice()
	f := ipv6(protoICMPv6, append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, at...))
	f = changed(f, 14+sourceAddress, netip.MustParseAddr(source).AsSlice()...)
	dst := []byte{0x33, 0x33, 0, 0, 0, 1}
	if kind == neighborSolicitation {
		dst = append([]byte{0x33, 0x33, 0xff}, at[13:]...)
	}
	return changed(changed(f, 0, dst...), 6, from[:]...)
}

// dhcpAnswer returns a broadcast DHCP reply that names a client.
func dhcpAnswer(from, client mac) []byte {
	bootp := make([]byte, 240)
	copy(bootp, bootpReply)
	copy(bootp[bootpMAC:], client[:])
	return changed(append(udp(67, 68), bootp...), 6, from[:]...)
}

// extension returns an 8-byte extension header whose next header is next.
func extension(next byte) []byte { return []byte{next, 0, 0, 0, 0, 0, 0, 0} }

func fragmentHeader(next byte, offset uint16) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{next, 0}, offset<<3|1), 1, 2, 3, 4)
}

var (
	advertisement = []byte{routerAdvertisement, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}
	solicitation  = []byte{133, 0, 0, 0, 0, 0, 0, 0}
)

// snooped are frames with their classification, also the seeds of FuzzSnoop.
var snooped = []struct {
	name  string
	frame []byte
	want  message
}{
	{"DHCP reply", udp(67, 68), dhcpReply},
	{"DHCP reply from another port", udp(1067, 68), dhcpReply},
	{"DHCP reply to a relay agent", udp(67, 67), dhcpReply},
	{"DHCP request", udp(68, 67), dhcpRequest},
	{"other UDP", udp(40000, 53), ordinary},
	{"TFTP", udp(2048, 69), ordinary},
	{"IP options", func() []byte {
		f := changed(udp(67, 68), 14, 0x46)
		return slices.Insert(f, 14+minIPHeader, 0, 0, 0, 0)
	}(), dhcpReply},
	{"VLAN tag", tagged(udp(67, 68), 0x81, 0, 0, 5), dhcpReply},
	{"priority tag", tagged(udp(67, 68), 0x81, 0, 0xe0, 0), dhcpReply},
	{"two tags", tagged(udp(67, 68), 0x88, 0xa8, 0, 5, 0x81, 0, 0, 6), dhcpReply},
	{"many tags", tagged(udp(67, 68), 0x91, 0, 0, 5, 0x91, 0, 0, 5, 0x88, 0xa8, 0, 5, 0x81, 0, 0, 6), dhcpReply},
	{"tagged DHCP request", tagged(udp(68, 67), 0x81, 0, 0, 5), dhcpRequest},
	{"TCP", changed(udp(67, 68), 14+9, 6), ordinary},
	{"first fragment", changed(udp(67, 68), 14+6, 0x20), dhcpReply},
	{"later fragment", changed(udp(67, 68), 14+7, 1), ordinary},
	{"header length beyond the packet", changed(udp(67, 68), 14, 0x4f), ordinary},
	{"header too short", changed(udp(67, 68), 14, 0x44), ordinary},
	{"truncated VLAN tag", changed(udp(67, 68), 12, 0x81, 0)[:14], ordinary},
	{"truncated IP header", udp(67, 68)[:20], ordinary},
	{"truncated UDP ports", udp(67, 68)[:14+minIPHeader+3], ordinary},
	{"ARP", arpFrame(station(1), "10.88.0.10", "10.88.0.1"), arp},
	{"tagged ARP", tagged(arpFrame(station(1), "10.88.0.10", "10.88.0.1"), 0x81, 0, 0, 5), arp},
	{"truncated ARP", arpFrame(station(1), "10.88.0.10", "10.88.0.1")[:14+27], ordinary},
	{"ARP of another network type", changed(arpFrame(station(1), "10.88.0.10", "10.88.0.1"), 14, 0, 6), ordinary},
	{"ARP of another protocol", changed(arpFrame(station(1), "10.88.0.10", "10.88.0.1"), 16, 0x86, 0xdd), ordinary},
	{"ARP with long addresses", changed(arpFrame(station(1), "10.88.0.10", "10.88.0.1"), 18, 8, 8), ordinary},
	{"802.3 length", ethernet(60, make([]byte, 60)...), ordinary},

	{"router advertisement", ipv6(protoICMPv6, advertisement), routerMessage},
	{"redirect", ipv6(protoICMPv6, []byte{redirect, 0, 0, 0}), routerMessage},
	{"router solicitation", ipv6(protoICMPv6, solicitation), routerRequest},
	{"report of multicast listeners", ipv6(hopByHop, extension(protoICMPv6), []byte{143, 0, 0, 0}), routerRequest},
	{"neighbor solicitation", neighbor(station(1), neighborSolicitation, "fe80::1", "fe80::2"), ndSolicitation},
	{"neighbor advertisement", neighbor(station(1), neighborAdvertisement, "fe80::1", "fe80::1"), ndAdvertisement},
	{"truncated neighbor advertisement", ipv6(protoICMPv6, []byte{136, 0, 0, 0}), ordinary},
	{
		"advertisement behind options",
		ipv6(hopByHop, extension(destinationOptions), extension(protoICMPv6), advertisement), routerMessage,
	},
	{
		"advertisement behind authentication",
		ipv6(authentication, []byte{protoICMPv6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, advertisement), routerMessage,
	},
	{"advertisement with a VLAN tag", tagged(ipv6(protoICMPv6, advertisement), 0x81, 0, 0, 5), routerMessage},
	{"advertisement in a first fragment", ipv6(fragment, fragmentHeader(protoICMPv6, 0), advertisement), routerMessage},
	{"later IPv6 fragment", ipv6(fragment, fragmentHeader(protoICMPv6, 1), advertisement), ordinary},
	{
		"first fragment with an incomplete header chain",
		ipv6(fragment, fragmentHeader(destinationOptions, 0), []byte{protoICMPv6, 4}), routerMessage,
	},
	{"first fragment without payload", ipv6(fragment, fragmentHeader(protoICMPv6, 0)), routerMessage},
	{"first fragment without a UDP header", ipv6(fragment, fragmentHeader(protoUDP, 0)), dhcpReply},
	{"first fragment with a truncated UDP header", ipv6(fragment, fragmentHeader(protoUDP, 0), []byte{0x02, 0x23, 0x02}), dhcpReply},
	{"DHCPv6 request in a first fragment", ipv6(fragment, fragmentHeader(protoUDP, 0), ports16(546, 547)), dhcpRequest},
	{"too many extension headers", ipv6(destinationOptions, slices.Repeat(extension(destinationOptions), 40)), routerMessage},
	{"DHCPv6 reply", ipv6(protoUDP, ports16(547, 546)), dhcpReply},
	{"DHCPv6 reply from another port", ipv6(protoUDP, ports16(4000, 546)), dhcpReply},
	{"DHCPv6 request", ipv6(protoUDP, ports16(546, 547)), dhcpRequest},
	{"DHCPv6 reply behind options", ipv6(destinationOptions, extension(protoUDP), ports16(547, 546)), dhcpReply},
	{"IPv6 TCP", ipv6(6, ports16(547, 546)), ordinary},
	{"no next header", ipv6(59), ordinary},
	{"IPv6 header only", ipv6(protoICMPv6)[:40], ordinary},
}

func TestSnoop(t *testing.T) {
	for _, tt := range snooped {
		t.Run(tt.name, func(t *testing.T) {
			if got := snoop(tt.frame).kind; got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

// FuzzSnoop checks that no frame of a guest causes a panic, and that a VLAN tag
// does not change what is read.
func FuzzSnoop(f *testing.F) {
	for _, s := range snooped {
		f.Add(s.frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < ethHeader {
			return
		}
		plain, behind := snoop(frame), snoop(tagged(frame, 0x81, 0, 0, 5))
		if plain.tagged = true; plain != behind {
			t.Errorf("got %+v with a VLAN tag, want %+v as without", behind, plain)
		}
	})
}

func TestDenyServerDropsServerMessages(t *testing.T) {
	guest, server := station(1), station(2)
	s, _, g := lab(t, Options{}, 3, func(c *PortConfig) {
		switch c.Name {
		case "a":
			c.Policy = Policy{MAC: guest[:], DenyDHCP: true, DenyRouter: true}
		case "b":
			c.Policy = Policy{MAC: server[:]}
		}
	})
	for _, tt := range snooped {
		g[0].send(tt.frame)
		if tt.want != dhcpReply && tt.want != routerMessage {
			g[1].want(tt.frame)
			g[2].want(tt.frame)
		}
	}
	for _, tt := range snooped {
		fromServer := changed(tt.frame, 6, server[:]...)
		g[1].send(fromServer)
		g[2].want(fromServer)
		if toServers := tt.want == dhcpRequest || tt.want == routerRequest; !toServers || snoop(tt.frame).tagged {
			g[0].want(fromServer)
		}
	}
	var want Drops
	for _, tt := range snooped {
		switch tt.want {
		case dhcpReply:
			want.DHCPServer++
		case routerMessage:
			want.Router++
		}
	}
	if got := stats(t, s, "a").Drops; got != want {
		t.Errorf("got drops %+v, want %+v", got, want)
	}
	if got := stats(t, s, "b").Drops; got != (Drops{}) {
		t.Errorf("got drops %+v of the server's port, want none", got)
	}
}

// TestDenyServerAllowsRARP covers QEMU's announcement of a migrated machine, which
// is a RARP frame from the machine's address.
func TestDenyServerAllowsRARP(t *testing.T) {
	own := station(1)
	s, _, g := lab(t, Options{}, 2, func(c *PortConfig) {
		if c.Name == "a" {
			c.Policy = Policy{MAC: own[:], DenyDHCP: true, DenyRouter: true}
		}
	})
	rarp := ethernet(0x8035, append([]byte{0, 1, 8, 0, 6, 4, 0, 3}, make([]byte, 52-6)...)...)
	g[0].send(rarp)
	g[1].want(rarp)
	if got := stats(t, s, "a").Drops; got != (Drops{}) {
		t.Errorf("got drops %+v, want none", got)
	}
}
