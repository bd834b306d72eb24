// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pxelab/pxelab/internal/paths/pathstest"
)

// crowd is a switch with a server's port, which is trusted, and ports of guests, each
// with its MAC and its address, and the machines at all of them.
type crowd struct {
	s       *Switch
	configs []PortConfig
	guests  []*guest // the first is the server
}

func crowdMAC(i int) mac { return mac{0x52, 0x54, 0, 1, byte(i >> 8), byte(i)} }

func crowdAddress(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 88, byte((i + 1) >> 8), byte(i + 1)})
}

func newCrowd(t testing.TB, o Options, ports int, plugged bool) *crowd {
	t.Helper()
	dir := pathstest.Short(t)
	o.MTU = 9000
	c := &crowd{s: New(o)}
	t.Cleanup(func() { _ = c.s.Close() })
	for i := range ports {
		config := portConfig(dir, fmt.Sprint(i))
		m := crowdMAC(i)
		config.Policy = Policy{MAC: m[:], DenyDHCP: i > 0, DenyRouter: i > 0, Addresses: []netip.Addr{crowdAddress(i)}}
		if err := c.s.AddPort(config); err != nil {
			t.Fatal(err)
		}
		c.configs = append(c.configs, config)
		if plugged {
			c.guests = append(c.guests, plug(t, config))
		}
	}
	return c
}

// deliveries is how many copies of frames the switch has made for its ports.
func (c *crowd) deliveries() (n uint64) {
	for _, st := range c.s.Stats() {
		d := st.Drops
		n += st.TxFrames + uint64(st.Queued) + d.QueueFull + d.PeerAbsent + d.Impaired
	}
	return n
}

// cost returns how many copies the switch makes of a frame from a machine. The frame is
// forwarded by this goroutine, so that all copies are made when it returns.
func (c *crowd) cost(from int, f []byte) uint64 {
	before := c.deliveries()
	c.s.forward(c.s.byName[fmt.Sprint(from)], f)
	return c.deliveries() - before
}

// TestCostOfFramesDoesNotGrow counts the copies of the frames that every machine sends
// to all others while it boots.
func TestCostOfFramesDoesNotGrow(t *testing.T) {
	for _, ports := range []int{10, 1000} {
		t.Run(fmt.Sprint(ports), func(t *testing.T) {
			c := newCrowd(t, Options{}, ports, true)
			self, peer, serverMAC := crowdMAC(5), crowdMAC(7), crowdMAC(0)
			own, other, server := crowdAddress(5).String(), crowdAddress(7).String(), crowdAddress(0).String()
			for _, tt := range []struct {
				name  string
				from  int
				frame []byte
				want  uint64
			}{
				{"DISCOVER", 5, from(self, udp(68, 67)), 1},
				{"OFFER to the broadcast address", 0, dhcpAnswer(serverMAC, self), 1},
				{"ARP for the server", 5, arpFrame(self, own, server), 1},
				{"ARP of the server", 0, arpFrame(serverMAC, server, own), 1},
				{"ARP for another machine", 5, arpFrame(self, own, other), 1},
				{"ARP announcement", 5, arpFrame(self, own, own), 1},
				{"ARP probe", 5, arpFrame(self, "0.0.0.0", own), 1},
				{"router solicitation", 5, from(self, ipv6(protoICMPv6, solicitation)), 1},
				{"DHCPv6 request", 5, from(self, ipv6(protoUDP, ports16(546, 547))), 1},
				{"unicast", 5, frame(peer, self, "x"), 1},
				// What no machine is known to answer is flooded, as the counters show.
				{"ARP for an unknown address", 5, arpFrame(self, own, "10.88.15.1"), uint64(ports - 1)},
			} {
				if got := c.cost(tt.from, tt.frame); got != tt.want {
					t.Errorf("%s: got %d copies, want %d", tt.name, got, tt.want)
				}
			}
		})
	}
}

