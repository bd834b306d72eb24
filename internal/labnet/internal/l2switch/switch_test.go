// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/pxelab/pxelab/internal/paths/pathstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// limit is how long a test waits for an event.
const limit = 30 * time.Second

var broadcast = mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func station(n byte) mac { return mac{0x52, 0x54, 0, 0, 0, n} }

func frame(dst, src mac, payload string) []byte {
	b := append(append([]byte{}, dst[:]...), src[:]...)
	b = binary.BigEndian.AppendUint16(b, 0x88b5) // local experimental
	return append(b, payload...)
}

// guest is the machine's end of a port, as in QEMU.
type guest struct {
	t    testing.TB
	conn *net.UnixConn
	to   *net.UnixAddr
}

func portConfig(dir, name string) PortConfig {
	return PortConfig{Name: name, Local: filepath.Join(dir, name+".sw"), Remote: filepath.Join(dir, name+".qemu")}
}

func plug(t testing.TB, c PortConfig) *guest {
	t.Helper()
	_ = os.Remove(c.Remote) // as QEMU does
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: c.Remote, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetWriteBuffer(socketBuffer)
	_ = conn.SetReadBuffer(socketBuffer)
	t.Cleanup(func() { _ = conn.Close() })
	return &guest{t: t, conn: conn, to: &net.UnixAddr{Name: c.Local, Net: "unixgram"}}
}

func (g *guest) send(b []byte) {
	g.t.Helper()
	if _, err := g.conn.WriteToUnix(b, g.to); err != nil {
		g.t.Fatal(err)
	}
}

func (g *guest) receive() []byte {
	g.t.Helper()
	_ = g.conn.SetReadDeadline(time.Now().Add(limit))
	b := make([]byte, 1<<16)
	n, err := g.conn.Read(b)
	if err != nil {
		g.t.Fatal(err)
	}
	return b[:n]
}

func (g *guest) want(b []byte) {
	g.t.Helper()
	if diff := cmp.Diff(b, g.receive()); diff != "" {
		g.t.Fatalf("received frame (-want +got):\n%s", diff)
	}
}

// lab returns a switch with ports a, b, c... and their plugged-in guests.
func lab(t testing.TB, o Options, ports int, change func(*PortConfig)) (*Switch, []PortConfig, []*guest) {
	t.Helper()
	dir := pathstest.Short(t)
	s := New(o)
	t.Cleanup(func() { _ = s.Close() })
	var configs []PortConfig
	var guests []*guest
	for i := range ports {
		c := portConfig(dir, string(rune('a'+i)))
		if change != nil {
			change(&c)
		}
		if err := s.AddPort(c); err != nil {
			t.Fatal(err)
		}
		configs = append(configs, c)
		guests = append(guests, plug(t, c))
	}
	return s, configs, guests
}

