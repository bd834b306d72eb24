// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// guardedPolicy is guestPolicy with everything that a target's port enforces.
func guardedPolicy(n byte) Policy {
	p := guestPolicy(n)
	p.Sources = OwnSource
	p.LimitRates = true
	return p
}

// guarded returns a network with a server (10.88.0.1), a hostile guest (10.88.0.10) and
// its victim (10.88.0.11).
func guarded() (p *plan, server, hostile, victim *port) {
	p = newPlan()
	return p, p.add("server", serverPolicy()), p.add("hostile", guardedPolicy(10)), p.add("victim", guardedPolicy(11))
}

// verdict returns the kind of the counter of a frame that is refused, or "".
func (p *plan) verdict(from *port, f []byte) string {
	src := mac(f[6:12])
	if !p.s.admit(from, src, p.now) {
		return "Spoofed"
	}
	pk := snoop(f)
	counter := p.s.refuse(from, from.policy.Load(), src, &pk, p.now)
	if counter == nil {
		return ""
	}
	before := from.drops.load()
	counter.Add(1)
	after := from.drops.load()
	for kind, n := range after.ByKind() {
		if n != before.ByKind()[kind] {
			return kind
		}
	}
	return "uncounted"
}

// ip4 returns a broadcast frame with an IPv4 packet.
func ip4(from mac, source string, proto byte, payload ...byte) []byte {
	ip := make([]byte, minIPHeader)
	ip[0], ip[9] = 0x45, proto
	copy(ip[sourceIPv4:], netip.MustParseAddr(source).AsSlice())
	return changed(ethernet(typeIPv4, append(ip, payload...)...), 6, from[:]...)
}

// dhcpAsk returns a DHCP request of a client that has no address.
func dhcpAsk(from, client mac, relay string) []byte {
	bootp := make([]byte, 240)
	copy(bootp, bootpRequest)
	copy(bootp[bootpRelay:], netip.MustParseAddr(relay).AsSlice())
	copy(bootp[bootpMAC:], client[:])
	return changed(append(udp(dhcpClient, dhcpServer), bootp...), 6, from[:]...)
}

// withOption appends an option with a MAC to a neighbor discovery packet.
func withOption(f []byte, kind byte, m mac) []byte {
	return append(append(slices.Clone(f), kind, 1), m[:]...)
}

func hopByHopND(f []byte) []byte {
	f = slices.Insert(slices.Clone(f), 14+ipv6Header, extension(protoICMPv6)...)
	return changed(f, 14+6, hopByHop)
}

func fragmentedND(f []byte) []byte {
	f = slices.Insert(slices.Clone(f), 14+ipv6Header, fragmentHeader(protoICMPv6, 0)...)
	return changed(f, 14+6, fragment)
}

// eui64 is the link-local address that a station makes from its MAC.
func eui64(m mac) string {
	a := netip.MustParseAddr("fe80::ff:fe00:0").As16()
	a[8], a[9], a[10], a[13], a[14], a[15] = m[0]^2, m[1], m[2], m[3], m[4], m[5]
	return netip.AddrFrom16(a).String()
}

// disguises are encapsulations that hide nothing from the guard.
var disguises = map[string]func([]byte) []byte{
	"plain":      func(f []byte) []byte { return f },
	"802.1Q":     func(f []byte) []byte { return tagged(f, 0x81, 0, 0, 5) },
	"priority":   func(f []byte) []byte { return tagged(f, 0x81, 0, 0xe0, 0) },
	"802.1ad":    func(f []byte) []byte { return tagged(f, 0x88, 0xa8, 0, 5, 0x81, 0, 0, 6) },
	"three tags": func(f []byte) []byte { return tagged(f, 0x91, 0, 0, 5, 0x88, 0xa8, 0, 5, 0x81, 0, 0, 6) },
	"SNAP": func(f []byte) []byte {
		head := binary.BigEndian.AppendUint16(nil, uint16(min(maxLength, len(f)-ethHeader+len(snapHeader)+2)))
		return slices.Insert(slices.Clone(f), 12, append(head, snapHeader...)...)
	},
}