// TestARPIsAnsweredByItsOwner exchanges an ARP request and its answer among a thousand
// machines: the machine that has the address receives the request as it was sent.
func TestARPIsAnsweredByItsOwner(t *testing.T) {
	c := newCrowd(t, Options{}, 1000, true)
	request := arpFrame(crowdMAC(400), crowdAddress(400).String(), crowdAddress(800).String())
	c.guests[400].send(request)
	c.guests[800].want(request)
	answer := changed(frame(crowdMAC(400), crowdMAC(800), "answer"), 12, 8, 6)
	c.guests[800].send(answer)
	c.guests[400].want(answer)
	// A client's broadcast reaches the server through the sockets as well, and nothing
	// else has: the next frame that a bystander gets is a flood.
	discover := from(crowdMAC(400), udp(68, 67))
	c.guests[400].send(discover)
	c.guests[0].want(discover)
	flood := frame(broadcast, crowdMAC(0), "to all")
	c.guests[0].send(flood)
	for i, g := range c.guests[1:] {
		g.want(flood)
		n := i + 1
		if st := c.s.byName[fmt.Sprint(n)].stats(); n != 400 && n != 800 && st.TxFrames != 1 {
			t.Fatalf("machine %d: got %d frames, want the flood only", n, st.TxFrames)
		}
	}
}

// TestStuckMachinesDoNotDelayOthers floods a thousand machines of which only one reads:
// it gets every frame, and what waits for the others is bounded.
func TestStuckMachinesDoNotDelayOthers(t *testing.T) {
	const total = 300
	c := newCrowd(t, Options{TotalBytes: 1 << 20}, 1000, true)
	for i := range total {
		f := frame(broadcast, crowdMAC(0), fmt.Sprint(i))
		c.guests[0].send(f)
		c.guests[999].want(f)
	}
	const bound = 1<<20 + 998*(reserve+smallFrame)
	if used := c.s.budget.used.Load(); used == 0 || used > bound {
		t.Errorf("got %d bytes in queues, want 1 to %d", used, bound)
	}
	if got := c.s.byName["999"].drops.load(); got != (Drops{}) {
		t.Errorf("got drops %+v of the machine that reads, want none", got)
	}
	if err := c.s.Close(); err != nil {
		t.Fatal(err)
	}
	if used := c.s.budget.used.Load(); used != 0 {
		t.Errorf("got %d bytes in queues after Close, want none", used)
	}
}

// TestFullMachineIsNotAskedAgain checks that a port waits until its machine reads, and
// does not try again and again.
func TestFullMachineIsNotAskedAgain(t *testing.T) {
	s, _, g := lab(t, Options{}, 3, nil)
	stuck := s.byName["c"]
	var tries atomic.Int64
	stuck.mu.Lock()
	try := stuck.tryWait
	stuck.tryWait = func(fd uintptr) bool {
		tries.Add(1)
		return try(fd)
	}
	stuck.mu.Unlock()
	flood := func(frames int) {
		for i := range frames {
			f := frame(broadcast, station(1), fmt.Sprint(i))
			g[0].send(f)
			g[1].want(f)
		}
	}
	flood(64)
	eventually(t, "the writer waits", func() bool { return tries.Load() > 0 })
	before := tries.Load()
	flood(512)
	// Systems that do not report room again are asked after growing pauses.
	if got := tries.Load() - before; runtime.GOOS == "linux" && got > 1 {
		t.Errorf("got %d attempts while the machine does not read, want none", got)
	}
	if st := stuck.stats(); st.Queued < 512 {
		t.Errorf("got %d queued frames, want at least 512", st.Queued)
	}
}

// TestIdlePortsAreCheap measures what a port costs while nothing moves, before and after
// its machine has received a burst.
func TestIdlePortsAreCheap(t *testing.T) {
	const ports = 1000
	goroutines, before := runtime.NumGoroutine(), memory()
	c := newCrowd(t, Options{}, ports, false)
	after := memory()
	perPort := (after - before) / ports
	t.Logf("an idle port costs %d bytes", perPort)
	if perPort > 8<<10 {
		t.Errorf("got %d bytes for each idle port, want at most 8 KiB: the buffer of a frame alone has 9", perPort)
	}
	if got := runtime.NumGoroutine() - goroutines; got > ports {
		t.Errorf("got %d goroutines for %d ports, want one each", got, ports)
	}
	// The machines come, receive a burst that they do not read at once, and fall silent.
	for _, config := range c.configs {
		c.guests = append(c.guests, plug(t, config))
	}
	const burst = 20
	for range burst {
		c.guests[0].send(frame(broadcast, crowdMAC(0), strings.Repeat("x", 1400)))
	}
	for _, g := range c.guests[1:] {
		for range burst {
			g.receive()
		}
	}
	eventually(t, "the writers end", func() bool { return runtime.NumGoroutine()-goroutines <= ports })
	if used := c.s.budget.used.Load(); used != 0 {
		t.Errorf("got %d bytes in queues of idle ports, want none", used)
	}
}