func stats(t testing.TB, s *Switch, name string) PortStats {
	t.Helper()
	for _, st := range s.Stats() {
		if st.Name == name {
			return st
		}
	}
	t.Fatalf("got no port %s, want one", name)
	return PortStats{}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("timeout: got no change, want that %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestFloodsAndLearns(t *testing.T) {
	s, _, g := lab(t, Options{}, 3, nil)
	a, b, c := g[0], g[1], g[2]

	hello := frame(broadcast, station(1), "who is there")
	a.send(hello)
	b.want(hello)
	c.want(hello)

	// The address of a is known, so that c does not receive the answer of b.
	answer := frame(station(1), station(2), "me")
	b.send(answer)
	a.want(answer)

	// Unknown unicast and multicast are flooded; they are what c receives next,
	// not the answer.
	unknown := frame(station(9), station(1), "unknown")
	a.send(unknown)
	b.want(unknown)
	c.want(unknown)
	group := frame(mac{0x33, 0x33, 0, 0, 0, 1}, station(1), "multicast")
	a.send(group)
	b.want(group)
	c.want(group)

	// A machine that moved is found at its new port.
	moved := frame(broadcast, station(1), "moved")
	c.send(moved)
	a.want(moved)
	b.want(moved)
	b.send(answer)
	c.want(answer)

	got := stats(t, s, "a")
	if got.RxFrames != 3 {
		t.Errorf("port a: got %d received frames, want 3", got.RxFrames)
	}
	if got.TxFrames != 2 {
		t.Errorf("port a: got %d sent frames, want 2", got.TxFrames)
	}
	if got.Drops != (Drops{}) {
		t.Errorf("port a: got drops %+v, want none", got.Drops)
	}
}

func TestAgedAddressIsFlooded(t *testing.T) {
	var tab table
	tab.init(time.Minute, 4)
	p := &port{}
	tab.lock(p, policy{})
	now := time.Now()
	if got := tab.learn(p, station(1), now); got != learned {
		t.Fatalf("learn = %v, want %v", got, learned)
	}
	if tab.lookup(station(1), now.Add(59*time.Second)) != p {
		t.Error("address is unknown before its age, want it known")
	}
	if tab.lookup(station(1), now.Add(61*time.Second)) != nil {
		t.Error("address is known beyond its age, want it unknown")
	}
}

func TestTableIsBoundedPerPort(t *testing.T) {
	var tab table
	tab.init(time.Minute, 8)
	hostile, honest := &port{}, &port{}
	tab.lock(hostile, policy{})
	tab.lock(honest, policy{})
	now := time.Now()
	for i := range 10000 {
		tab.learn(hostile, mac{2, 0, 0, 0, byte(i >> 8), byte(i)}, now)
	}
	if got := tab.count(hostile); got != 8 {
		t.Errorf("got %d addresses of the hostile port, want 8", got)
	}
	if got := tab.learn(honest, station(1), now); got != learned {
		t.Errorf("learn of another port = %v, want %v", got, learned)
	}
	later := now.Add(2 * time.Minute)
	if got := tab.learn(hostile, station(2), later); got != learned {
		t.Errorf("learn after the old addresses aged = %v, want %v", got, learned)
	}
	if got := tab.count(hostile); got != 1 {
		t.Errorf("got %d addresses after ageing, want 1", got)
	}
	tab.forget(hostile)
	tab.forget(honest)
	if len(tab.entries)+hostile.macs.count()+honest.macs.count() != 0 {
		t.Errorf("got entries %v after forget, want none", tab.entries)
	}
}

func TestManyAddressesLoseNoFrames(t *testing.T) {
	s, _, g := lab(t, Options{MaxMACs: 4}, 2, nil)
	for i := range byte(20) {
		f := frame(broadcast, station(i), "x")
		g[0].send(f)
		g[1].want(f)
	}
	got := stats(t, s, "a")
	if got.LearnedMACs != 4 {
		t.Errorf("port a: got %d learned MACs, want 4", got.LearnedMACs)
	}
	if got.Unlearned != 16 {
		t.Errorf("port a: got %d unlearned MACs, want 16", got.Unlearned)
	}
}

func TestMachineRestart(t *testing.T) {
	s, c, g := lab(t, Options{}, 2, nil)
	f := frame(broadcast, station(1), "x")
	g[0].send(f)
	g[1].want(f)

	_ = g[1].conn.Close()
	g[0].send(f)
	eventually(t, "a frame to a dead machine is counted", func() bool {
		return stats(t, s, "b").Drops.PeerAbsent == 1
	})

	// The new machine is received immediately; it receives after its first frame.
	restarted := plug(t, c[1])
	restarted.send(frame(broadcast, station(2), "back"))
	g[0].want(frame(broadcast, station(2), "back"))
	g[0].send(f)
	restarted.want(f)

	// A machine that sends nothing is found as well.
	_ = restarted.conn.Close()
	g[0].send(f)
	silent := plug(t, c[1])
	eventually(t, "frames reach the silent machine", func() bool {
		g[0].send(f)
		_ = silent.conn.SetReadDeadline(time.Now().Add(absentPause))
		_, err := silent.conn.Read(make([]byte, 100))
		return err == nil
	})
}

func TestSwitchRestart(t *testing.T) {
	first, c, g := lab(t, Options{}, 2, nil)
	f := frame(broadcast, station(1), "x")
	g[0].send(f)
	g[1].want(f)

	// The sockets of a running switch are not replaced.
	second := New(Options{})
	defer second.Close()
	if err := second.AddPort(c[0]); !errors.Is(err, ErrInUse) {
		t.Fatalf("AddPort with sockets in use = %v, want ErrInUse", err)
	}

	// A killed switch leaves its files; simulated by closing only the sockets.
	for _, p := range first.ports.list() {
		_ = p.rx.Close()
	}
	for i := range c {
		if err := second.AddPort(c[i]); err != nil {
			t.Fatal(err)
		}
	}
	g[0].send(f)
	g[1].want(f)

	// The late clean-up of the first switch does not affect the second.
	_ = first.Close()
	g[0].send(f)
	g[1].want(f)
	_ = second.Close()
	for i := range c {
		if _, err := os.Lstat(c[i].Local); !os.IsNotExist(err) {
			t.Errorf("socket after removal: got %v, want it removed", err)
		}
	}
}

func TestStuckMachineDoesNotDelayOthers(t *testing.T) {
	const queued, total = 32, 4096
	s, _, g := lab(t, Options{QueueFrames: queued}, 3, nil)
	// Every broadcast reaches b in order although c does not read.
	for i := range total {
		f := frame(broadcast, station(1), fmt.Sprint(i))
		g[0].send(f)
		g[1].want(f)
	}
	stuck := stats(t, s, "c")
	if stuck.Drops.QueueFull == 0 {
		t.Error("stuck port: got no drops of a full queue, want some")
	}
	if stuck.Queued > queued+1 {
		t.Errorf("stuck port: got %d queued frames, want at most %d", stuck.Queued, queued+1)
	}
	healthy := stats(t, s, "b")
	if healthy.Drops != (Drops{}) {
		t.Errorf("healthy port: got drops %+v, want none", healthy.Drops)
	}
	if healthy.TxFrames != total {
		t.Errorf("healthy port: got %d sent frames, want %d", healthy.TxFrames, total)
	}
	// When c reads again it gets the oldest frames first, and every frame is
	// accounted for.
	got := 0
	for range total - int(stuck.Drops.QueueFull) {
		f := g[2].receive()
		var n int
		if _, err := fmt.Sscan(string(f[ethHeader:]), &n); err != nil || n < got {
			t.Fatalf("got frame %q (%v), want a number of at least %d", f[ethHeader:], err, got)
		}
		got = n
	}
	eventually(t, "the queue is empty", func() bool {
		st := stats(t, s, "c")
		return st.Queued == 0 && st.TxFrames+st.Drops.QueueFull == total
	})
}

func TestRemovingStuckPortReturns(t *testing.T) {
	s, c, g := lab(t, Options{QueueFrames: 8}, 2, nil)
	eventually(t, "the queue is full", func() bool {
		g[0].send(frame(broadcast, station(1), "x"))
		return stats(t, s, "b").Drops.QueueFull > 0
	})
	s.RemovePort("b")
	s.RemovePort("b")
	if _, err := os.Lstat(c[1].Local); !os.IsNotExist(err) {
		t.Errorf("socket after removal: got %v, want it removed", err)
	}
}

func TestFrameSizes(t *testing.T) {
	s, _, g := lab(t, Options{MTU: 9000}, 2, nil)
	big := frame(broadcast, station(1), strings.Repeat("j", 9000+vlanTags))
	g[0].send(big)
	g[1].want(big)
	g[0].send(append(big, 'x'))
	g[0].send(big[:ethHeader-1])
	g[0].send(frame(broadcast, mac{}, "no source"))
	g[0].send(frame(broadcast, broadcast, "group source"))
	g[0].send(big) // still forwards
	g[1].want(big)
	want := Drops{Oversize: 1, Runt: 1, BadSource: 2}
	if diff := cmp.Diff(want, stats(t, s, "a").Drops); diff != "" {
		t.Errorf("drops (-want +got):\n%s", diff)
	}
}

func TestPolicyLocksMAC(t *testing.T) {
	locked := station(1)
	s, c, g := lab(t, Options{}, 3, func(c *PortConfig) {
		if c.Name == "a" {
			c.Policy = Policy{MAC: locked[:], DenyDHCP: true, DenyRouter: true}
		}
	})
	a, b, other := g[0], g[1], g[2]

	// Port a may only use its own address, and b may not use that of a.
	a.send(frame(broadcast, station(7), "spoof"))
	b.send(frame(broadcast, locked, "steal"))
	a.send(udp(67, 68))
	ok := frame(broadcast, locked, "honest")
	a.send(ok)
	b.want(ok)
	other.want(ok)
	reply := frame(locked, station(2), "reply")
	b.send(reply)
	a.want(reply)
	if got := stats(t, s, "a").Drops; got != (Drops{Spoofed: 1, DHCPServer: 1}) {
		t.Errorf("got drops %+v of a, want 1 spoofed and 1 DHCP server", got)
	}
	if got := stats(t, s, "b").Drops; got != (Drops{Spoofed: 1}) {
		t.Errorf("got drops %+v of b, want 1 spoofed", got)
	}

	// No other port may be locked to the MAC.
	taken := c[1]
	taken.Policy.MAC = locked[:]
	if err := s.AddPort(taken); !errors.Is(err, ErrMACTaken) {
		t.Errorf("AddPort with a locked MAC = %v, want ErrMACTaken", err)
	}
	// The policy is replaced in place.
	free := c[0]
	free.Policy = Policy{}
	if err := s.AddPort(free); err != nil {
		t.Fatal(err)
	}
	spoof := frame(broadcast, station(7), "no policy")
	a.send(spoof)
	b.want(spoof)
	other.want(spoof)
	if err := s.AddPort(taken); err != nil {
		t.Errorf("AddPort with a released MAC = %v, want nil", err)
	}
}

func TestAddPortRejects(t *testing.T) {
	dir := pathstest.Short(t)
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	shared := filepath.Join(dir, "shared")
	if err := os.Mkdir(shared, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(shared, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	local, remote := filepath.Join(dir, "s"), filepath.Join(dir, "r")
	long := filepath.Join(dir, strings.Repeat("x", 100))
	tests := []struct {
		name   string
		config PortConfig
		want   string
	}{
		{"no name", PortConfig{Local: "x", Remote: "y"}, "name is empty"},
		{"no socket", PortConfig{Name: "p", Remote: remote}, "shorter runtime directory"},
		{"long path", PortConfig{Name: "p", Local: long, Remote: remote}, "shorter runtime directory"},
		{"both ends", PortConfig{Name: "p", Local: remote, Remote: remote}, "both ends"},
		{"a file", PortConfig{Name: "p", Local: filepath.Join(dir, "file"), Remote: remote}, "is not a socket"},
		{"open directory", PortConfig{Name: "p", Local: filepath.Join(open, "s"), Remote: remote}, "chmod 700"},
		{"shared directory", PortConfig{Name: "p", Local: filepath.Join(shared, "s"), Remote: remote}, "directory is not private"},
		{"group MAC", PortConfig{Name: "p", Local: local, Remote: remote, Policy: Policy{MAC: broadcast[:]}}, "unicast"},
		{"long MAC", PortConfig{Name: "p", Local: local, Remote: remote, Policy: Policy{MAC: make([]byte, 8)}}, "unicast"},
		{"no MAC", PortConfig{Name: "p", Local: local, Remote: remote, Policy: Policy{MAC: make([]byte, 6)}}, "unicast"},
		{
			"address without MAC",
			PortConfig{Name: "p", Local: local, Remote: remote, Policy: Policy{Addresses: []netip.Addr{netip.MustParseAddr("10.88.0.1")}}},
			"no MAC",
		},
		{
			"IPv6 address",
			PortConfig{Name: "p", Local: local, Remote: remote, Policy: Policy{MAC: make([]byte, 6), Addresses: []netip.Addr{netip.IPv6Loopback()}}},
			"is not an IPv4 address",
		},
	}
	s := New(Options{})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := s.AddPort(tt.config); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("AddPort = %v, want an error with %q", err, tt.want)
			}
		})
	}
	_ = s.Close()
	_ = s.Close()
	if err := s.AddPort(portConfig(dir, "late")); !errors.Is(err, ErrClosed) {
		t.Errorf("AddPort after Close = %v, want ErrClosed", err)
	}
}

