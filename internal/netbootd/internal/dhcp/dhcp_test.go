// SPDX-License-Identifier: Apache-2.0

package dhcp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	t0      = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	known   = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}
	unknown = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 2}
	other   = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 3}
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func config() Config {
	return Config{
		ServerAddr: ip("10.0.0.1"),
		Prefix:     netip.MustParsePrefix("10.0.0.0/24"),
		RangeStart: ip("10.0.0.100"), RangeEnd: ip("10.0.0.109"),
		LeaseTime: time.Hour,
		Router:    ip("10.0.0.1"),
		DNS:       []netip.Addr{ip("10.0.0.1")},
		NTP:       []netip.Addr{ip("10.0.0.1")},
		Domain:    "lab.test",
		MTU:       9000,
	}
}

type hosts map[string]Host

func (h hosts) Lookup(mac net.HardwareAddr) (Host, bool) {
	host, ok := h[mac.String()]
	return host, ok
}

func (h hosts) Reserved(a netip.Addr) bool {
	for _, host := range h {
		if host.Address == a {
			return true
		}
	}
	return false
}

// declared is a policy with one machine, whose reservation is inside the pool.
func declared() hosts {
	return hosts{known.String(): {
		Address: ip("10.0.0.105"), Hostname: "target-1",
		BootFile: func(c Client) string {
			switch {
			case c.Stage == IPXE, c.Arch.HTTP():
				return "http://10.0.0.1/boot/" + c.MAC.String()
			case c.Arch.Machine() == "aarch64":
				return "ipxe-arm64.efi"
			}
			return "ipxe.efi"
		},
	}}
}

func responder(t testing.TB, change ...func(*Config)) *Responder {
	t.Helper()
	c := config()
	for _, f := range change {
		f(&c)
	}
	r, err := NewResponder(c, declared())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func message(t testing.TB, kind dhcpv4.MessageType, mac net.HardwareAddr, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithHwAddr(mac), dhcpv4.WithMessageType(kind),
	}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func opt(code uint8, value ...byte) dhcpv4.Modifier {
	return dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(code), value)
}

func requested(a string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ip(a).AsSlice()))
}

func serverID(a string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ip(a).AsSlice()))
}

func clientIP(a string) dhcpv4.Modifier { return dhcpv4.WithClientIP(ip(a).AsSlice()) }

// firmware adds the options that EDK2 sends.
func firmware(arch byte) dhcpv4.Modifier {
	return func(m *dhcpv4.DHCPv4) {
		m.UpdateOption(dhcpv4.OptClassIdentifier(fmt.Sprintf("PXEClient:Arch:%05d:UNDI:003000", arch)))
		opt(93, 0, arch)(m)
		opt(97, 0, 0x78, 0x56, 0x34, 0x12, 0x34, 0x12, 0x78, 0x56, 1, 2, 3, 4, 5, 6, 7, 8)(m)
		opt(57, 0x05, 0xc0)(m)
		opt(55, 1, 2, 3, 4, 5, 6, 12, 13, 15, 17, 18, 22, 23, 28, 40, 41, 42, 43, 50, 51, 54, 58, 59, 60, 66, 67, 97, 128)(m)
	}
}

func ipxe(m *dhcpv4.DHCPv4) {
	firmware(7)(m)
	opt(77, 'i', 'P', 'X', 'E')(m)
	opt(175, 0xb1, 5, 1)(m)
}

// bind obtains a lease with DISCOVER and REQUEST.
func bind(t testing.TB, r *Responder, mac net.HardwareAddr, at time.Time) netip.Addr {
	t.Helper()
	offer, ev := r.Reply(message(t, dhcpv4.MessageTypeDiscover, mac), at)
	if ev.Kind != Offer {
		t.Fatalf("DISCOVER from %s: got event %+v, want an Offer", mac, ev)
	}
	a := addr(offer.YourIPAddr)
	_, ev = r.Reply(message(t, dhcpv4.MessageTypeRequest, mac, requested(a.String()), serverID("10.0.0.1")), at)
	if ev.Kind != Ack || ev.Address != a {
		t.Fatalf("REQUEST from %s: got event %+v, want an Ack of %s", mac, ev, a)
	}
	return a
}

