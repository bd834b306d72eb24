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

// declared knows one machine, whose reservation lies in the pool's range.
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

// firmware is how EDK2 marks its requests.
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

// bind goes through the whole exchange.
func bind(t testing.TB, r *Responder, mac net.HardwareAddr, at time.Time) netip.Addr {
	t.Helper()
	offer, ev := r.Reply(message(t, dhcpv4.MessageTypeDiscover, mac), at)
	if ev.Kind != Offer {
		t.Fatalf("no offer for %s: %+v", mac, ev)
	}
	a := addr(offer.YourIPAddr)
	_, ev = r.Reply(message(t, dhcpv4.MessageTypeRequest, mac, requested(a.String()), serverID("10.0.0.1")), at)
	if ev.Kind != Ack || ev.Address != a {
		t.Fatalf("no ack for %s: %+v", mac, ev)
	}
	return a
}

func TestValidate(t *testing.T) {
	if err := config().Validate(); err != nil {
		t.Errorf("valid configuration: %v", err)
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
		{"does not lie within", func(c *Config) { c.RangeEnd = ip("10.0.1.5") }},
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
		t.Error("NewResponder took an empty configuration")
	}
	if _, err := NewResponder(config(), nil); err == nil {
		t.Error("NewResponder took no policy")
	}
}

// TestBoot looks at what each kind of client is told to boot.
func TestBoot(t *testing.T) {
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
				43: "\x06\x01\x08\xff", 54: "\x0a\x00\x00\x01", 60: "PXEClient", 66: "10.0.0.1", 67: "ipxe.efi",
				97: "\x00\x78\x56\x34\x12\x34\x12\x78\x56\x01\x02\x03\x04\x05\x06\x07\x08",
				1:  "\xff\xff\xff\x00", 3: "\x0a\x00\x00\x01",
			},
			[]uint8{26, 175},
		},
		{
			"x86-64 firmware by the other number", known, firmware(9),
			Event{Stage: Firmware, Arch: 9, Known: true, BootFile: "ipxe.efi"},
			map[uint8]string{67: "ipxe.efi"}, []uint8{26, 175},
		},
		{
			"arm64 firmware", known, firmware(0x0b),
			Event{Stage: Firmware, Arch: 0x0b, Known: true, BootFile: "ipxe-arm64.efi"},
			map[uint8]string{60: "PXEClient", 67: "ipxe-arm64.efi"}, []uint8{26, 175},
		},
		{
			"BIOS", known, firmware(0),
			Event{Stage: Firmware, Arch: 0, Known: true, Reason: ReasonArchitecture}, nil, none,
		},
		{
			"architecture only in the vendor class", known,
			dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00011:UNDI:003000")),
			Event{Stage: Firmware, Arch: 0x0b, Known: true, BootFile: "ipxe-arm64.efi"},
			map[uint8]string{67: "ipxe-arm64.efi"}, nil,
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
			map[uint8]string{67: "http://10.0.0.1/boot/" + known.String(), 175: "\xb0\x01\x01", 6: "\x0a\x00\x00\x01", 12: "target-1", 15: "lab.test"},
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
			"operating system that asks for nothing", known, nil,
			Event{Stage: OS, Arch: archAbsent, Known: true},
			map[uint8]string{26: "\x23\x28", 12: "target-1", 28: "\x0a\x00\x00\xff", 42: "\x0a\x00\x00\x01"}, none,
		},
		{
			"operating system that asks for some", known, opt(55, 1, 3, 26),
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
			want.Kind, want.MAC, want.At, want.Address = Offer, tt.mac, t0, addr(reply.YourIPAddr)
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
				t.Errorf("client identifier %q was not echoed (RFC 6842)", got)
			}
			if got := addr(reply.ServerIPAddr); got != ip("10.0.0.1") {
				t.Errorf("next-server %s", got)
			}
			if reply.BootFileName != ev.BootFile {
				t.Errorf("boot file field %q, event %q", reply.BootFileName, ev.BootFile)
			}
			if tt.mac.String() == known.String() && ev.Address != ip("10.0.0.105") {
				t.Errorf("address %s is not the reservation", ev.Address)
			}
			if why := tt.event.Reason; why != "" && r.Counters()[why] != 1 {
				t.Errorf("counters %v", r.Counters())
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
		t.Errorf("UUID %q", got.UUID)
	}
	// No reservation: a known machine gets an address of the pool.
	if ev.Reason != ReasonNothingToBoot || ev.Address.Less(ip("10.0.0.100")) {
		t.Errorf("event %+v", ev)
	}
}

