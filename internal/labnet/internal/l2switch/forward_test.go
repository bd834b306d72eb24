// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// plan is a switch without sockets: its ports only exist in its tables.
type plan struct {
	s   *Switch
	now time.Time
}

func newPlan() *plan { return &plan{s: New(Options{}), now: time.Now()} }

// add adds a port with a policy, as AddPort does.
func (p *plan) add(name string, pol Policy) *port {
	parsed, err := parsePolicy(pol)
	if err != nil {
		panic(err)
	}
	added := &port{s: p.s, name: name}
	p.s.byName[name] = added
	p.s.ports.add(added)
	p.s.setPolicy(added, parsed, p.now)
	return added
}

// remove removes a port, as drop does.
func (p *plan) remove(gone *port) {
	delete(p.s.byName, gone.name)
	p.s.ports.remove(gone)
	p.s.table.forget(gone)
	p.s.addresses.forget(gone, p.now)
	p.s.groups.forget(gone)
	p.s.claims.forget(gone)
}

// receivers returns the names of the ports to which a frame would be sent, sorted, or
// "all" if it is flooded.
func (p *plan) receivers(from *port, frame []byte) []string {
	pk := snoop(frame)
	d := p.s.decide(from, mac(frame[:6]), &pk, p.now)
	var to []*port
	switch d.reach {
	case toAll:
		return []string{"all"}
	case toPort:
		to = []*port{d.port}
	case toTrusted:
		to = p.s.ports.trusted
	case toGroup:
		to = append(slices.Clone(p.s.groups.members[d.group]), p.s.groups.everywhere...)
	}
	names := []string{}
	for _, t := range to {
		if t != from {
			names = append(names, t.name)
		}
	}
	slices.Sort(names)
	return names
}

func (p *plan) want(t *testing.T, what string, from *port, frame []byte, names ...string) {
	t.Helper()
	if diff := cmp.Diff(append([]string{}, names...), p.receivers(from, frame)); diff != "" {
		t.Errorf("%s: receivers (-want +got):\n%s", what, diff)
	}
}

// guestPolicy is the policy of station n with the address 10.88.0.n.
func guestPolicy(n byte) Policy {
	m := station(n)
	return Policy{MAC: m[:], DenyDHCP: true, DenyRouter: true, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 88, 0, n})}}
}

func serverPolicy() Policy {
	p := guestPolicy(1)
	p.DenyDHCP, p.DenyRouter = false, false
	return p
}

func from(m mac, f []byte) []byte { return changed(f, 6, m[:]...) }

// twoGuests returns a network with a server (10.88.0.1) and the guests a and b
// (10.88.0.10 and .11).
func twoGuests() (p *plan, server, a, b *port) {
	p = newPlan()
	return p, p.add("server", serverPolicy()), p.add("a", guestPolicy(10)), p.add("b", guestPolicy(11))
}

func TestDecideDHCP(t *testing.T) {
	p, server, a, _ := twoGuests()
	p.want(t, "DHCP request", a, from(station(10), udp(68, 67)), "server")
	p.want(t, "DHCP request to an unknown MAC", a, changed(from(station(10), udp(68, 67)), 0, 2, 0, 0, 0, 0, 9), "server")
	p.want(t, "DHCP renewal", a, changed(from(station(10), udp(68, 67)), 0, 0x52, 0x54, 0, 0, 0, 1), "server")
	p.want(t, "DHCPv6 request", a, from(station(10), ipv6(protoUDP, ports16(546, 547))), "server")
	p.want(t, "router solicitation", a, from(station(10), ipv6(protoICMPv6, solicitation)), "server")
	p.want(t, "other broadcast", a, from(station(10), udp(40000, 9)), "all")
	p.want(t, "DHCP request of the server", server, from(station(1), udp(68, 67)))
	p.want(t, "broadcast reply to a guest", server, dhcpAnswer(station(1), station(11)), "b")
	p.want(t, "broadcast reply to an unknown client", server, dhcpAnswer(station(1), station(77)), "all")
	p.want(t, "broadcast reply without a client", server, from(station(1), udp(67, 68)), "all")
	p.want(t, "tagged DHCP request", a, tagged(from(station(10), udp(68, 67)), 0x81, 0, 0, 5), "all")
	p.want(t, "tagged reply", server, tagged(dhcpAnswer(station(1), station(11)), 0x81, 0, 0, 5), "all")

	second := p.add("second", Policy{})
	p.want(t, "DHCP request with two servers", a, from(station(10), udp(68, 67)), "second", "server")
	p.remove(second)
	p.remove(server)
	p.want(t, "DHCP request without a server", a, from(station(10), udp(68, 67)))
}