func TestGuard(t *testing.T) {
	const own, other, server, none = "10.88.0.10", "10.88.0.11", "10.88.0.1", "0.0.0.0"
	me, victim := station(10), station(11)
	solicit := neighbor(me, neighborSolicitation, "fe80::a", "fe80::1")
	for name, tt := range map[string]struct {
		frame []byte
		want  string
	}{
		"ARP request":                      {arpFrame(me, own, other), ""},
		"ARP probe":                        {arpFrame(me, none, own), ""},
		"ARP announcement":                 {arpFrame(me, own, own), ""},
		"ARP for the victim's address":     {arpFrame(me, other, server), "ARP"},
		"announcement of the victim's":     {arpFrame(me, other, other), "ARP"},
		"ARP as the server":                {arpFrame(me, server, other), "ARP"},
		"ARP for an unassigned address":    {arpFrame(me, "10.88.12.1", server), "ARP"},
		"ARP with the victim's MAC within": {changed(arpFrame(me, own, server), 14+8, victim[:]...), "ARP"},
		"ARP reply as the server": {
			changed(changed(arpFrame(me, server, other), 14+7, 2), 0, victim[:]...), "ARP",
		},
		"truncated ARP":          {arpFrame(me, own, server)[:14+20], "Malformed"},
		"ARP with long MACs":     {changed(arpFrame(me, own, server), 14+4, 8), "Malformed"},
		"Ethernet source":        {from(victim, arpFrame(me, own, server)), "Spoofed"},
		"TCP":                    {ip4(me, own, 6, make([]byte, 20)...), ""},
		"TCP as the victim":      {ip4(me, other, 6, make([]byte, 20)...), "IPSource"},
		"UDP as the server":      {ip4(me, server, protoUDP, ports16(80, 40000)...), "IPSource"},
		"ICMP from elsewhere":    {ip4(me, "8.8.8.8", 1, make([]byte, 8)...), "IPSource"},
		"loopback":               {ip4(me, "127.0.0.1", 1, make([]byte, 8)...), "IPSource"},
		"TCP without an address": {ip4(me, none, 6, make([]byte, 20)...), "IPSource"},
		"IGMP without an address": {
			ip4(me, none, protoIGMP, make([]byte, 8)...), "",
		},
		"later fragment as the victim": {changed(ip4(me, other, protoUDP, make([]byte, 64)...), 14+6, 0, 8), "IPSource"},
		"version 6 in IPv4":            {changed(ip4(me, own, 6), 14, 0x65), "Malformed"},
		"header beyond the packet":     {changed(ip4(me, own, 6), 14, 0x4f), "Malformed"},
		"truncated IPv4":               {ip4(me, own, 6)[:14+19], "Malformed"},

		"DHCP request":                         {dhcpAsk(me, me, none), ""},
		"DHCP renewal":                         {changed(dhcpAsk(me, me, none), 14+sourceIPv4, 10, 88, 0, 10), ""},
		"DHCP request for the victim":          {dhcpAsk(me, victim, none), "DHCPClient"},
		"DHCP request of a relay":              {dhcpAsk(me, me, own), "DHCPClient"},
		"DHCP request from the victim's IP":    {changed(dhcpAsk(me, me, none), 14+sourceIPv4, 10, 88, 0, 11), "IPSource"},
		"DHCP reply":                           {dhcpAnswer(me, victim), "DHCPServer"},
		"DHCP request in fragments":            {changed(dhcpAsk(me, me, none), 14+6, 0x20), "Malformed"},
		"DHCP request that ends before chaddr": {dhcpAsk(me, me, none)[:14+minIPHeader+udpHeader+30], "Malformed"},
		"DHCP request of another medium":       {changed(dhcpAsk(me, me, none), 14+minIPHeader+udpHeader+1, 6), "Malformed"},
		"reply sent to the server's port":      {changed(dhcpAsk(me, me, none), 14+minIPHeader+udpHeader, 2), "Malformed"},

		"router advertisement":              {from(me, ipv6(protoICMPv6, advertisement)), "Router"},
		"router solicitation":               {from(me, ipv6(protoICMPv6, solicitation)), ""},
		"router solicitation with our MAC":  {from(me, ipv6(protoICMPv6, withOption(solicitation, 1, me))), ""},
		"router solicitation with a MAC":    {from(me, ipv6(protoICMPv6, withOption(solicitation, 1, victim))), "Neighbor"},
		"neighbor solicitation":             {withOption(solicit, 1, me), ""},
		"solicitation with the victim's":    {withOption(solicit, 1, victim), "Neighbor"},
		"solicitation with two MACs":        {withOption(withOption(solicit, 1, me), 1, victim), "Malformed"},
		"solicitation, option without size": {append(slices.Clone(solicit), 1, 0, 0, 0, 0, 0, 0, 0), "Malformed"},
		"solicitation, option too large":    {append(slices.Clone(solicit), 1, 9, 0, 0, 0, 0, 0, 0), "Malformed"},
		"truncated solicitation":            {solicit[:14+ipv6Header+20], "Malformed"},
		"advertisement":                     {withOption(neighbor(me, neighborAdvertisement, "fe80::a", "fe80::a"), 2, me), ""},
		"advertisement with another MAC":    {withOption(neighbor(me, neighborAdvertisement, "fe80::a", "fe80::a"), 2, victim), "Neighbor"},
		"advertisement of the victim's":     {neighbor(me, neighborAdvertisement, "fe80::a", eui64(victim)), "Neighbor"},
		"advertisement from the victim's":   {neighbor(me, neighborAdvertisement, eui64(victim), "fe80::a"), "Neighbor"},
		"advertisement of the server's":     {neighbor(me, neighborAdvertisement, "fe80::a", eui64(station(1))), "Neighbor"},
		"advertisement behind options":      {hopByHopND(neighbor(me, neighborAdvertisement, "fe80::a", eui64(victim))), "Neighbor"},
		"advertisement in a fragment":       {fragmentedND(neighbor(me, neighborAdvertisement, "fe80::a", "fe80::a")), "Malformed"},
		"advertisement without a source":    {neighbor(me, neighborAdvertisement, "::", "fe80::a"), "Neighbor"},
		"test for duplicates":               {neighbor(me, neighborSolicitation, "::", "fe80::a"), ""},
		"test for the victim's address":     {neighbor(me, neighborSolicitation, "::", eui64(victim)), ""},
		"IPv6 as the victim": {
			changed(from(me, ipv6(6, make([]byte, 20))), 14+sourceAddress, netip.MustParseAddr(eui64(victim)).AsSlice()...), "IPSource",
		},
		"IPv6 without a source": {from(me, ipv6(6, make([]byte, 20))), "IPSource"},
		"version 4 in IPv6":     {changed(from(me, ipv6(6, make([]byte, 20))), 14, 0x45), "Malformed"},
		"another EtherType":     {frame(broadcast, me, "other"), ""},
	} {
		for disguise, wrap := range disguises {
			t.Run(name+"/"+disguise, func(t *testing.T) {
				p, _, hostile, _ := guarded()
				if got := p.verdict(hostile, wrap(tt.frame)); got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
			})
		}
	}
}

