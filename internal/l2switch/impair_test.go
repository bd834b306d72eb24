// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func numbered(from mac, n int) []byte {
	return frame(broadcast, from, string(binary.BigEndian.AppendUint32(nil, uint32(n))))
}

func numberOf(f []byte) int { return int(binary.BigEndian.Uint32(f[ethHeader:])) }

func TestLossAndLatency(t *testing.T) {
	s, _, g := lab(t, Options{Impairment: Impairment{Loss: 1}}, 2, nil)
	f := frame(broadcast, station(1), "x")
	g[0].send(f)
	eventually(t, "the frame is lost", func() bool { return stats(t, s, "b").Drops.Impaired == 1 })

	const latency = 50 * time.Millisecond
	s.SetImpairment(Impairment{Latency: latency, Jitter: latency / 2})
	start := time.Now()
	for i := range 50 {
		g[0].send(numbered(station(1), i))
	}
	for i := range 50 {
		g[1].want(numbered(station(1), i))
	}
	if took := time.Since(start); took < latency/2 {
		t.Errorf("frames took %s, want at least %s", took, latency/2)
	}
	// What is on its way when the impairment ends still comes first.
	g[0].send(numbered(station(1), 1))
	eventually(t, "it is on its way", func() bool { return stats(t, s, "b").Queued > 0 })
	s.SetImpairment(Impairment{})
	g[0].send(numbered(station(1), 2))
	g[1].want(numbered(station(1), 1))
	g[1].want(numbered(station(1), 2))
}

// lostOf sends frames both ways and says which came through, by receiver.
func lostOf(t *testing.T, seed uint64) [2][]int {
	const frames = 400
	s, _, g := lab(t, Options{Seed: seed, Impairment: Impairment{Loss: 0.25}}, 2, nil)
	var through [2][]int
	for i := range frames {
		g[0].send(numbered(station(1), i))
		g[1].send(numbered(station(2), i))
	}
	for i, name := range []string{"a", "b"} {
		var st PortStats
		eventually(t, "all is accounted for", func() bool {
			st = stats(t, s, name)
			return st.TxFrames+uint64(st.Queued)+st.Drops.Impaired == frames
		})
		for range frames - st.Drops.Impaired {
			through[i] = append(through[i], numberOf(g[i].receive()))
		}
	}
	return through
}

func TestLossComesTheSameAgain(t *testing.T) {
	first := lostOf(t, 1)
	if diff := cmp.Diff(first, lostOf(t, 1)); diff != "" {
		t.Errorf("the same seed lost other frames:\n%s", diff)
	}
	if cmp.Equal(first, lostOf(t, 2)) || cmp.Equal(first[0], first[1]) {
		t.Error("another seed, or the other direction, lost the same frames")
	}
	for i, through := range first {
		// Far outside of what chance allows, and the seed leaves none.
		if len(through) < 250 || len(through) > 350 {
			t.Errorf("direction %d: %d of 400 frames came through a loss of a quarter", i, len(through))
		}
	}
}

func TestWhatIsDelayedIsBounded(t *testing.T) {
	const queued = 32
	s, _, g := lab(t, Options{QueueFrames: queued, Impairment: Impairment{Latency: time.Hour}}, 2, nil)
	const total = latencyRoom*queued + 10
	for i := range total {
		g[0].send(numbered(station(1), i))
	}
	eventually(t, "the rest is dropped", func() bool { return stats(t, s, "b").Drops.QueueFull == 10 })
	if st := stats(t, s, "b"); st.Queued != latencyRoom*queued {
		t.Errorf("%+v", st)
	}
}

// A transfer that repeats what is not acknowledged, as all do, goes on where
// it was when its switch was killed and another one came, through loss.
func TestTransferOutlivesTheSwitch(t *testing.T) {
	const blocks = 300
	impair := Options{Seed: 3, Impairment: Impairment{Loss: 0.05, Latency: time.Millisecond}}
	s, c, g := lab(t, impair, 2, nil)
	received := make(chan int)
	go func() {
		next := 0
		follow(g[1], func(n int) bool {
			if n == next {
				next++
				received <- next
			}
			// Into the void while there is no switch.
			_, _ = g[1].conn.WriteToUnix(numbered(station(2), next), g[1].to)
			return next < blocks
		})
	}()
	acked := make(chan int, 1)
	go follow(g[0], func(n int) bool {
		select {
		case acked <- n:
		default: // the next repetition will do
		}
		return n < blocks
	})
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	expired := time.After(limit)
	for next, got := 0, 0; got < blocks; {
		select {
		case next = <-acked:
		case got = <-received:
			if got == blocks/3 || got == 2*blocks/3 {
				s = restart(t, s, c, impair)
			}
			continue
		case <-again.C:
		case <-expired:
			t.Fatalf("stuck after %d of %d blocks", got, blocks)
		}
		_, _ = g[0].conn.WriteToUnix(numbered(station(1), next), g[0].to)
	}
}

// follow calls seen with the number of each frame that arrives, until it says
// false or the guest is unplugged.
func follow(g *guest, seen func(int) bool) {
	b := make([]byte, 1<<16)
	for {
		n, err := g.conn.Read(b)
		if err != nil || !seen(numberOf(b[:n])) {
			return
		}
	}
}

// restart kills a switch, which leaves its sockets behind, and starts another.
func restart(t *testing.T, dying *Switch, ports []PortConfig, o Options) *Switch {
	t.Helper()
	for _, p := range *dying.ports.Load() {
		_ = p.rx.Close()
	}
	next := New(o)
	t.Cleanup(func() { _ = next.Close() })
	for _, c := range ports {
		if err := next.AddPort(c); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(c.Local); errors.Is(err, os.ErrNotExist) {
			t.Fatal(fmt.Errorf("socket of %s: %w", c.Name, err))
		}
	}
	_ = dying.Close()
	return next
}