func TestDecideARP(t *testing.T) {
	const own, other, free = "10.88.0.10", "10.88.0.11", "10.88.0.77"
	p, server, a, b := twoGuests()
	p.want(t, "request for a guest", a, arpFrame(station(10), own, other), "b")
	p.want(t, "request for the server", a, arpFrame(station(10), own, "10.88.0.1"), "server")
	p.want(t, "request of the server", server, arpFrame(station(1), "10.88.0.1", own), "a")
	p.want(t, "request for an unknown address", a, arpFrame(station(10), own, free), "all")
	p.want(t, "probe for an address that is taken", a, arpFrame(station(10), "0.0.0.0", other), "b")
	p.want(t, "probe for an unknown address", a, arpFrame(station(10), "0.0.0.0", free), "all")
	p.want(t, "probe for the own address", a, arpFrame(station(10), "0.0.0.0", own), "server")
	p.want(t, "announcement of the own address", a, arpFrame(station(10), own, own), "server")
	p.want(t, "announcement of an unknown address", a, arpFrame(station(10), free, free), "all")
	p.want(t, "unicast request", a, changed(arpFrame(station(10), own, other), 0, 0x52, 0x54, 0, 0, 0, 11), "b")
	p.want(t, "tagged request", a, tagged(arpFrame(station(10), own, other), 0x81, 0, 0, 5), "all")

	// The owner hears of a rival, and everyone of its defence, for a while.
	p.want(t, "announcement of another's address", a, arpFrame(station(10), other, other), "b")
	p.want(t, "defence", b, arpFrame(station(11), other, other), "all")
	p.now = p.now.Add(10 * time.Minute)
	p.want(t, "announcement after that", b, arpFrame(station(11), other, other), "server")

	// An address that leaves with its machine is unknown.
	p.remove(b)
	p.want(t, "request for a machine that is gone", a, arpFrame(station(10), own, other), "all")
}

// TestDecideARPAfterMove checks that the machines which may know the MAC of an earlier
// owner hear of a new one.
func TestDecideARPAfterMove(t *testing.T) {
	announce := func(n byte) []byte { return arpFrame(station(n), "10.88.0.11", "10.88.0.11") }
	p, server, a, b := twoGuests()
	heir := guestPolicy(12)
	heir.Addresses = guestPolicy(11).Addresses
	c := p.add("c", heir)
	p.want(t, "request while two ports have the address", a, arpFrame(station(10), "10.88.0.10", "10.88.0.11"), "all")
	p.remove(b)
	p.want(t, "request for the address that moved", a, arpFrame(station(10), "10.88.0.10", "10.88.0.11"), "c")
	p.want(t, "announcement of the new owner", c, announce(12), "all")
	p.want(t, "second announcement", c, announce(12), "all")
	p.now = p.now.Add(10 * time.Minute)
	p.want(t, "announcement after all have forgotten", c, announce(12), "server")

	// The same machine that is attached again is not a new owner.
	p.remove(c)
	c = p.add("c", heir)
	p.want(t, "announcement of the same machine", c, announce(12), "server")
	// An owner that comes after a gap is, until the earlier one is forgotten.
	p.remove(c)
	b = p.add("b", guestPolicy(11))
	p.want(t, "announcement after a gap", b, announce(11), "all")
	p.remove(b)
	p.now = p.now.Add(10 * time.Minute)

	// The address of a policy is replaced in place.
	replaced := guestPolicy(10)
	replaced.Addresses = []netip.Addr{netip.MustParseAddr("10.88.1.10")}
	pol, err := parsePolicy(replaced)
	if err != nil {
		t.Fatal(err)
	}
	p.s.setPolicy(a, pol, p.now)
	p.want(t, "request for the new address", server, arpFrame(station(1), "10.88.0.1", "10.88.1.10"), "a")
	p.want(t, "request for the old address", server, arpFrame(station(1), "10.88.0.1", "10.88.0.10"), "all")
	if n := len(p.s.addresses.addresses); n != 3 {
		t.Errorf("got %d remembered addresses, want the server's and two of a", n)
	}
}