// TestGuardTrustsTheServer checks that the server may send what it routes and answers.
func TestGuardTrustsTheServer(t *testing.T) {
	p, server, _, _ := guarded()
	for name, f := range map[string][]byte{
		"packet from elsewhere": ip4(station(1), "8.8.8.8", 6, make([]byte, 20)...),
		"DHCP reply":            dhcpAnswer(station(1), station(10)),
		"router advertisement":  from(station(1), ipv6(protoICMPv6, advertisement)),
	} {
		if got := p.verdict(server, f); got != "" {
			t.Errorf("%s: got %q, want it sent", name, got)
		}
	}
	if got := p.verdict(server, from(station(10), ip4(station(1), "10.88.0.10", 6))); got != "Spoofed" {
		t.Errorf("frame from the MAC of a guest: got %q, want it refused", got)
	}
}

func TestGuardGivesIPv6AddressesToTheFirst(t *testing.T) {
	p, _, hostile, victim := guarded()
	use := func(by *port, n byte, source string) string {
		return p.verdict(by, neighbor(station(n), neighborSolicitation, source, "fe80::1"))
	}
	steps := []struct {
		what, got, want string
	}{
		{"first use", use(victim, 11, "2001:db8::7"), ""},
		{"use by another", use(hostile, 10, "2001:db8::7"), "Neighbor"},
		{"advertisement by another", p.verdict(hostile, neighbor(station(10), neighborAdvertisement, "fe80::a", "2001:db8::7")), "Neighbor"},
		{"test by another", p.verdict(hostile, neighbor(station(10), neighborSolicitation, "::", "2001:db8::7")), ""},
		{"use after the test", use(hostile, 10, "2001:db8::7"), "Neighbor"},
		{"further use", use(victim, 11, "2001:db8::7"), ""},
		// An address that contains the victim's MAC is not even the first one's.
		{"use of an address with the victim's MAC", use(hostile, 10, eui64(station(11))), "Neighbor"},
		{"the victim uses it", use(victim, 11, eui64(station(11))), ""},
		{"an address with an unknown MAC", use(hostile, 10, eui64(station(99))), ""},
	}
	for _, s := range steps {
		if s.got != s.want {
			t.Errorf("%s: got %q, want %q", s.what, s.got, s.want)
		}
	}
	p.now = p.now.Add(claimAge + time.Second)
	if got := use(hostile, 10, "2001:db8::7"); got != "" {
		t.Errorf("use of an address that was not used for long: got %q, want it sent", got)
	}
	if got := use(victim, 11, "2001:db8::7"); got != "Neighbor" {
		t.Errorf("return of the former user: got %q, want it refused", got)
	}
	p.remove(hostile)
	if got := use(victim, 11, "2001:db8::7"); got != "" {
		t.Errorf("use of an address of a port that is gone: got %q, want it sent", got)
	}
	p.remove(victim)
	if n := len(p.s.claims.addresses); n != 0 {
		t.Errorf("got %d addresses of ports that are gone, want none", n)
	}
}