func TestValidate(t *testing.T) {
	if err := config().Validate(); err != nil {
		t.Errorf("Validate of a valid configuration = %v, want nil", err)
	}
	tests := []struct {
		want   string
		change func(*Config)
	}{
		{"not an IPv4 prefix", func(c *Config) { c.Prefix = netip.MustParsePrefix("fd00::/64") }},
		{"not an IPv4 prefix", func(c *Config) { c.Prefix = netip.Prefix{} }},
		{"too small", func(c *Config) { c.Prefix = netip.MustParsePrefix("10.0.0.0/31") }},
		{"server address", func(c *Config) { c.ServerAddr = ip("10.0.1.1") }},
		{"server address", func(c *Config) { c.ServerAddr = ip("10.0.0.0") }},
		{"server address", func(c *Config) { c.ServerAddr = ip("10.0.0.255") }},
		{"server address", func(c *Config) { c.ServerAddr = netip.Addr{} }},
		{"only one end", func(c *Config) { c.RangeEnd = netip.Addr{} }},
		{"is not within", func(c *Config) { c.RangeEnd = ip("10.0.1.5") }},
		{"ends before it starts", func(c *Config) { c.RangeEnd = ip("10.0.0.5") }},
		{"router", func(c *Config) { c.Router = ip("192.168.0.1") }},
		{"not an IPv4 address", func(c *Config) { c.DNS = []netip.Addr{ip("::1")} }},
		{"shorter than", func(c *Config) { c.LeaseTime = time.Second }},
		{"outside 576-65535", func(c *Config) { c.MTU = 100 }},
		{"longer than 253", func(c *Config) { c.Domain = strings.Repeat("x", 254) }},
	}
	for _, tt := range tests {
		c := config()
		tt.change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Validate = %v, want an error with %q", err, tt.want)
		}
	}
	if _, err := NewResponder(Config{}, declared()); err == nil {
		t.Error("NewResponder with an empty configuration = nil, want an error")
	}
	if _, err := NewResponder(config(), nil); err == nil {
		t.Error("NewResponder without a policy = nil, want an error")
	}
}

// TestOffer checks the event and the options for each kind of client.
func TestOffer(t *testing.T) {
	none := []uint8{43, 60, 66, 67, 175}
	tests := []struct {
		name    string
		mac     net.HardwareAddr
		mod     dhcpv4.Modifier
		event   Event
		options map[uint8]string
		absent  []uint8
	}{
		{
			"x86-64 firmware", known, firmware(7),
			Event{Stage: Firmware, Arch: 7, Known: true, BootFile: "ipxe.efi"},
			map[uint8]string{
				43: "\x06\x01\x08\xff", 54: "\x0a\x00\x00\x01", 60: "PXEClient", 66: "10.0.0.1\x00", 67: "ipxe.efi\x00",
				97: "\x00\x78\x56\x34\x12\x34\x12\x78\x56\x01\x02\x03\x04\x05\x06\x07\x08",
				1:  "\xff\xff\xff\x00", 3: "\x0a\x00\x00\x01",
			},
			[]uint8{26, 175},
		},
		{
			"x86-64 firmware with architecture 9", known, firmware(9),
			Event{Stage: Firmware, Arch: 9, Known: true, BootFile: "ipxe.efi"},
			map[uint8]string{67: "ipxe.efi\x00"}, []uint8{26, 175},
		},
		{
			"arm64 firmware", known, firmware(0x0b),
			Event{Stage: Firmware, Arch: 0x0b, Known: true, BootFile: "ipxe-arm64.efi"},
			map[uint8]string{60: "PXEClient", 67: "ipxe-arm64.efi\x00"}, []uint8{26, 175},
		},
		{
			"BIOS", known, firmware(0),
			Event{Stage: Firmware, Arch: 0, Known: true, Reason: ReasonArchitecture}, nil, none,
		},
		{
			"architecture only in the vendor class", known,
			dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00011:UNDI:003000")),
			Event{Stage: Firmware, Arch: 0x0b, Known: true, BootFile: "ipxe-arm64.efi"},
			map[uint8]string{67: "ipxe-arm64.efi\x00"}, nil,
		},
		{
			"no architecture at all", known, dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient")),
			Event{Stage: Firmware, Arch: archAbsent, Known: true, Reason: ReasonArchitecture}, nil, none,
		},
		{
			"HTTP boot", known, func(m *dhcpv4.DHCPv4) {
				m.UpdateOption(dhcpv4.OptClassIdentifier("HTTPClient:Arch:00016:UNDI:003001"))
				opt(93, 0, 0x10)(m)
			},
			Event{Stage: Firmware, Arch: 0x10, Known: true, BootFile: "http://10.0.0.1/boot/" + known.String()},
			map[uint8]string{60: "HTTPClient", 67: "http://10.0.0.1/boot/" + known.String()}, []uint8{43, 66, 175},
		},
		{
			"iPXE", known, ipxe,
			Event{Stage: IPXE, Arch: 7, Known: true, BootFile: "http://10.0.0.1/boot/" + known.String()},
			map[uint8]string{
				6: "\x0a\x00\x00\x01", 12: "target-1", 15: "lab.test",
				67: "http://10.0.0.1/boot/" + known.String(), 175: "\xb0\x01\x01",
			},
			[]uint8{26, 43, 60, 66},
		},
		{
			"iPXE with RFC 3004 user class", known, func(m *dhcpv4.DHCPv4) {
				firmware(7)(m)
				opt(77, 4, 'i', 'P', 'X', 'E')(m)
			},
			Event{Stage: IPXE, Arch: 7, Known: true, BootFile: "http://10.0.0.1/boot/" + known.String()},
			map[uint8]string{175: "\xb0\x01\x01"}, []uint8{43, 60},
		},
		{
			"unknown firmware", unknown, firmware(7),
			Event{Stage: Firmware, Arch: 7, Reason: ReasonUnknownHost}, nil, none,
		},
		{
			"unknown iPXE", unknown, ipxe,
			Event{Stage: IPXE, Arch: 7, Reason: ReasonUnknownHost}, nil, none,
		},
		{
			"operating system without a parameter request list", known, nil,
			Event{Stage: OS, Arch: archAbsent, Known: true},
			map[uint8]string{26: "\x23\x28", 12: "target-1", 28: "\x0a\x00\x00\xff", 42: "\x0a\x00\x00\x01"}, none,
		},
		{
			"operating system with a parameter request list", known, opt(55, 1, 3, 26),
			Event{Stage: OS, Arch: archAbsent, Known: true},
			map[uint8]string{26: "\x23\x28", 3: "\x0a\x00\x00\x01", 1: "\xff\xff\xff\x00"}, append([]uint8{6, 12, 15, 28, 42}, none...),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := responder(t)
			req := message(t, dhcpv4.MessageTypeDiscover, tt.mac, opt(61, 1, 2, 3))
			if tt.mod != nil {
				tt.mod(req)
			}
			reply, ev := r.Reply(req, t0)
			want := tt.event
			want.Kind = Offer
			want.MAC = tt.mac
			want.At = t0
			want.Address = addr(reply.YourIPAddr)
			if diff := cmp.Diff(want, ev, cmpopts.EquateComparable(netip.Addr{}), cmpopts.IgnoreUnexported(Event{})); diff != "" {
				t.Errorf("event (-want +got):\n%s", diff)
			}
			for code, value := range tt.options {
				if got := string(reply.Options[code]); got != value {
					t.Errorf("option %d = %q, want %q", code, got, value)
				}
			}
			for _, code := range tt.absent {
				if got, ok := reply.Options[code]; ok {
					t.Errorf("option %d = %q, want none", code, got)
				}
			}
			if got := string(reply.Options[61]); got != "\x01\x02\x03" {
				t.Errorf("client identifier = %q, want it echoed (RFC 6842)", got)
			}
			if got := addr(reply.ServerIPAddr); got != ip("10.0.0.1") {
				t.Errorf("next-server = %s, want 10.0.0.1", got)
			}
			if reply.BootFileName != ev.BootFile {
				t.Errorf("boot file field = %q, want %q as in the event", reply.BootFileName, ev.BootFile)
			}
			if tt.mac.String() == known.String() && ev.Address != ip("10.0.0.105") {
				t.Errorf("address = %s, want the reservation 10.0.0.105", ev.Address)
			}
			if reason := tt.event.Reason; reason != "" && r.Counters()[reason] != 1 {
				t.Errorf("counters = %v, want 1 of %q", r.Counters(), reason)
			}
		})
	}
}