// TestRequest is RFC 2131's table of uses of DHCPREQUEST.
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
		{"selecting what is not the reservation", known, []dhcpv4.Modifier{serverID("10.0.0.1"), requested("10.0.0.101")}, Nak, ""},
		{"selecting another server", known, []dhcpv4.Modifier{serverID("10.0.0.9"), requested("10.0.0.105")}, Ignored, ""},
		{"rebooting with no record here", unknown, []dhcpv4.Modifier{requested("10.0.0.101")}, Ack, "10.0.0.101"},
		{"rebooting from another network", unknown, []dhcpv4.Modifier{requested("192.168.1.7")}, Nak, ""},
		{"rebooting with a bound address of another", unknown, []dhcpv4.Modifier{requested("10.0.0.103")}, Nak, ""},
		{"renewing with no record here", unknown, []dhcpv4.Modifier{clientIP("10.0.0.101")}, Ack, "10.0.0.101"},
		{"renewing the server's address", unknown, []dhcpv4.Modifier{clientIP("10.0.0.1")}, Nak, ""},
		{"renewing the reservation", known, []dhcpv4.Modifier{clientIP("10.0.0.105")}, Ack, "10.0.0.105"},
		{"renewing an address outside the pool", unknown, []dhcpv4.Modifier{clientIP("10.0.0.50")}, Nak, ""},
		{"renewing the network's address", unknown, []dhcpv4.Modifier{clientIP("10.0.0.0")}, Nak, ""},
		{"asking for nothing", unknown, nil, Nak, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := responder(t)
			bindAt(t, r, other, "10.0.0.103")
			reply, ev := r.Reply(message(t, dhcpv4.MessageTypeRequest, tt.mac, tt.mods...), t0)
			if ev.Kind != tt.want {
				t.Fatalf("event %+v, want %s", ev, tt.want)
			}
			switch tt.want {
			case Ack:
				if addr(reply.YourIPAddr) != ip(tt.addr) || reply.IPAddressLeaseTime(0) != time.Hour ||
					reply.IPAddressRenewalTime(0) != 30*time.Minute || reply.IPAddressRebindingTime(0) != 52*time.Minute+30*time.Second {
					t.Errorf("reply %s", reply.Summary())
				}
			case Nak:
				if reply.MessageType() != dhcpv4.MessageTypeNak || isSet(addr(reply.YourIPAddr)) || isSet(addr(reply.ServerIPAddr)) {
					t.Errorf("reply %s", reply.Summary())
				}
			case Ignored:
				if reply != nil {
					t.Errorf("reply %s", reply.Summary())
				}
			}
		})
	}
}

// bindAt binds a given address, as after a restart.
func bindAt(t testing.TB, r *Responder, mac net.HardwareAddr, a string) {
	t.Helper()
	_, ev := r.Reply(message(t, dhcpv4.MessageTypeRequest, mac, requested(a)), t0)
	if ev.Kind != Ack {
		t.Fatalf("binding %s: %+v", a, ev)
	}
}

func TestIgnored(t *testing.T) {
	tests := []struct {
		name string
		mod  dhcpv4.Modifier
		want Reason
	}{
		{"a reply", func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootReply }, ReasonNotRequest},
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
			if reply != nil || ev.Kind != Ignored || ev.Reason != tt.want || r.Counters()[tt.want] != 1 {
				t.Errorf("reply %v, event %+v, counters %v", reply, ev, r.Counters())
			}
			if l := r.Leases(t0); len(l) != 1 || l[0].State != Bound {
				t.Errorf("leases %v", l)
			}
		})
	}
}

