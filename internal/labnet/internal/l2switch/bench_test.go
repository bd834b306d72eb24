// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/paths/pathstest"
)

// BenchmarkForward sends frames from one machine to another, through the switch
// and through a minimal forwarder: one goroutine that reads one socket and writes
// another. The metric "ratio" is the switch's rate relative to the forwarder's.
func BenchmarkForward(b *testing.B) {
	for name, size := range map[string]int{"64B": 64, "1500B": 1500, "9000B": 9000} {
		b.Run(name, func(b *testing.B) {
			plain := throughput(b, size, plainForward)
			switched := throughput(b, size, func(b *testing.B, c [2]PortConfig) {
				s := New(Options{MTU: 9000})
				b.Cleanup(func() { _ = s.Close() })
				for i := range c {
					if err := s.AddPort(c[i]); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.ReportMetric(switched, "frames/s")
			b.ReportMetric(switched*float64(size)/1e6, "MB/s")
			b.ReportMetric(switched/plain, "ratio")
		})
	}
}

func plainForward(b *testing.B, c [2]PortConfig) {
	in, _, err := bind(c[0].Local, c[0].Remote)
	if err != nil {
		b.Fatal(err)
	}
	out, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: c[1].Remote, Net: "unixgram"})
	if err != nil {
		b.Fatal(err)
	}
	_ = out.SetWriteBuffer(socketBuffer)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 16384)
		for {
			n, err := in.Read(buf)
			if err != nil {
				return
			}
			if _, err := out.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	b.Cleanup(func() { _ = in.Close(); _ = out.Close(); <-done })
}

// throughput returns the frames received per second, with a window of frames in
// flight so that none is dropped.
func throughput(b *testing.B, size int, forwarder func(*testing.B, [2]PortConfig)) float64 {
	dir := pathstest.Short(b)
	var c [2]PortConfig
	c[0], c[1] = portConfig(dir, "a"), portConfig(dir, "b")
	from, to := plug(b, c[0]), plug(b, c[1])
	forwarder(b, c)
	f := frame(station(2), station(1), strings.Repeat("x", size-ethHeader))

	window := make(chan struct{}, 64)
	done := make(chan error, 1)
	go func() {
		buf := make([]byte, 16384)
		for range b.N {
			if _, err := to.conn.Read(buf); err != nil {
				done <- err
				return
			}
			<-window
		}
		done <- nil
	}()
	sender, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: filepath.Join(dir, "a.sw"), Net: "unixgram"})
	if err != nil {
		b.Fatal(err)
	}
	defer sender.Close()
	_ = from
	b.ResetTimer()
	start := time.Now()
	for range b.N {
		window <- struct{}{}
		if _, err := sender.Write(f); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	return float64(b.N) / time.Since(start).Seconds()
}

// BenchmarkGuard measures what the switch decides for a frame, without sockets: with and
// without a policy. The metric "ratio" is the time with the guard relative to that without.
func BenchmarkGuard(b *testing.B) {
	tcp := changed(ip4(station(10), "10.88.0.10", 6, make([]byte, 1400)...), 0, 0x52, 0x54, 0, 0, 0, 11)
	tcp6 := changed(from(station(10), ipv6(6, make([]byte, 1400))), 14+sourceAddress, 0xfe, 0x80)
	for name, f := range map[string][]byte{"IPv4": tcp, "IPv6": changed(tcp6, 0, 0x52, 0x54, 0, 0, 0, 11)} {
		b.Run(name, func(b *testing.B) {
			p, _, guest, _ := guarded()
			free := guestPolicy(12)
			free.DenyDHCP, free.DenyRouter = false, false
			plain := p.add("plain", free)
			run := func(at *port, f []byte) time.Duration {
				start := time.Now()
				for range b.N {
					src := mac(f[6:12])
					if !p.s.admit(at, src, p.now) {
						b.Fatal("the frame is not admitted")
					}
					pk, pol := snoop(f), at.policy.Load()
					if p.s.refuse(at, pol, src, &pk, p.now) != nil {
						b.Fatal("the frame is refused")
					}
					d := p.s.decide(at, mac(f[:6]), &pk, p.now)
					if pol.limitRates && p.s.excess(at, &pk, d, p.now) != nil {
						b.Fatal("the frame is beyond the rates")
					}
				}
				return time.Since(start)
			}
			without := run(plain, from(station(12), f))
			b.ResetTimer()
			with := run(guest, f)
			b.ReportMetric(float64(with)/float64(without), "ratio")
		})
	}
}