func TestMachineUUID(t *testing.T) {
	var got Client
	h := hosts{known.String(): {BootFile: func(c Client) string { got = c; return "" }}}
	r, err := NewResponder(config(), h)
	if err != nil {
		t.Fatal(err)
	}
	_, ev := r.Reply(message(t, dhcpv4.MessageTypeDiscover, known, firmware(7)), t0)
	if got.UUID != "12345678-1234-5678-0102-030405060708" {
		t.Errorf("UUID = %q, want 12345678-1234-5678-0102-030405060708", got.UUID)
	}
	// A declared machine without a reservation gets an address from the pool.
	if ev.Reason != ReasonNothingToBoot {
		t.Errorf("got reason %q, want %q", ev.Reason, ReasonNothingToBoot)
	}
	if ev.Address.Less(ip("10.0.0.100")) {
		t.Errorf("got address %s, want one of the pool", ev.Address)
	}
}

// checkLease asserts that a reply leases an address with the times of config.
func checkLease(t *testing.T, reply *dhcpv4.DHCPv4, want netip.Addr) {
	t.Helper()
	if got := addr(reply.YourIPAddr); got != want {
		t.Errorf("got address %s, want %s", got, want)
	}
	for name, c := range map[string]struct{ got, want time.Duration }{
		"lease": {reply.IPAddressLeaseTime(0), time.Hour},
		"T1":    {reply.IPAddressRenewalTime(0), 30 * time.Minute},
		"T2":    {reply.IPAddressRebindingTime(0), 52*time.Minute + 30*time.Second},
	} {
		if c.got != c.want {
			t.Errorf("got %s %s, want %s", name, c.got, c.want)
		}
	}
}

