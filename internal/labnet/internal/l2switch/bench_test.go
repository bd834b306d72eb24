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