func TestLifeOfALease(t *testing.T) {
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
		t.Errorf("after ack: %s", got)
	}
	// A reboot keeps the lease bound while the firmware asks again.
	_, ev := r.Reply(message(t, dhcpv4.MessageTypeDiscover, unknown, firmware(7)), t0.Add(time.Minute))
	if got := states(t0.Add(30 * time.Minute)); ev.Address != a || got != entry+" Bound" {
		t.Errorf("after rediscovery: %s, %+v", got, ev)
	}
	if got := states(t0.Add(2 * time.Hour)); got != entry+" Expired" {
		t.Errorf("after its time: %s", got)
	}
	// The same address again, after it expired and after it was released.
	if again := bind(t, r, unknown, t0.Add(3*time.Hour)); again != a {
		t.Errorf("got %s, had %s", again, a)
	}
	_, ev = r.Reply(message(t, dhcpv4.MessageTypeRelease, unknown, clientIP(a.String())), t0.Add(3*time.Hour))
	if got := states(t0.Add(3 * time.Hour)); ev.Kind != Release || got != entry+" Released" {
		t.Errorf("after release: %s, %+v", got, ev)
	}
	if again := bind(t, r, unknown, t0.Add(4*time.Hour)); again != a {
		t.Errorf("got %s, had %s", again, a)
	}
	// Declined: another one, and the old one not to anybody for a while.
	_, ev = r.Reply(message(t, dhcpv4.MessageTypeDecline, unknown, requested(a.String()), serverID("10.0.0.1")), t0.Add(4*time.Hour))
	if ev.Kind != Decline {
		t.Errorf("event %+v", ev)
	}
	if next := bind(t, r, unknown, t0.Add(4*time.Hour)); next == a {
		t.Errorf("got the declined %s again", next)
	}
	_, ev = r.Reply(message(t, dhcpv4.MessageTypeRequest, other, requested(a.String())), t0.Add(4*time.Hour))
	if ev.Kind != Nak {
		t.Errorf("the declined address was given to another: %+v", ev)
	}
}

func TestInform(t *testing.T) {
	reply, ev := responder(t).Reply(message(t, dhcpv4.MessageTypeInform, unknown, clientIP("10.0.0.50")), t0)
	if ev.Kind != Inform || reply.MessageType() != dhcpv4.MessageTypeAck || isSet(addr(reply.YourIPAddr)) ||
		reply.IPAddressLeaseTime(0) != 0 || reply.DomainName() != "lab.test" {
		t.Errorf("event %+v, reply %s", ev, reply.Summary())
	}
}

func TestReservationWins(t *testing.T) {
	h := hosts{}
	r, err := NewResponder(config(), h)
	if err != nil {
		t.Fatal(err)
	}
	a := bind(t, r, unknown, t0)
	// Declared later, with an address that somebody has.
	h[known.String()] = Host{Address: a}
	if got := bind(t, r, known, t0); got != a {
		t.Errorf("got %s, reserved is %s", got, a)
	}
	_, ev := r.Reply(message(t, dhcpv4.MessageTypeRequest, unknown, clientIP(a.String())), t0)
	if ev.Kind != Nak {
		t.Errorf("renewal of a reserved address: %+v", ev)
	}
	if got := bind(t, r, unknown, t0); got == a {
		t.Error("the reserved address was given to another machine")
	}
	// A changed reservation moves the machine.
	h[known.String()] = Host{Address: ip("10.0.0.20")}
	_, ev = r.Reply(message(t, dhcpv4.MessageTypeRequest, known, clientIP(a.String())), t0)
	if ev.Kind != Nak {
		t.Errorf("renewal of a former reservation: %+v", ev)
	}
	if got := bind(t, r, known, t0); got != ip("10.0.0.20") {
		t.Errorf("got %s", got)
	}
}