// TestRequest covers the uses of DHCPREQUEST in RFC 2131 section 4.3.2.
func TestRequest(t *testing.T) {
	tests := []struct {
		name string
		mac  net.HardwareAddr
		mods []dhcpv4.Modifier
		want Kind
		addr string
	}{
		{"selecting the reservation", known, []dhcpv4.Modifier{serverID("10.0.0.1"), requested("10.0.0.105")}, Ack, "10.0.0.105"},
		{"selecting another's reservation", unknown, []dhcpv4.Modifier{serverID("10.0.0.1"), requested("10.0.0.105")}, Nak, ""},
		{"selecting an address other than the reservation", known, []dhcpv4.Modifier{serverID("10.0.0.1"), requested("10.0.0.101")}, Nak, ""},
		{"selecting another server", known, []dhcpv4.Modifier{serverID("10.0.0.9"), requested("10.0.0.105")}, Ignored, ""},
		{"rebooting without a record", unknown, []dhcpv4.Modifier{requested("10.0.0.101")}, Ack, "10.0.0.101"},
		{"rebooting from another network", unknown, []dhcpv4.Modifier{requested("192.168.1.7")}, Nak, ""},
		{"rebooting with an address bound to another machine", unknown, []dhcpv4.Modifier{requested("10.0.0.103")}, Nak, ""},
		{"renewing without a record", unknown, []dhcpv4.Modifier{clientIP("10.0.0.101")}, Ack, "10.0.0.101"},
		{"renewing the server's address", unknown, []dhcpv4.Modifier{clientIP("10.0.0.1")}, Nak, ""},
		{"renewing the reservation", known, []dhcpv4.Modifier{clientIP("10.0.0.105")}, Ack, "10.0.0.105"},
		{"renewing an address outside the pool", unknown, []dhcpv4.Modifier{clientIP("10.0.0.50")}, Nak, ""},
		{"renewing the network's address", unknown, []dhcpv4.Modifier{clientIP("10.0.0.0")}, Nak, ""},
		{"no address requested", unknown, nil, Nak, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := responder(t)
			bindAt(t, r, other, "10.0.0.103")
			reply, ev := r.Reply(message(t, dhcpv4.MessageTypeRequest, tt.mac, tt.mods...), t0)
			if ev.Kind != tt.want {
				t.Fatalf("got event %+v, want kind %s", ev, tt.want)
			}
			switch tt.want {
			case Ack:
				checkLease(t, reply, ip(tt.addr))
			case Nak:
				if kind := reply.MessageType(); kind != dhcpv4.MessageTypeNak {
					t.Errorf("got message type %s, want NAK", kind)
				}
				if your := addr(reply.YourIPAddr); isSet(your) {
					t.Errorf("got a NAK with address %s, want none", your)
				}
				if server := addr(reply.ServerIPAddr); isSet(server) {
					t.Errorf("got a NAK with next server %s, want none", server)
				}
			case Ignored:
				if reply != nil {
					t.Errorf("got reply %s, want none", reply.Summary())
				}
			}
		})
	}
}

// bindAt binds a specific address, as a client does after a restart.
func bindAt(t testing.TB, r *Responder, mac net.HardwareAddr, a string) {
	t.Helper()
	_, ev := r.Reply(message(t, dhcpv4.MessageTypeRequest, mac, requested(a)), t0)
	if ev.Kind != Ack {
		t.Fatalf("binding %s: got event %+v, want an Ack", a, ev)
	}
}

func TestReplyIgnores(t *testing.T) {
	tests := []struct {
		name string
		mod  dhcpv4.Modifier
		want Reason
	}{
		{"BOOTREPLY", func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootReply }, ReasonNotRequest},
		{"InfiniBand", func(m *dhcpv4.DHCPv4) { m.HWType = 32 }, ReasonNotRequest},
		{"short MAC", func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = m.ClientHWAddr[:4] }, ReasonNotRequest},
		{"group MAC", func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = broadcastMAC }, ReasonNotRequest},
		{"plain BOOTP", func(m *dhcpv4.DHCPv4) { delete(m.Options, 53) }, ReasonNoMessageType},
		{"foreign relay", func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr = net.IPv4(192, 168, 1, 1) }, ReasonForeignRelay},
		{"inform from outside", func(m *dhcpv4.DHCPv4) {
			m.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeInform))
			m.ClientIPAddr = net.IPv4(192, 168, 1, 1)
		}, ReasonOutside},
		{"release of another's address", func(m *dhcpv4.DHCPv4) {
			m.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeRelease))
			m.ClientIPAddr = net.IPv4(10, 0, 0, 103)
		}, ReasonNotYours},
		{"decline of another's address", func(m *dhcpv4.DHCPv4) {
			m.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeDecline))
			requested("10.0.0.103")(m)
		}, ReasonNotYours},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := responder(t)
			bindAt(t, r, other, "10.0.0.103")
			reply, ev := r.Reply(message(t, dhcpv4.MessageTypeDiscover, unknown, tt.mod), t0)
			if reply != nil {
				t.Errorf("got reply %s, want none", reply.Summary())
			}
			if ev.Kind != Ignored {
				t.Errorf("got event %s, want %s", ev.Kind, Ignored)
			}
			if ev.Reason != tt.want {
				t.Errorf("got reason %q, want %q", ev.Reason, tt.want)
			}
			if n := r.Counters()[tt.want]; n != 1 {
				t.Errorf("got reason %q counted %d times, want 1", tt.want, n)
			}
			if l := r.Leases(t0); len(l) != 1 || l[0].State != Bound {
				t.Errorf("got leases %v, want only the bound one of another machine", l)
			}
		})
	}
}