func TestGuardBoundsIPv6Addresses(t *testing.T) {
	p, _, hostile, victim := guarded()
	address := func(i int) string {
		return netip.AddrFrom16([16]byte{0x20, 1, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)}).String()
	}
	refused := 0
	for i := range 10_000 {
		p.now = p.now.Add(time.Millisecond)
		if p.verdict(hostile, neighbor(station(10), neighborSolicitation, address(i), "fe80::1")) != "" {
			refused++
		}
	}
	if want := 10_000 - maxClaims; refused != want || len(p.s.claims.addresses) != maxClaims {
		t.Errorf("got %d refused packets and %d addresses, want %d and %d", refused, len(p.s.claims.addresses), want, maxClaims)
	}
	if got := p.verdict(victim, neighbor(station(11), neighborSolicitation, "fe80::b", "fe80::1")); got != "" {
		t.Errorf("victim: got %q, want it sent", got)
	}
	p.now = p.now.Add(claimAge + time.Second)
	if got := p.verdict(hostile, neighbor(station(10), neighborSolicitation, address(77_777), "fe80::1")); got != "" {
		t.Errorf("new address after the others aged: got %q, want it sent", got)
	}
}

// TestGuardSwitchedOff checks what each switch-off allows, and that none allows the
// addresses of other machines.
func TestGuardSwitchedOff(t *testing.T) {
	nested := mac{0x52, 0x54, 0, 9, 9, 9}
	me, victim := station(10), station(11)
	for name, tt := range map[string]struct {
		off  func(*Policy)
		want map[string]string
	}{
		"nothing": {func(*Policy) {}, map[string]string{
			"nested MAC": "Spoofed", "nested DHCP": "Spoofed", "free address": "IPSource", "free ARP": "ARP",
			"DHCP reply": "DHCPServer", "advertisement": "Router", "relay": "DHCPClient",
		}},
		"addresses": {func(p *Policy) { p.Sources = NotOthers }, map[string]string{
			"nested MAC": "Spoofed", "nested DHCP": "Spoofed", "free address": "", "free ARP": "",
			"DHCP reply": "DHCPServer", "advertisement": "Router", "relay": "DHCPClient",
		}},
		"MACs and addresses": {func(p *Policy) { p.Sources, p.ForeignMACs = NotOthers, true }, map[string]string{
			"nested MAC": "", "nested DHCP": "", "free address": "", "free ARP": "",
			"DHCP reply": "DHCPServer", "advertisement": "Router", "relay": "DHCPClient",
		}},
		"DHCP": {func(p *Policy) { p.DenyDHCP = false }, map[string]string{
			"nested MAC": "Spoofed", "nested DHCP": "Spoofed", "free address": "IPSource", "free ARP": "ARP",
			"DHCP reply": "", "advertisement": "Router", "relay": "",
		}},
		"routers": {func(p *Policy) { p.DenyRouter = false }, map[string]string{
			"nested MAC": "Spoofed", "nested DHCP": "Spoofed", "free address": "IPSource", "free ARP": "ARP",
			"DHCP reply": "DHCPServer", "advertisement": "", "relay": "DHCPClient",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p, _, hostile, _ := guarded()
			pol := guardedPolicy(10)
			tt.off(&pol)
			parsed, err := parsePolicy(pol)
			if err != nil {
				t.Fatal(err)
			}
			p.s.setPolicy(hostile, parsed, p.now)
			got := map[string]string{
				"nested MAC":    p.verdict(hostile, ip4(nested, "10.88.0.77", 6)),
				"nested DHCP":   p.verdict(hostile, dhcpAsk(nested, nested, "0.0.0.0")),
				"free address":  p.verdict(hostile, ip4(me, "10.88.0.77", 6)),
				"free ARP":      p.verdict(hostile, arpFrame(me, "10.88.0.77", "10.88.0.1")),
				"DHCP reply":    p.verdict(hostile, changed(dhcpAnswer(me, nested), 14+sourceIPv4, 10, 88, 0, 10)),
				"advertisement": p.verdict(hostile, changed(from(me, ipv6(protoICMPv6, advertisement)), 14+sourceAddress, 0xfe, 0x80)),
				"relay":         p.verdict(hostile, dhcpAsk(me, me, "10.88.0.10")),
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("refused (-want +got):\n%s", diff)
			}
			for what, f := range map[string][]byte{
				"the victim's MAC":          ip4(victim, "10.88.0.11", 6),
				"the victim's address":      ip4(me, "10.88.0.11", 6),
				"the victim's ARP":          arpFrame(me, "10.88.0.11", "10.88.0.11"),
				"the server's ARP":          arpFrame(me, "10.88.0.1", "10.88.0.11"),
				"the victim's IPv6 address": neighbor(me, neighborAdvertisement, "fe80::a", eui64(victim)),
				"the victim's DHCP request": dhcpAsk(me, victim, "0.0.0.0"),
				"the victim's MAC, nested":  dhcpAsk(nested, victim, "0.0.0.0"),
			} {
				if p.verdict(hostile, f) == "" {
					t.Errorf("%s is sent, want it refused", what)
				}
			}
		})
	}
}

