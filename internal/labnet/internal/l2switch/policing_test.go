// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// sends reports how many of n equal frames of a port are within its rates.
func (p *plan) sends(from *port, f []byte, n int) (sent int) {
	pk := snoop(f)
	for range n {
		d := p.s.decide(from, mac(f[:6]), &pk, p.now)
		if p.s.excess(from, &pk, d, p.now) == nil {
			sent++
		}
	}
	return sent
}

func TestRatesOfPorts(t *testing.T) {
	me := station(10)
	for name, tt := range map[string]struct {
		frame       []byte
		burst, rate int
	}{
		"broadcasts":           {frame(broadcast, me, "x"), copyBurst / floodCopies, copyRate / floodCopies},
		"multicasts":           {frame(mac{1, 0, 0x5e, 0, 0, 1}, me, "x"), copyBurst / floodCopies, copyRate / floodCopies},
		"unknown unicasts":     {frame(station(99), me, "x"), copyBurst / floodCopies, copyRate / floodCopies},
		"ARP requests":         {arpFrame(me, "10.88.0.10", "10.88.0.11"), resolveBurst, resolveRate},
		"unicast ARP":          {changed(arpFrame(me, "10.88.0.10", "10.88.0.11"), 0, 0x52, 0x54, 0, 0, 0, 11), resolveBurst, resolveRate},
		"DHCP requests":        {dhcpAsk(me, me, "0.0.0.0"), requestBurst, requestRate},
		"router solicitations": {from(me, ipv6(protoICMPv6, solicitation)), requestBurst, requestRate},
		"solicitations":        {neighbor(me, neighborSolicitation, "fe80::a", "fe80::b"), resolveBurst, resolveRate},
		"tagged broadcasts":    {tagged(frame(broadcast, me, "x"), 0x81, 0, 0, 5), copyBurst / floodCopies, copyRate / floodCopies},
	} {
		t.Run(name, func(t *testing.T) {
			p, _, hostile, victim := guarded()
			if got := p.sends(hostile, tt.frame, 10*tt.burst); got != tt.burst {
				t.Errorf("at once: got %d frames sent, want %d", got, tt.burst)
			}
			p.now = p.now.Add(time.Second)
			if got := p.sends(hostile, tt.frame, 10*tt.burst); got != tt.rate {
				t.Errorf("a second later: got %d frames sent, want %d", got, tt.rate)
			}
			// Another port has rates of its own, and frames to one machine have none.
			if got := p.sends(victim, from(station(11), tt.frame), 1); got != 1 {
				t.Error("the frame of another port is not sent, want it sent")
			}
			if got := p.sends(hostile, ip4(me, "10.88.0.10", 6), 1); tt.rate == copyRate/floodCopies && got != 0 {
				t.Error("a broadcast beyond the rate is sent, want it dropped")
			}
			if got := p.sends(hostile, frame(station(11), me, "x"), 100_000); got != 100_000 {
				t.Errorf("got %d frames to one machine sent, want all", got)
			}
		})
	}
}

// TestFloodsCostByCopies checks that a port cannot make the switch copy more because more
// ports exist.
func TestFloodsCostByCopies(t *testing.T) {
	p, _, hostile, _ := guarded()
	for i := range 1000 {
		m := crowdMAC(i)
		p.add(fmt.Sprint(i), Policy{MAC: m[:], DenyDHCP: true, DenyRouter: true, Addresses: []netip.Addr{crowdAddress(i + 1000)}})
	}
	ports := p.s.ports.count()
	if got, want := p.sends(hostile, frame(broadcast, station(10), "x"), 10_000), copyBurst/ports; got != want {
		t.Errorf("got %d floods to %d ports, want %d", got, ports, want)
	}
}

func TestBucketOfLargeCost(t *testing.T) {
	var b bucket
	now := time.Now()
	if !b.take(1000, 10, 100, now) {
		t.Error("got a refused frame that costs more than a burst, want it taken from a full bucket")
	}
	if b.take(1, 10, 100, now) {
		t.Error("got a frame from an empty bucket, want none")
	}
	if b.take(1, 10, 100, now.Add(-time.Hour)) {
		t.Error("got a frame after the clock was set back, want none")
	}
}

// TestRepeatedSolicitationIsFlooded covers a machine that has not sent anything since the
// switch began, and whose address has the same last bytes as that of another.
func TestRepeatedSolicitationIsFlooded(t *testing.T) {
	p, server, a, _ := twoGuests()
	p.receivers(a, neighbor(station(10), neighborSolicitation, "2001:db8::77", "fe80::1"))
	ask := neighbor(station(1), neighborSolicitation, "fe80::1", "fe80::77")
	p.want(t, "first solicitation", server, ask, "a")
	p.now = p.now.Add(time.Second)
	p.want(t, "second solicitation", server, ask, "all")
	p.want(t, "solicitation for another address", server, neighbor(station(1), neighborSolicitation, "fe80::1", "2001:db8::77"), "a")
	p.now = p.now.Add(time.Minute)
	p.want(t, "solicitation much later", server, ask, "a")
}

// TestCollusionLeavesRoom fills the queues of colluding machines: one that fills later has
// its part of the budget.
func TestCollusionLeavesRoom(t *testing.T) {
	b := &budget{max: 64 << 20}
	b.divide(33)
	f := make([]byte, 60)
	fill := func() *queue {
		q := &queue{maxFrames: 1 << 16, maxBytes: 4 << 20, large: 9022, budget: b}
		for q.push(f, time.Time{}, 1) {
		}
		return q
	}
	var all []*queue
	for range 32 {
		all = append(all, fill())
	}
	late := fill()
	if want := 32<<20/33 - smallFrame; late.bytes < want {
		t.Errorf("got room for %d bytes beside 32 full queues, want %d at least", late.bytes, want)
	}
	if used := b.used.Load(); used > b.max {
		t.Errorf("got %d bytes in use, want at most %d", used, b.max)
	}
	for _, q := range append(all, late) {
		q.clear()
	}
	if used := b.used.Load(); used != 0 {
		t.Errorf("got %d bytes in use by empty queues, want none", used)
	}
}