func TestLeaseLifecycle(t *testing.T) {
	r := responder(t)
	states := func(at time.Time) string {
		var s []string
		for _, l := range r.Leases(at) {
			s = append(s, fmt.Sprint(l.MAC, " ", l.Address, " ", l.State))
		}
		return strings.Join(s, "; ")
	}
	a := bind(t, r, unknown, t0)
	entry := fmt.Sprint(unknown, " ", a)
	if got := states(t0); got != entry+" Bound" {
		t.Errorf("after ACK: got %s, want %s Bound", got, entry)
	}
	// The lease stays bound while the rebooted firmware discovers again.
	_, ev := r.Reply(message(t, dhcpv4.MessageTypeDiscover, unknown, firmware(7)), t0.Add(time.Minute))
	if ev.Address != a {
		t.Errorf("after another DISCOVER: got an offer of %s, want %s", ev.Address, a)
	}
	if got := states(t0.Add(30 * time.Minute)); got != entry+" Bound" {
		t.Errorf("after another DISCOVER: got %s, want %s Bound", got, entry)
	}
	if got := states(t0.Add(2 * time.Hour)); got != entry+" Expired" {
		t.Errorf("after the lease time: got %s, want %s Expired", got, entry)
	}
	// An expired and a released lease both return the same address.
	if again := bind(t, r, unknown, t0.Add(3*time.Hour)); again != a {
		t.Errorf("after expiry: got %s, want the former address %s", again, a)
	}
	_, ev = r.Reply(message(t, dhcpv4.MessageTypeRelease, unknown, clientIP(a.String())), t0.Add(3*time.Hour))
	if ev.Kind != Release {
		t.Errorf("got event %+v, want a Release", ev)
	}
	if got := states(t0.Add(3 * time.Hour)); got != entry+" Released" {
		t.Errorf("after release: got %s, want %s Released", got, entry)
	}
	if again := bind(t, r, unknown, t0.Add(4*time.Hour)); again != a {
		t.Errorf("after release: got %s, want the former address %s", again, a)
	}
	// After a decline the machine gets another address, and the declined one is
	// not leased for a while.
	_, ev = r.Reply(message(t, dhcpv4.MessageTypeDecline, unknown, requested(a.String()), serverID("10.0.0.1")), t0.Add(4*time.Hour))
	if ev.Kind != Decline {
		t.Errorf("got event %+v, want a Decline", ev)
	}
	if next := bind(t, r, unknown, t0.Add(4*time.Hour)); next == a {
		t.Errorf("got the declined address %s again, want another one", next)
	}
	_, ev = r.Reply(message(t, dhcpv4.MessageTypeRequest, other, requested(a.String())), t0.Add(4*time.Hour))
	if ev.Kind != Nak {
		t.Errorf("request of a declined address: got event %+v, want a Nak", ev)
	}
}

func TestInform(t *testing.T) {
	reply, ev := responder(t).Reply(message(t, dhcpv4.MessageTypeInform, unknown, clientIP("10.0.0.50")), t0)
	if ev.Kind != Inform {
		t.Errorf("got event %+v, want an Inform", ev)
	}
	if kind := reply.MessageType(); kind != dhcpv4.MessageTypeAck {
		t.Errorf("got message type %s, want ACK", kind)
	}
	if your := addr(reply.YourIPAddr); isSet(your) {
		t.Errorf("got address %s, want none", your)
	}
	if lease := reply.IPAddressLeaseTime(0); lease != 0 {
		t.Errorf("got a lease of %s, want none", lease)
	}
	if domain := reply.DomainName(); domain != "lab.test" {
		t.Errorf("got domain %q, want lab.test", domain)
	}
}

func TestReservationOverridesLease(t *testing.T) {
	h := hosts{}
	r, err := NewResponder(config(), h)
	if err != nil {
		t.Fatal(err)
	}
	a := bind(t, r, unknown, t0)
	// Declared later, with an address that another machine has leased.
	h[known.String()] = Host{Address: a}
	if got := bind(t, r, known, t0); got != a {
		t.Errorf("got %s, want the reservation %s", got, a)
	}
	_, ev := r.Reply(message(t, dhcpv4.MessageTypeRequest, unknown, clientIP(a.String())), t0)
	if ev.Kind != Nak {
		t.Errorf("renewal of an address reserved for another machine: got event %+v, want a Nak", ev)
	}
	if got := bind(t, r, unknown, t0); got == a {
		t.Errorf("got %s, which is reserved for another machine, want another address", got)
	}
	// A changed reservation changes the machine's address.
	h[known.String()] = Host{Address: ip("10.0.0.20")}
	_, ev = r.Reply(message(t, dhcpv4.MessageTypeRequest, known, clientIP(a.String())), t0)
	if ev.Kind != Nak {
		t.Errorf("renewal of a former reservation: got event %+v, want a Nak", ev)
	}
	if got := bind(t, r, known, t0); got != ip("10.0.0.20") {
		t.Errorf("got %s, want the new reservation 10.0.0.20", got)
	}
}