// TestStarvation floods the pool from thousands of machines.
func TestStarvation(t *testing.T) {
	r := responder(t)
	flood := func(n int, kind dhcpv4.MessageType, at time.Time) {
		for i := range n {
			mac := net.HardwareAddr{2, 0, 0, 1, byte(i >> 8), byte(i)}
			reply, ev := r.Reply(message(t, dhcpv4.MessageTypeDiscover, mac), at)
			if reply != nil && ev.Address == ip("10.0.0.105") {
				t.Fatal("the reservation was offered to another machine")
			}
			if reply != nil && kind == dhcpv4.MessageTypeRequest {
				r.Reply(message(t, kind, mac, requested(ev.Address.String()), serverID("10.0.0.1")), at)
			}
		}
	}
	// An honest unknown machine selects its offer amid a flood.
	_, ev := r.Reply(message(t, dhcpv4.MessageTypeDiscover, unknown), t0)
	flood(5000, dhcpv4.MessageTypeDiscover, t0.Add(time.Second))
	_, ev = r.Reply(message(t, dhcpv4.MessageTypeRequest, unknown, requested(ev.Address.String()), serverID("10.0.0.1")), t0.Add(4*time.Second))
	if ev.Kind != Ack {
		t.Errorf("honest machine: %+v", ev)
	}

	flood(5000, dhcpv4.MessageTypeRequest, t0.Add(5*time.Second))
	if got := bind(t, r, known, t0.Add(6*time.Second)); got != ip("10.0.0.105") {
		t.Errorf("reservation: %s", got)
	}
	if n := len(r.Leases(t0)); n != 10 {
		t.Errorf("%d leases, want the pool's 9 and a reservation", n)
	}
	_, ev = r.Reply(message(t, dhcpv4.MessageTypeDiscover, other), t0.Add(7*time.Second))
	if ev.Kind != Discover || ev.Reason != ReasonNoAddress {
		t.Errorf("full pool: %+v", ev)
	}
	// When the leases expire there is room again.
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
		t.Errorf("%d declined addresses remembered for a pool of 10", n)
	}
}

func TestHugePool(t *testing.T) {
	r := responder(t, func(c *Config) {
		c.Prefix = netip.MustParsePrefix("10.0.0.0/8")
		c.RangeStart, c.RangeEnd = ip("10.1.0.0"), ip("10.255.255.254")
	})
	seen := map[netip.Addr]bool{}
	for i := range 2000 {
		seen[bind(t, r, net.HardwareAddr{2, 0, 0, 1, byte(i >> 8), byte(i)}, t0)] = true
	}
	if len(seen) != 2000 {
		t.Errorf("%d different addresses for 2000 machines", len(seen))
	}
}

func TestSetConfig(t *testing.T) {
	r := responder(t)
	a := bind(t, r, unknown, t0)
	c := config()
	c.Prefix, c.ServerAddr, c.Router = netip.MustParsePrefix("10.9.0.0/24"), ip("10.9.0.1"), netip.Addr{}
	c.RangeStart, c.RangeEnd = ip("10.9.0.10"), ip("10.9.0.20")
	if err := r.SetConfig(c); err != nil {
		t.Fatal(err)
	}
	if l := r.Leases(t0); len(l) != 0 {
		t.Errorf("leases of the old network: %v", l)
	}
	_, ev := r.Reply(message(t, dhcpv4.MessageTypeRequest, unknown, clientIP(a.String())), t0)
	if ev.Kind != Nak {
		t.Errorf("renewal in the old network: %+v", ev)
	}
	reply, _ := r.Reply(message(t, dhcpv4.MessageTypeDiscover, unknown), t0)
	if !c.Prefix.Contains(addr(reply.YourIPAddr)) || reply.Options.Has(dhcpv4.OptionRouter) {
		t.Errorf("offer %s", reply.Summary())
	}
	// The known machine's reservation does not fit the new network.
	reply, _ = r.Reply(message(t, dhcpv4.MessageTypeDiscover, known), t0)
	if !c.Prefix.Contains(addr(reply.YourIPAddr)) {
		t.Errorf("offer %s", reply.Summary())
	}
	if err := r.SetConfig(Config{}); err == nil {
		t.Error("took an empty configuration")
	}
}