// TestGuardKeepsFormerAddresses checks that a system that is installed with an address
// keeps it after another was declared, until another machine has it.
func TestGuardKeepsFormerAddresses(t *testing.T) {
	p, _, a, b := guarded()
	set := func(to *port, n byte, address string) {
		t.Helper()
		pol := guardedPolicy(n)
		pol.Addresses = []netip.Addr{netip.MustParseAddr(address)}
		parsed, err := parsePolicy(pol)
		if err != nil {
			t.Fatal(err)
		}
		p.s.setPolicy(to, parsed, p.now)
	}
	set(a, 10, "10.88.1.10")
	for address, want := range map[string]string{"10.88.0.10": "", "10.88.1.10": "", "10.88.0.12": "IPSource"} {
		if got := p.verdict(a, ip4(station(10), address, 6)); got != want {
			t.Errorf("%s after the change: got %q, want %q", address, got, want)
		}
	}
	set(b, 11, "10.88.0.10")
	if got := p.verdict(a, ip4(station(10), "10.88.0.10", 6)); got != "IPSource" {
		t.Errorf("former address that another has: got %q, want it refused", got)
	}
	for i := range 100 {
		set(a, 10, netip.AddrFrom4([4]byte{10, 88, 2, byte(i)}).String())
	}
	if n := len(a.policy.Load().former); n != maxFormer {
		t.Errorf("got %d former addresses, want at most %d", n, maxFormer)
	}
}