// TestPoolStarvation floods the pool with requests of thousands of machines.
func TestPoolStarvation(t *testing.T) {
	r := responder(t)
	flood := func(n int, kind dhcpv4.MessageType, at time.Time) {
		for i := range n {
			mac := net.HardwareAddr{2, 0, 0, 1, byte(i >> 8), byte(i)}
			reply, ev := r.Reply(message(t, dhcpv4.MessageTypeDiscover, mac), at)
			if reply != nil && ev.Address == ip("10.0.0.105") {
				t.Fatalf("%s: got an offer of %s, want it kept for its machine", mac, ev.Address)
			}
			if reply != nil && kind == dhcpv4.MessageTypeRequest {
				r.Reply(message(t, kind, mac, requested(ev.Address.String()), serverID("10.0.0.1")), at)
			}
		}
	}
	// An undeclared machine can still select its offer during a flood.
	_, ev := r.Reply(message(t, dhcpv4.MessageTypeDiscover, unknown), t0)
	flood(5000, dhcpv4.MessageTypeDiscover, t0.Add(time.Second))
	selected := message(t, dhcpv4.MessageTypeRequest, unknown, requested(ev.Address.String()), serverID("10.0.0.1"))
	_, ev = r.Reply(selected, t0.Add(4*time.Second))
	if ev.Kind != Ack {
		t.Errorf("selecting an offer during a flood: got event %+v, want an Ack", ev)
	}

	flood(5000, dhcpv4.MessageTypeRequest, t0.Add(5*time.Second))
	if got := bind(t, r, known, t0.Add(6*time.Second)); got != ip("10.0.0.105") {
		t.Errorf("reserved machine got %s, want 10.0.0.105", got)
	}
	if n := len(r.Leases(t0)); n != 10 {
		t.Errorf("got %d leases, want 10: 9 of the pool and a reservation", n)
	}
	_, ev = r.Reply(message(t, dhcpv4.MessageTypeDiscover, other), t0.Add(7*time.Second))
	if ev.Kind != Discover {
		t.Errorf("full pool: got event %s, want %s", ev.Kind, Discover)
	}
	if ev.Reason != ReasonNoAddress {
		t.Errorf("full pool: got reason %q, want %q", ev.Reason, ReasonNoAddress)
	}
	// Expired leases are reused.
	bind(t, r, other, t0.Add(2*time.Hour))
}

func TestDeclinedPoolRecovers(t *testing.T) {
	r := responder(t)
	for i := range 100 {
		mac := net.HardwareAddr{2, 0, 0, 1, 0, byte(i)}
		a := bind(t, r, mac, t0)
		r.Reply(message(t, dhcpv4.MessageTypeDecline, mac, requested(a.String())), t0.Add(time.Duration(i)*time.Second))
	}
	bind(t, r, unknown, t0.Add(100*time.Second))
	if n := len(r.table.declined); n > 10 {
		t.Errorf("got %d declined addresses, want at most 10, the size of the pool", n)
	}
}

func TestLargePoolGivesDistinctAddresses(t *testing.T) {
	r := responder(t, func(c *Config) {
		c.Prefix = netip.MustParsePrefix("10.0.0.0/8")
		c.RangeStart = ip("10.1.0.0")
		c.RangeEnd = ip("10.255.255.254")
	})
	seen := map[netip.Addr]bool{}
	for i := range 2000 {
		seen[bind(t, r, net.HardwareAddr{2, 0, 0, 1, byte(i >> 8), byte(i)}, t0)] = true
	}
	if len(seen) != 2000 {
		t.Errorf("got %d distinct addresses, want 2000", len(seen))
	}
}

func TestSetConfigMovesNetwork(t *testing.T) {
	r := responder(t)
	a := bind(t, r, unknown, t0)
	c := config()
	c.Prefix = netip.MustParsePrefix("10.9.0.0/24")
	c.ServerAddr = ip("10.9.0.1")
	c.Router = netip.Addr{}
	c.RangeStart = ip("10.9.0.10")
	c.RangeEnd = ip("10.9.0.20")
	if err := r.SetConfig(c); err != nil {
		t.Fatal(err)
	}
	if l := r.Leases(t0); len(l) != 0 {
		t.Errorf("got leases %v of the old network, want none", l)
	}
	_, ev := r.Reply(message(t, dhcpv4.MessageTypeRequest, unknown, clientIP(a.String())), t0)
	if ev.Kind != Nak {
		t.Errorf("renewal in the old network: got event %+v, want a Nak", ev)
	}
	reply, _ := r.Reply(message(t, dhcpv4.MessageTypeDiscover, unknown), t0)
	if your := addr(reply.YourIPAddr); !c.Prefix.Contains(your) {
		t.Errorf("got an offer of %s, want an address in %s", your, c.Prefix)
	}
	if reply.Options.Has(dhcpv4.OptionRouter) {
		t.Errorf("got router %v, want none", reply.Router())
	}
	// The known machine's reservation does not fit the new network.
	reply, _ = r.Reply(message(t, dhcpv4.MessageTypeDiscover, known), t0)
	if !c.Prefix.Contains(addr(reply.YourIPAddr)) {
		t.Errorf("got offer %s, want an address in %s", reply.Summary(), c.Prefix)
	}
	if err := r.SetConfig(Config{}); err == nil {
		t.Error("SetConfig with an empty configuration = nil, want an error")
	}
}

