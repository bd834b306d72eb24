// SPDX-License-Identifier: Apache-2.0

package imagestream

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/cespare/xxhash/v2"
	"github.com/zeebo/blake3"
)

func addressOf(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// seal writes the digest of a frame to its index entry.
func seal(entry, frame []byte) {
	d := blake3.Sum256(frame)
	copy(entry[32:], d[:])
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchImage returns the raw disk image at the path in PXELAB_BENCH_IMAGE, or a
// generated one.
func benchImage(b *testing.B) (io.ReaderAt, int64) {
	path := os.Getenv("PXELAB_BENCH_IMAGE")
	if path == "" {
		image := testImage(64<<20, 1)
		return bytes.NewReader(image), int64(len(image))
	}
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.Close() })
	info, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	return f, info.Size()
}

var benchLevels = map[string]int{"fastest": 1, "default": 3, "better": 7}

func BenchmarkWrite(b *testing.B) {
	src, size := benchImage(b)
	for name, level := range benchLevels {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				h, blob := mustWrite(b, src, size, Options{Level: level})
				b.SetBytes(h.DataBytes)
				b.ReportMetric(float64(len(blob))/float64(h.DataBytes), "ratio")
			}
		})
	}
}

// BenchmarkDigest compares hashes that could bind the compressed bytes to the
// index.
func BenchmarkDigest(b *testing.B) {
	data := make([]byte, DefaultChunkSize)
	for name, sum := range map[string]func([]byte){
		"sha256":   func(b []byte) { sha256.Sum256(b) },
		"blake3":   func(b []byte) { blake3.Sum256(b) },
		"xxhash64": func(b []byte) { xxhash.Sum64(b) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				sum(data)
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	src, size := benchImage(b)
	for name, level := range benchLevels {
		h, blob := mustWrite(b, src, size, Options{Level: level})
		b.Run(name, func(b *testing.B) {
			b.SetBytes(h.DataBytes)
			before := cpuTime()
			n := 0
			for ; b.Loop(); n++ {
				r, err := NewReader(bytes.NewReader(blob), h.Digest())
				if err != nil {
					b.Fatal(err)
				}
				for {
					c, err := r.Next()
					if errors.Is(err, io.EOF) {
						break
					}
					if err != nil {
						b.Fatal(err)
					}
					c.Release()
				}
				r.Close()
			}
			// On a busy machine, CPU time is more meaningful than wall-clock time.
			b.ReportMetric(float64(h.DataBytes)*float64(n)/1e6/(cpuTime()-before).Seconds(), "MB/cpu-s")
		})
	}
}