func TestAddPortIsIdempotentAndMoves(t *testing.T) {
	s, c, g := lab(t, Options{}, 2, nil)
	if err := s.AddPort(c[0]); err != nil {
		t.Fatal(err)
	}
	f := frame(broadcast, station(1), "x")
	g[0].send(f)
	g[1].want(f)
	info, err := os.Lstat(c[0].Local)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("socket: got mode %v, want 0600", mode)
	}

	moved := PortConfig{Name: "a", Local: c[0].Local + "2", Remote: c[0].Remote + "2"}
	if err := s.AddPort(moved); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(c[0].Local); !os.IsNotExist(err) {
		t.Errorf("old socket after the move: got %v, want it removed", err)
	}
	at := plug(t, moved)
	at.send(f)
	g[1].want(f)
}

func TestCapture(t *testing.T) {
	s, _, g := lab(t, Options{}, 2, nil)
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Capture(ctx, w) }()

	head := make([]byte, 24)
	if _, err := io.ReadFull(r, head); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(pcapHeader(1522), head); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	f := frame(broadcast, station(1), "look at me")
	g[0].send(f)
	rec := make([]byte, 16+len(f))
	if _, err := io.ReadFull(r, rec); err != nil {
		t.Fatal(err)
	}
	if got := int(binary.LittleEndian.Uint32(rec[8:])); got != len(f) {
		t.Errorf("got a record of %d bytes, want %d", got, len(f))
	}
	if diff := cmp.Diff(f, rec[16:]); diff != "" {
		t.Errorf("captured frame (-want +got):\n%s", diff)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Capture = %v, want nil", err)
	}

	// Closing the switch ends captures, and a write failure is an error.
	go func() { ended <- s.Capture(t.Context(), io.Discard) }()
	eventually(t, "the capture is attached", func() bool { return len(*s.captures.Load()) == 1 })
	_ = r.Close()
	if err := s.Capture(t.Context(), w); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Capture into a closed pipe = %v, want ErrClosedPipe", err)
	}
	_ = s.Close()
	if err := <-ended; err != nil {
		t.Errorf("Capture = %v, want nil", err)
	}
	if err := s.Capture(t.Context(), io.Discard); !errors.Is(err, ErrClosed) {
		t.Errorf("Capture after Close = %v, want ErrClosed", err)
	}
}