func TestRestore(t *testing.T) {
	r := responder(t)
	a, b := bind(t, r, unknown, t0), bind(t, r, known, t0)
	r.Reply(message(t, dhcpv4.MessageTypeDiscover, other), t0) // an offer only
	saved, err := json.Marshal(r.Leases(t0))
	if err != nil {
		t.Fatal(err)
	}
	var leases []Lease
	if err := json.Unmarshal(saved, &leases); err != nil {
		t.Fatal(err)
	}
	leases = append(leases,
		Lease{MAC: other, Address: ip("10.0.0.105"), State: Bound, Expires: t0.Add(time.Hour)}, // reserved
		Lease{MAC: other, Address: ip("192.168.0.1"), State: Bound},                            // outside
		Lease{MAC: net.HardwareAddr{1}, Address: ip("10.0.0.106"), State: Bound},
		Lease{MAC: other, State: Bound},
	)
	again := responder(t)
	again.Restore(leases)
	var got []string
	for _, l := range again.Leases(t0) {
		got = append(got, fmt.Sprint(l.MAC, l.Address, l.State))
	}
	want := []string{fmt.Sprint(unknown, a, Bound), fmt.Sprint(known, b, Bound)}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("restored leases (-want +got):\n%s", diff)
	}
	if err := json.Unmarshal([]byte(`[{"mac":"nonsense"}]`), &leases); err == nil {
		t.Error("unmarshaling an invalid MAC = nil, want an error")
	}
}

