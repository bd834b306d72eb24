// SPDX-License-Identifier: Apache-2.0

package dhcp

// Both the server and the client library used here run on Linux only.

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

const limit = 30 * time.Second

type recorder struct {
	mu     sync.Mutex
	events []Event
	more   chan struct{}
}

func (r *recorder) add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	select {
	case r.more <- struct{}{}:
	default:
	}
}

func (r *recorder) wait(t testing.TB, n int) []Event {
	t.Helper()
	deadline := time.After(limit)
	for {
		r.mu.Lock()
		events := slices.Clone(r.events)
		r.mu.Unlock()
		if len(events) >= n {
			return events
		}
		select {
		case <-r.more:
		case <-deadline:
			t.Fatalf("got %d events, want %d: %v", len(events), n, events)
		}
	}
}

func serve(t testing.TB, o Options) (*Server, *net.UDPAddr, *recorder) {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rec := &recorder{more: make(chan struct{}, 1)}
	o.Conn = PacketConn(pc)
	o.Events = rec.add
	o.Config = config()
	o.Policy = declared()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve = %v, want nil", err)
		}
	})
	return s, pc.LocalAddr().(*net.UDPAddr), rec
}

func client(t testing.TB, mac net.HardwareAddr, server *net.UDPAddr) *nclient4.Client {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, err := nclient4.NewWithConn(conn, mac, nclient4.WithServerAddr(server), nclient4.WithTimeout(limit))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestServerWithRealClient takes an independent client implementation through the
// lifecycle of a lease.
func TestServerWithRealClient(t *testing.T) {
	s, at, rec := serve(t, Options{})
	c := client(t, known, at)
	lease, err := c.Request(t.Context(), firmware(7))
	if err != nil {
		t.Fatal(err)
	}
	if got := addr(lease.ACK.YourIPAddr); got != ip("10.0.0.105") {
		t.Errorf("got ACK of %s, want 10.0.0.105", got)
	}
	if got := lease.ACK.BootFileName; got != "ipxe.efi" {
		t.Errorf("got ACK with boot file %q, want ipxe.efi", got)
	}
	if _, err := c.Renew(t.Context(), lease); err != nil {
		t.Error(err)
	}
	// The client library sends releases to port 67, but this server uses another.
	release, err := dhcpv4.NewReleaseFromACK(lease.ACK)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialUDP("udp4", nil, at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(release.ToBytes()); err != nil {
		t.Fatal(err)
	}
	var kinds []Kind
	for _, e := range rec.wait(t, 4) {
		kinds = append(kinds, e.Kind)
	}
	if diff := cmp.Diff([]Kind{Offer, Ack, Ack, Release}, kinds); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if l := s.Leases(); len(l) != 1 || l[0].State != Released {
		t.Errorf("got leases %v, want one that is Released", l)
	}
}

func TestServerCountsMalformedMessages(t *testing.T) {
	s, at, rec := serve(t, Options{})
	conn, err := net.DialUDP("udp4", nil, at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, b := range [][]byte{{}, {1}, make([]byte, 239), bytes.Repeat([]byte{0xff}, 1000)} {
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client(t, unknown, at).DiscoverOffer(t.Context()); err != nil {
		t.Fatal(err)
	}
	rec.wait(t, 1)
	if got := s.Counters()[ReasonMalformed]; got != 4 {
		t.Errorf("got %d malformed messages counted, want 4", got)
	}
}

// taken is a Prober that reports a fixed set of addresses as in use.
type taken struct {
	mu     sync.Mutex
	addrs  map[netip.Addr]bool
	probed []netip.Addr
}

func (p *taken) InUse(_ context.Context, a netip.Addr) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.probed = append(p.probed, a)
	return p.addrs[a], nil
}

func TestServerProbesNewPoolAddresses(t *testing.T) {
	// The address that this machine gets without probing.
	want, _ := responder(t).Reply(message(t, dhcpv4.MessageTypeDiscover, unknown), t0)
	stolen := addr(want.YourIPAddr)

	p := &taken{addrs: map[netip.Addr]bool{stolen: true}}
	s, at, _ := serve(t, Options{Prober: p})
	lease, err := client(t, unknown, at).Request(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := addr(lease.ACK.YourIPAddr)
	if got == stolen {
		t.Errorf("got address %s, want one that is not in use", got)
	}
	// Leased and reserved addresses are not probed.
	if _, err := client(t, unknown, at).Request(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := client(t, known, at).Request(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if diff := cmp.Diff([]netip.Addr{stolen, got}, p.probed, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("probed addresses (-want +got):\n%s", diff)
	}
	if n := len(s.Leases()); n != 2 {
		t.Errorf("got %d leases, want 2", n)
	}
}

func TestNewRejectsIncompleteOptions(t *testing.T) {
	if _, err := New(Options{Config: config(), Policy: declared()}); err == nil {
		t.Error("New without a connection = nil, want an error")
	}
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	if _, err := New(Options{Conn: PacketConn(pc), Policy: declared()}); err == nil {
		t.Error("New with an empty configuration = nil, want an error")
	}
	if _, err := New(Options{Conn: PacketConn(pc), Config: config()}); err == nil {
		t.Error("New without a policy = nil, want an error")
	}
}

func TestListenRejectsNonEthernet(t *testing.T) {
	for _, name := range []string{"no-such-nic", "lo"} {
		if _, err := Listen(name); err == nil {
			t.Errorf("Listen(%q) = nil, want an error", name)
		}
		if _, err := NewARPProber(name); err == nil {
			t.Errorf("NewARPProber(%q) = nil, want an error", name)
		}
	}
}