// memory returns the bytes in use by the heap and by stacks.
func memory() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // empties the pools
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// TestPlugCostDoesNotGrow compares what plugging, plugging again and unplugging one port
// allocates among ten and among a thousand ports.
func TestPlugCostDoesNotGrow(t *testing.T) {
	var costs [2]struct{ again, change float64 }
	for i, ports := range []int{10, 1000} {
		c := newCrowd(t, Options{}, ports, false)
		config := c.configs[5]
		costs[i].again = testing.AllocsPerRun(20, func() {
			if err := c.s.AddPort(config); err != nil {
				t.Fatal(err)
			}
		})
		costs[i].change = allocated(20, func() {
			c.s.RemovePort(config.Name)
			if err := c.s.AddPort(config); err != nil {
				t.Fatal(err)
			}
		})
	}
	few, many := costs[0], costs[1]
	if many.again > few.again {
		t.Errorf("plugging a port again: got %v allocations among 1000, want at most %v as among 10", many.again, few.again)
	}
	// One byte for each other port would exceed this.
	if many.change > few.change+900 {
		t.Errorf("replugging a port: got %v bytes among 1000, want about %v as among 10", many.change, few.change)
	}
}

// allocated returns the bytes that f allocates, the least of some runs.
func allocated(runs int, f func()) float64 {
	least := ^uint64(0)
	for range runs {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	return float64(least)
}

// BenchmarkUnicast sends frames between two of many ports.
func BenchmarkUnicast(b *testing.B) {
	for _, ports := range []int{2, 1000} {
		b.Run(fmt.Sprint(ports), func(b *testing.B) {
			c := newCrowd(b, Options{}, ports, false)
			to := plug(b, c.configs[1])
			f := frame(crowdMAC(1), crowdMAC(0), strings.Repeat("x", 1400))
			in := c.s.byName["0"]
			buf := make([]byte, 2048)
			b.ReportAllocs()
			for b.Loop() {
				c.s.forward(in, f)
				if _, err := to.conn.Read(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDiscover forwards a client's broadcast to DHCP servers.
func BenchmarkDiscover(b *testing.B) {
	benchmarkToServer(b, func() []byte { return from(crowdMAC(5), udp(68, 67)) })
}

// BenchmarkARP forwards a machine's ARP request for the server.
func BenchmarkARP(b *testing.B) {
	benchmarkToServer(b, func() []byte { return arpFrame(crowdMAC(5), crowdAddress(5).String(), crowdAddress(0).String()) })
}

func benchmarkToServer(b *testing.B, build func() []byte) {
	for _, ports := range []int{10, 1000} {
		b.Run(fmt.Sprint(ports), func(b *testing.B) {
			c := newCrowd(b, Options{}, ports, false)
			server := plug(b, c.configs[0])
			in, f, buf := c.s.byName["5"], build(), make([]byte, 2048)
			before := c.deliveries()
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				c.s.forward(in, f)
				if _, err := server.conn.Read(buf); err != nil {
					b.Fatal(err)
				}
				n++
			}
			b.ReportMetric(float64(c.deliveries()-before)/float64(n), "copies/op")
		})
	}
}

// BenchmarkReplug unplugs and plugs one of many ports.
func BenchmarkReplug(b *testing.B) {
	for _, ports := range []int{10, 1000} {
		b.Run(fmt.Sprint(ports), func(b *testing.B) {
			c := newCrowd(b, Options{}, ports, false)
			for b.Loop() {
				c.s.RemovePort("5")
				if err := c.s.AddPort(c.configs[5]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