func TestHostname(t *testing.T) {
	for name, want := range map[string]string{
		"target-1": "target-1", "a.b_c": "a.b_c", "nul\x00": "nul", "\x1b[2J": "", "a b": "", strings.Repeat("x", 254): "", "": "",
	} {
		m := message(t, dhcpv4.MessageTypeDiscover, known, opt(12, []byte(name)...))
		if got := hostname(m); got != want {
			t.Errorf("hostname(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestEncode(t *testing.T) {
	r := responder(t)
	req := message(t, dhcpv4.MessageTypeDiscover, known, firmware(7), opt(82, 1, 2, 'x', 'y'))
	reply, _ := r.Reply(req, t0)
	b := encode(reply, messageLimit(req))
	if len(b) < minMessage {
		t.Errorf("got %d bytes, want at least %d", len(b), minMessage)
	}
	var order []uint8
	for at := fixedPart; b[at] != 255; at += 2 + int(b[at+1]) {
		order = append(order, b[at])
	}
	if diff := cmp.Diff([]uint8{53, 54, 51}, order[:3]); diff != "" {
		t.Errorf("first options (-want +got):\n%s", diff)
	}
	if last := order[len(order)-1]; last != 82 {
		t.Errorf("last option = %d, want 82", last)
	}
	back, err := dhcpv4.FromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(reply.Options, back.Options); diff != "" {
		t.Errorf("options after decoding (-want +got):\n%s", diff)
	}
	if back.BootFileName != "ipxe.efi" {
		t.Errorf("after decoding: got boot file %q, want ipxe.efi", back.BootFileName)
	}
	if back.ServerHostName != "10.0.0.1" {
		t.Errorf("after decoding: got server name %q, want 10.0.0.1", back.ServerHostName)
	}
	if back.TransactionID != req.TransactionID {
		t.Errorf("after decoding: got transaction %s, want %s", back.TransactionID, req.TransactionID)
	}
}

func TestEncodeRespectsMessageLimit(t *testing.T) {
	h := hosts{known.String(): {
		Address: ip("10.0.0.105"), Hostname: strings.Repeat("h", 63),
		BootFile: func(Client) string { return "http://10.0.0.1/" + strings.Repeat("b", 200) },
	}}
	c := config()
	c.Domain = strings.Repeat("d", 200)
	for range 20 {
		c.DNS = append(c.DNS, ip("10.0.0.1"))
	}
	r, err := NewResponder(c, h)
	if err != nil {
		t.Fatal(err)
	}
	req := message(t, dhcpv4.MessageTypeDiscover, known, ipxe)
	delete(req.Options, 57)
	reply, _ := r.Reply(req, t0)
	b := encode(reply, messageLimit(req))
	if len(b) > defaultMaxMessage-ipUDPHeaders {
		t.Errorf("got %d bytes, want at most %d", len(b), defaultMaxMessage-ipUDPHeaders)
	}
	back, err := dhcpv4.FromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []uint8{1, 3, 51, 53, 54, 67, 175} {
		if _, ok := back.Options[code]; !ok {
			t.Errorf("small message: got no option %d, want it", code)
		}
	}
	// A client with a larger limit gets all options.
	opt(57, 0x05, 0xdc)(req)
	back, err = dhcpv4.FromBytes(encode(reply, messageLimit(req)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(reply.Options, back.Options); diff != "" {
		t.Errorf("options (-want +got):\n%s", diff)
	}
}

func TestDestination(t *testing.T) {
	tests := []struct {
		name string
		kind dhcpv4.MessageType
		mods []dhcpv4.Modifier
		mac  net.HardwareAddr
		to   string
	}{
		{"no address yet", dhcpv4.MessageTypeDiscover, nil, known, "10.0.0.105:68"},
		{"wants broadcast", dhcpv4.MessageTypeDiscover, []dhcpv4.Modifier{dhcpv4.WithBroadcast(true)}, known, "255.255.255.255:68"},
		{"renewing", dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{clientIP("10.0.0.105")}, known, "10.0.0.105:68"},
		{"refused", dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{clientIP("10.0.0.106")}, broadcastMAC, "255.255.255.255:68"},
		{"relayed", dhcpv4.MessageTypeDiscover, []dhcpv4.Modifier{dhcpv4.WithRelay(net.IPv4(10, 0, 0, 7))}, nil, "10.0.0.7:67"},
		{"informed", dhcpv4.MessageTypeInform, []dhcpv4.Modifier{clientIP("10.0.0.33")}, known, "10.0.0.33:68"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := message(t, tt.kind, known, tt.mods...)
			reply, _ := responder(t).Reply(req, t0)
			got := destination(req, reply)
			if got.Addr.String() != tt.to {
				t.Errorf("got destination %s, want %s", got.Addr, tt.to)
			}
			if got.MAC.String() != tt.mac.String() {
				t.Errorf("got destination MAC %s, want %s", got.MAC, tt.mac)
			}
			if got.Source != ip("10.0.0.1") {
				t.Errorf("got source %s, want 10.0.0.1", got.Source)
			}
		})
	}
}

func TestUDPFrame(t *testing.T) {
	for _, payload := range []string{"", "x", "xy", strings.Repeat("odd", 101)} {
		b := udpFrame(known, unknown, netip.MustParseAddrPort("10.0.0.1:67"), netip.MustParseAddrPort("10.0.0.5:68"), []byte(payload))
		ipHead, udp := b[14:34], b[34:]
		if got := checksum(0, ipHead); got != 0xffff {
			t.Errorf("IP checksum sum = %#x, want 0xffff", got)
		}
		sum := checksum(checksum(0, ipHead[12:]), []byte{0, 17, udp[4], udp[5]})
		if got := checksum(sum, udp); got != 0xffff {
			t.Errorf("UDP checksum sum = %#x, want 0xffff", got)
		}
		if to := net.HardwareAddr(b[:6]); !bytes.Equal(to, unknown) {
			t.Errorf("got a frame to %s, want %s", to, unknown)
		}
		if from := net.HardwareAddr(b[6:12]); !bytes.Equal(from, known) {
			t.Errorf("got a frame from %s, want %s", from, known)
		}
		if got := string(b[42:]); got != payload {
			t.Errorf("got payload %q, want %q", got, payload)
		}
	}
}

func TestARPFrom(t *testing.T) {
	probe := arpProbe(known, ip("10.0.0.7"))
	if got := arpFrom(probe); got.IsValid() && !got.IsUnspecified() {
		t.Errorf("arpFrom(probe) = %s, want no address", got)
	}
	reply := slices.Clone(probe)
	copy(reply[28:32], ip("10.0.0.7").AsSlice())
	if got := arpFrom(reply); got != ip("10.0.0.7") {
		t.Errorf("arpFrom(reply) = %s, want 10.0.0.7", got)
	}
	if got := arpFrom(reply[:30]); got.IsValid() {
		t.Errorf("arpFrom of a short frame = %s, want no address", got)
	}
	if got := arpFrom(make([]byte, 60)); got.IsValid() {
		t.Errorf("arpFrom of a frame that is not ARP = %s, want no address", got)
	}
}

// FuzzReply sends arbitrary messages to one responder.
func FuzzReply(f *testing.F) {
	for _, m := range []*dhcpv4.DHCPv4{
		message(f, dhcpv4.MessageTypeDiscover, known, firmware(7)),
		message(f, dhcpv4.MessageTypeDiscover, unknown, ipxe, opt(82, 1, 1, 'x')),
		message(f, dhcpv4.MessageTypeRequest, known, requested("10.0.0.105"), serverID("10.0.0.1")),
		message(f, dhcpv4.MessageTypeRequest, unknown, clientIP("10.0.0.101"), opt(12, 'h')),
		message(f, dhcpv4.MessageTypeInform, unknown, clientIP("10.0.0.50")),
		message(f, dhcpv4.MessageTypeDecline, unknown, requested("10.0.0.100")),
		message(f, dhcpv4.MessageTypeRelease, unknown, clientIP("10.0.0.100")),
		message(f, dhcpv4.MessageTypeDiscover, unknown, dhcpv4.WithRelay(net.IPv4(10, 0, 0, 9)), opt(61, 255, 1)),
	} {
		f.Add(m.ToBytes())
	}
	cfg := config()
	r := responder(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		req, err := parse(b)
		if err != nil {
			return
		}
		reply, ev := r.Reply(req, t0)
		if n := len(r.Leases(t0)); n > 11 {
			t.Fatalf("got %d leases, want at most 11: a pool of 10 and one reservation", n)
		}
		if reply == nil {
			return
		}
		your := addr(reply.YourIPAddr)
		if isSet(your) && (!hostAddr(cfg.Prefix, your) || your == cfg.ServerAddr) {
			t.Errorf("got address %s, want one that clients may use", your)
		}
		if your == ip("10.0.0.105") && req.ClientHWAddr.String() != known.String() {
			t.Errorf("%s: got the reservation of %s, want another address", req.ClientHWAddr, known)
		}
		if ev.BootFile != "" && !ev.Known {
			t.Errorf("undeclared machine %s: got boot file %q, want none", req.ClientHWAddr, ev.BootFile)
		}
		out := encode(reply, messageLimit(req))
		if len(out) > 1500-ipUDPHeaders {
			t.Errorf("got a reply of %d bytes, want at most %d", len(out), 1500-ipUDPHeaders)
		}
		if _, err := dhcpv4.FromBytes(out); err != nil {
			t.Errorf("parsing the reply: got error %v, want none", err)
		}
		destination(req, reply)
	})
}