func TestDecideNeighborDiscovery(t *testing.T) {
	p, server, a, b := twoGuests()
	const target = "fe80::5054:ff:fe00:b"
	ask := neighbor(station(10), neighborSolicitation, "fe80::a", target)
	p.want(t, "unknown address", a, ask, "all")
	p.want(t, "test for duplicates", b, neighbor(station(11), neighborSolicitation, "::", target), "all")
	p.want(t, "address that was tested", a, ask, "b")
	p.want(t, "address that sent a solicitation", server, neighbor(station(1), neighborSolicitation, "fe80::1", "fe80::a"), "a")
	p.now = p.now.Add(time.Minute)
	p.want(t, "test for an address that is taken", a, neighbor(station(10), neighborSolicitation, "::", target), "b")
	p.want(t, "from both that claim it", server, neighbor(station(1), neighborSolicitation, "fe80::1", target), "a", "b")
	p.want(t, "advertisement", b, neighbor(station(11), neighborAdvertisement, "2001:db8::7", "2001:db8::7"), "all")
	p.want(t, "address that was advertised", a, neighbor(station(10), neighborSolicitation, "fe80::a", "2001:db8::7"), "b")
	p.want(t, "tagged solicitation", a, tagged(ask, 0x81, 0, 0, 5), "all")
	p.want(t, "router advertisement", server, from(station(1), ipv6(protoICMPv6, advertisement)), "all")

	// A port in too many groups hears all of them, and memory is bounded.
	for i := range 1000 {
		flood := neighbor(station(10), neighborSolicitation, netip.AddrFrom16([16]byte{0xfe, 0x80, 14: byte(i >> 8), 15: byte(i)}).String(), "fe80::ffff:1")
		p.receivers(a, flood)
	}
	if len(a.groups) > maxGroups || !a.everywhere {
		t.Errorf("got %d groups of a hostile port, everywhere %t, want at most %d and true", len(a.groups), a.everywhere, maxGroups)
	}
	p.want(t, "address in a group of another", server, neighbor(station(1), neighborSolicitation, "fe80::1", "2001:db8::7"), "a", "b")
	p.remove(a)
	p.remove(b)
	p.remove(server)
	if n := len(p.s.groups.members) + len(p.s.groups.everywhere); n != 0 {
		t.Errorf("got %d groups without ports, want none", n)
	}
	if n := len(p.s.ports.all) + len(p.s.ports.trusted); n != 0 {
		t.Errorf("got %d ports, want none", n)
	}
}

func TestBudgetIsFair(t *testing.T) {
	b := &budget{max: 4 * smallFrame}
	greedy := queue{maxFrames: 1000, maxBytes: 1 << 20, large: 9000, budget: b}
	modest := queue{maxFrames: 1000, maxBytes: 1 << 20, large: 9000, budget: b}
	frame := make([]byte, 60)
	n := 0
	for ; greedy.push(frame, time.Time{}, 1); n++ {
	}
	if want := reserve / smallFrame; n != want {
		t.Errorf("got %d frames of one queue, want its reserve of %d", n, want)
	}
	if !modest.push(frame, time.Time{}, 1) {
		t.Error("got a full queue that holds nothing, want room for its reserve")
	}
	greedy.clear()
	modest.clear()
	if used := b.used.Load(); used != 0 {
		t.Errorf("got %d bytes in use by empty queues, want none", used)
	}
}

// TestEmptyQueueAcceptsLargestFrame checks that a frame that is larger than the reserve
// is not lost while others use the budget.
func TestEmptyQueueAcceptsLargestFrame(t *testing.T) {
	b := &budget{max: 1 << 20}
	b.used.Store(b.max)
	q := queue{maxFrames: 1024, maxBytes: 4 << 20, large: 65022, budget: b}
	if !q.push(make([]byte, 65000), time.Time{}, 1) {
		t.Error("got a lost frame, want one in an empty queue")
	}
	if q.push(make([]byte, 65000), time.Time{}, 1) {
		t.Error("got two large frames in a queue without budget, want one")
	}
	q.clear()
}

// TestStuckMachineKeepsItsReserve fills the queue of a machine that does not read. When it
// has read nothing for long, the buffers beyond its reserve are free for other machines.
func TestStuckMachineKeepsItsReserve(t *testing.T) {
	s, _, _ := lab(t, Options{}, 1, nil)
	p := s.byName["a"]
	held := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.queue.bytes
	}
	now, f := time.Now(), frame(broadcast, station(2), "x")
	none := &Impairment{}
	for range 100_000 {
		if held() > 8*reserve {
			break
		}
		p.send(f, now, none)
	}
	if p.drops.load() != (Drops{}) || held() <= 8*reserve {
		t.Fatalf("got %d bytes in the queue, drops %+v; want more than %d and none", held(), p.drops.load(), 8*reserve)
	}
	p.send(f, now.Add(time.Hour), none)
	if got := held(); got == 0 || got > reserve+smallFrame {
		t.Errorf("got %d bytes in the queue of a stuck machine, want 1 to %d", got, reserve+smallFrame)
	}
	if used, most := s.budget.used.Load(), int64(reserve+2*smallFrame); used > most {
		t.Errorf("got %d bytes of the budget in use, want at most %d", used, most)
	}
	if p.drops.queueFull.Load() == 0 {
		t.Error("got no drops, want the oldest frames counted")
	}
}