// TestHostileFramesDoNotArrive sends frames through the sockets.
func TestHostileFramesDoNotArrive(t *testing.T) {
	s, _, g := lab(t, Options{}, 2, func(c *PortConfig) {
		c.Policy = guardedPolicy(10 + c.Name[0] - 'a')
	})
	me, victim := station(10), station(11)
	hostile := map[string][]byte{
		"ARP":        arpFrame(me, "10.88.0.11", "10.88.0.11"),
		"IPSource":   changed(ip4(me, "10.88.0.11", 6), 0, victim[:]...),
		"DHCPClient": dhcpAsk(me, victim, "0.0.0.0"),
		"Neighbor":   neighbor(me, neighborAdvertisement, "fe80::a", eui64(victim)),
		"DHCPServer": dhcpAnswer(me, victim),
		"Router":     from(me, ipv6(protoICMPv6, advertisement)),
		"Spoofed":    frame(victim, victim, "x"),
		"Malformed":  arpFrame(me, "10.88.0.10", "10.88.0.11")[:14+20],
	}
	for _, f := range hostile {
		g[0].send(f)
	}
	honest := frame(victim, me, "honest")
	g[0].send(honest)
	g[1].want(honest)
	drops := stats(t, s, "a").Drops
	kinds := drops.ByKind()
	for kind := range hostile {
		if kinds[kind] != 1 {
			t.Errorf("got %d frames counted as %s, want 1", kinds[kind], kind)
		}
	}
	if got := drops.Refused(); got != uint64(len(hostile)) {
		t.Errorf("got %d refused frames, want %d", got, len(hostile))
	}
	if got := s.Refused(); len(got) != 1 || got[0].Name != "a" {
		t.Errorf("got refused frames of %+v, want of port a", got)
	}
}

// FuzzGuard checks that no frame causes a panic, and that what is sent has no address of
// another machine.
func FuzzGuard(f *testing.F) {
	for _, s := range snooped {
		f.Add(from(station(10), s.frame))
	}
	f.Add(dhcpAsk(station(10), station(11), "0.0.0.0"))
	f.Add(disguises["SNAP"](arpFrame(station(10), "10.88.0.11", "10.88.0.1")))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < ethHeader {
			return
		}
		p, _, hostile, victim := guarded()
		taken := neighbor(station(11), neighborSolicitation, "2001:db8::7", "fe80::1")
		if got := p.verdict(victim, taken); got != "" {
			t.Fatalf("got %q for the victim's packet, want it sent", got)
		}
		if p.verdict(hostile, frame) != "" {
			return
		}
		pk := snoop(frame)
		if mac(frame[6:12]) != station(10) || pk.hasHardware && pk.hardware != station(10) {
			t.Errorf("a frame with a foreign MAC is sent: %x", frame)
		}
		if pk.family == familyIPv4 && pk.source4 != (ipv4{}) && pk.source4 != (ipv4{10, 88, 0, 10}) {
			t.Errorf("a packet with the source %v is sent: %x", pk.source4, frame)
		}
		if pk.family == familyIPv6 && pk.source6 == ipv6Addr(netip.MustParseAddr("2001:db8::7").As16()) {
			t.Errorf("a packet with the victim's IPv6 address is sent: %x", frame)
		}
	})
}