func TestForwardDoesNotAllocate(t *testing.T) {
	s, _, g := lab(t, Options{}, 2, func(c *PortConfig) { c.Policy = guardedPolicy(10 + c.Name[0] - 'a') })
	p := s.byName["a"]
	f := changed(ip4(station(10), "10.88.0.10", 6, make([]byte, 1400)...), 0, 0x52, 0x54, 0, 0, 0, 11)
	buf := make([]byte, 2048)
	got := testing.AllocsPerRun(500, func() {
		s.forward(p, f)
		if _, err := g[1].conn.Read(buf); err != nil {
			t.Fatal(err)
		}
	})
	if got != 0 {
		t.Errorf("got %v allocations per frame, want 0", got)
	}
}

// TestPortsChangeUnderTraffic exercises concurrent changes for the race detector.
func TestPortsChangeUnderTraffic(t *testing.T) {
	s, c, g := lab(t, Options{QueueFrames: 16}, 3, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i, other := range g[:2] {
		wg.Go(func() {
			buf := make([]byte, 2048)
			for ctx.Err() == nil {
				_, _ = other.conn.WriteToUnix(frame(broadcast, station(byte(i)), "x"), other.to)
				_ = other.conn.SetReadDeadline(time.Now().Add(time.Millisecond))
				_, _ = other.conn.Read(buf)
			}
		})
	}
	for range 50 {
		s.RemovePort("c")
		if err := s.AddPort(c[2]); err != nil {
			t.Fatal(err)
		}
		eventually(t, "traffic passes", func() bool { return stats(t, s, "c").TxFrames > 0 || stats(t, s, "c").Queued > 0 })
		s.Stats()
	}
	cancel()
	wg.Wait()
}