func TestSnapshotSurvivesRestart(t *testing.T) {
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
		t.Errorf("restored (-want +got):\n%s", diff)
	}
	if err := json.Unmarshal([]byte(`[{"mac":"nonsense"}]`), &leases); err == nil {
		t.Error("nonsense was read as a lease")
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
		t.Errorf("%d bytes, want at least %d", len(b), minMessage)
	}
	var order []uint8
	for at := fixedPart; b[at] != 255; at += 2 + int(b[at+1]) {
		order = append(order, b[at])
	}
	if diff := cmp.Diff([]uint8{53, 54, 51}, order[:3]); diff != "" {
		t.Errorf("first options (-want +got):\n%s", diff)
	}
	if last := order[len(order)-1]; last != 82 {
		t.Errorf("last option %d, want 82", last)
	}
	back, err := dhcpv4.FromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(reply.Options, back.Options); diff != "" {
		t.Errorf("options after decoding (-want +got):\n%s", diff)
	}
	if back.BootFileName != "ipxe.efi" || back.ServerHostName != "10.0.0.1" || back.TransactionID != req.TransactionID {
		t.Errorf("decoded %s", back.Summary())
	}
}

func TestEncodeFitsTheClient(t *testing.T) {
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
		t.Errorf("%d bytes for a client that takes %d", len(b), defaultMaxMessage-ipUDPHeaders)
	}
	back, err := dhcpv4.FromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []uint8{1, 3, 51, 53, 54, 67, 175} {
		if _, ok := back.Options[code]; !ok {
			t.Errorf("option %d was left out", code)
		}
	}
	// One that takes more gets all.
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
		{"wants broadcast", dhcpv4.MessageTypeDiscover, []dhcpv4.Modifier{dhcpv4.WithBroadcast(true)}, broadcastMAC, "255.255.255.255:68"},
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
			if got.Addr.String() != tt.to || got.MAC.String() != tt.mac.String() || got.Source != ip("10.0.0.1") {
				t.Errorf("destination %+v", got)
			}
		})
	}
}

func TestUDPFrame(t *testing.T) {
	for _, payload := range []string{"", "x", "xy", strings.Repeat("odd", 101)} {
		b := udpFrame(known, unknown, netip.MustParseAddrPort("10.0.0.1:67"), netip.MustParseAddrPort("10.0.0.5:68"), []byte(payload))
		ipHead, udp := b[14:34], b[34:]
		if got := checksum(0, ipHead); got != 0xffff {
			t.Errorf("IP checksum sums up to %#x", got)
		}
		sum := checksum(checksum(0, ipHead[12:]), []byte{0, 17, udp[4], udp[5]})
		if got := checksum(sum, udp); got != 0xffff {
			t.Errorf("UDP checksum sums up to %#x", got)
		}
		if !bytes.Equal(b[:6], unknown) || !bytes.Equal(b[6:12], known) || string(b[42:]) != payload {
			t.Errorf("frame %x", b)
		}
	}
}

func TestARP(t *testing.T) {
	probe := arpProbe(known, ip("10.0.0.7"))
	if got := arpFrom(probe); got.IsValid() && !got.IsUnspecified() {
		t.Errorf("a probe claims %s", got)
	}
	reply := slices.Clone(probe)
	copy(reply[28:32], ip("10.0.0.7").AsSlice())
	if got := arpFrom(reply); got != ip("10.0.0.7") {
		t.Errorf("a reply claims %s", got)
	}
	if arpFrom(reply[:30]).IsValid() || arpFrom(make([]byte, 60)).IsValid() {
		t.Error("something that is no ARP claims an address")
	}
}

// FuzzReply feeds arbitrary messages to a responder with a full table.
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
		req, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		reply, ev := r.Reply(req, t0)
		if n := len(r.Leases(t0)); n > 11 {
			t.Fatalf("%d leases for a pool of 10 and one reservation", n)
		}
		if reply == nil {
			return
		}
		your := addr(reply.YourIPAddr)
		if isSet(your) && (!hostAddr(cfg.Prefix, your) || your == cfg.ServerAddr) {
			t.Errorf("gave out %s", your)
		}
		if your == ip("10.0.0.105") && req.ClientHWAddr.String() != known.String() {
			t.Errorf("gave the reservation to %s", req.ClientHWAddr)
		}
		if ev.BootFile != "" && !ev.Known {
			t.Errorf("gave a boot file to %s", req.ClientHWAddr)
		}
		out := encode(reply, messageLimit(req))
		if len(out) > 1500-ipUDPHeaders {
			t.Errorf("reply of %d bytes", len(out))
		}
		if _, err := dhcpv4.FromBytes(out); err != nil {
			t.Errorf("our own reply does not parse: %v", err)
		}
		destination(req, reply)
	})
}
