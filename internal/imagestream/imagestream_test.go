// SPDX-License-Identifier: Apache-2.0

package imagestream

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// buffer is a blob in memory.
type buffer struct{ b []byte }

func (w *buffer) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(w.b) {
		w.b = append(w.b, make([]byte, need-len(w.b))...)
	}
	return copy(w.b[off:], p), nil
}

func mustWrite(t testing.TB, src io.ReaderAt, size int64, opts Options) (*Header, []byte) {
	t.Helper()
	var out buffer
	h, err := Write(t.Context(), &out, src, size, opts)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(out.b)) != h.Size {
		t.Fatalf("got a blob of %d bytes, want %d as in its header", len(out.b), h.Size)
	}
	return h, out.b
}

// decode writes a blob to a disk of zeros and returns the disk.
func decode(t testing.TB, blob []byte, pin string) ([]byte, *Layout) {
	t.Helper()
	r, err := NewReader(bytes.NewReader(blob), pin)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	disk := make([]byte, r.Header().VirtualSize)
	var l Layout
	for {
		c, err := r.Next()
		if errors.Is(err, io.EOF) {
			return disk, &l
		}
		if err != nil {
			t.Fatal(err)
		}
		l.Add(c)
		for _, s := range c.Segments {
			copy(disk[s.Offset:], s.Data)
		}
		c.Release()
	}
}

// testImage returns an image with text, noise and zeros in runs of blocks.
func testImage(size int, seed uint64) []byte {
	rnd := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, size)
	for at := 0; at < size; {
		n := min(size-at, BlockSize*(1+rnd.IntN(60))+rnd.IntN(BlockSize))
		part := b[at : at+n]
		switch rnd.IntN(4) {
		case 0:
			for i := range part {
				part[i] = byte(rnd.Uint32())
			}
		case 1:
			copy(part, bytes.Repeat([]byte("the quick brown fox "), n/20+1))
		}
		at += n
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	full := bytes.Repeat([]byte{7}, 1<<20)
	tests := map[string]struct {
		image []byte
		opts  Options
	}{
		"mixed":           {testImage(9<<20, 1), Options{}},
		"odd size":        {testImage(5<<20+777, 2), Options{}},
		"small chunks":    {testImage(3<<20+512, 3), Options{ChunkSize: 64 << 10}},
		"all zero":        {make([]byte, 10<<20), Options{}},
		"no zero":         {full, Options{ChunkSize: 64 << 10}},
		"one byte":        {[]byte{1}, Options{}},
		"last byte only":  {append(make([]byte, 8<<20), 1), Options{}},
		"high level":      {testImage(2<<20, 4), Options{Level: 11}},
		"one byte, empty": {[]byte{0}, Options{}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			h, blob := mustWrite(t, bytes.NewReader(tc.image), int64(len(tc.image)), tc.opts)
			disk, layout := decode(t, blob, h.Digest())
			if !bytes.Equal(disk, tc.image) {
				t.Fatal("decoded disk: got other bytes, want those of the image")
			}
			read, err := ReadHeader(bytes.NewReader(blob), h.Digest())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(h, read, cmp.AllowUnexported(Header{})); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
			if err := h.Verify(t.Context(), bytes.NewReader(disk), layout, nil); err != nil {
				t.Errorf("Verify of the written disk: got error %v, want none", err)
			}
			_, again := mustWrite(t, bytes.NewReader(tc.image), int64(len(tc.image)), tc.opts)
			if !bytes.Equal(blob, again) {
				t.Error("second Write of one image: got another blob, want the same")
			}
		})
	}
}

func TestSegmentsAreAligned(t *testing.T) {
	image := testImage(6<<20, 5)
	h, blob := mustWrite(t, bytes.NewReader(image), int64(len(image)), Options{ChunkSize: 128 << 10})
	r, err := NewReader(bytes.NewReader(blob), h.Digest())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for {
		c, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range c.Segments {
			for what, value := range map[string]int64{
				"offset": s.Offset, "address": int64(addressOf(s.Data)), "length": int64(len(s.Data)),
			} {
				if value%BlockSize != 0 {
					t.Fatalf("segment at %d: got %s %#x, want a multiple of %d", s.Offset, what, value, BlockSize)
				}
			}
		}
		c.Release()
	}
}

func TestWriteSkipsHoles(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	const size = 64 << 30 // too large to read within the test
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 5 << 30, size - 512} {
		if _, err := f.WriteAt(bytes.Repeat([]byte{0xaa}, 512), at); err != nil {
			t.Fatal(err)
		}
	}
	h, blob := mustWrite(t, f, size, Options{})
	var offsets []int64
	r, err := NewReader(bytes.NewReader(blob), h.Digest())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for {
		c, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range c.Segments {
			offsets = append(offsets, s.Offset)
		}
	}
	if diff := cmp.Diff([]int64{0, 5 << 30, size - BlockSize}, offsets); diff != "" {
		t.Errorf("segments (-want +got):\n%s", diff)
	}
	if h.DataBytes > 3*BlockSize {
		t.Errorf("got %d bytes of data, want at most three blocks", h.DataBytes)
	}
}

func TestReaderResumes(t *testing.T) {
	image := testImage(6<<20, 6)
	h, blob := mustWrite(t, bytes.NewReader(image), int64(len(image)), Options{ChunkSize: 256 << 10})
	broken := errors.New("connection reset")
	src := func(from, n int64) io.Reader {
		n = min(n, int64(len(blob))-from)
		return io.MultiReader(bytes.NewReader(blob[from:from+n]), iotest.ErrReader(broken))
	}
	r, err := NewReader(src(0, h.FramesOffset()+10), h.Digest())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	disk := make([]byte, len(image))
	breaks := 0
	for {
		c, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, broken) {
			if errors.Is(err, ErrCorrupt) {
				t.Fatalf("read error: got %v, want one that does not wrap ErrCorrupt", err)
			}
			breaks++
			r.Reset(src(r.Offset(), 300_000))
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range c.Segments {
			copy(disk[s.Offset:], s.Data)
		}
		c.Release()
	}
	if breaks < 3 {
		t.Errorf("got %d interruptions, want at least 3", breaks)
	}
	if !bytes.Equal(disk, image) {
		t.Errorf("disk after %d interruptions: got other bytes, want those of the image", breaks)
	}
	if r.Offset() != h.Size {
		t.Errorf("got offset %d at the end, want %d", r.Offset(), h.Size)
	}
}

func TestReaderDetectsDamage(t *testing.T) {
	image := testImage(2<<20, 7)
	h, blob := mustWrite(t, bytes.NewReader(image), int64(len(image)), Options{ChunkSize: 256 << 10})
	read := func(b []byte, pin string) error {
		r, err := NewReader(bytes.NewReader(b), pin)
		if err != nil {
			return err
		}
		defer r.Close()
		for {
			if _, err := r.Next(); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
		}
	}
	for at := range len(blob) {
		if at > 256 && at%4999 != 0 {
			continue
		}
		bad := bytes.Clone(blob)
		bad[at] ^= 0x40
		if err := read(bad, h.Digest()); err == nil {
			t.Errorf("got no error for a flipped bit in byte %d, want one", at)
		}
	}
	for at := range len(blob) {
		if at%9973 == 0 && read(blob[:at], h.Digest()) == nil {
			t.Errorf("got no error for a blob truncated at byte %d, want one", at)
		}
	}
	if err := read(blob, "sha256:00"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("wrong pin: got %v, want %v", err, ErrCorrupt)
	}
}

func TestVerifyDetectsDifferences(t *testing.T) {
	image := testImage(3<<20, 8)
	h, blob := mustWrite(t, bytes.NewReader(image), int64(len(image)), Options{ChunkSize: 256 << 10})
	disk, layout := decode(t, blob, h.Digest())
	at := h.Frames[2].DiskOffset
	for disk[at] == 0 {
		at++
	}
	disk[at] ^= 1
	var wrong *MismatchError
	if err := h.Verify(t.Context(), bytes.NewReader(disk), layout, nil); !errors.As(err, &wrong) || wrong.Frame != 2 {
		t.Errorf("got %v, want a mismatch of frame 2", err)
	}
	if err := h.Verify(t.Context(), bytes.NewReader(disk), &Layout{}, nil); err == nil {
		t.Error("got no error for an empty layout, want one")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Verify(ctx, bytes.NewReader(disk), layout, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// changing returns zeros from the second read on.
type changing struct {
	*bytes.Reader
	reads int
}

func (c *changing) ReadAt(b []byte, at int64) (int, error) {
	n, err := c.Reader.ReadAt(b, at)
	if c.reads++; c.reads > 1 {
		clear(b)
	}
	return n, err
}

func TestWriteFails(t *testing.T) {
	one := bytes.NewReader([]byte{1})
	tests := map[string]struct {
		src  io.ReaderAt
		size int64
		opts Options
		want error
	}{
		"size zero":     {one, 0, Options{}, nil},
		"negative size": {one, -1, Options{}, nil},
		"huge":          {one, maxVirtual + 1, Options{}, nil},
		"odd chunk":     {one, 1, Options{ChunkSize: 100_000}, nil},
		"large chunk":   {one, 1, Options{ChunkSize: 32 << 20}, nil},
		"shorter":       {one, 2, Options{}, ErrChanged},
		"changing":      {&changing{Reader: bytes.NewReader(bytes.Repeat([]byte{1}, 4096))}, 4096, Options{}, ErrChanged},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Write(t.Context(), &buffer{}, tc.src, tc.size, tc.opts)
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("got %v, want error %v", err, tc.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Write(ctx, &buffer{}, one, 1, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

type full struct{}

func (full) WriteAt([]byte, int64) (int, error) { return 0, os.ErrDeadlineExceeded }

func TestWriteStopsWorkersOnError(t *testing.T) {
	image := testImage(8<<20, 9)
	_, err := Write(t.Context(), full{}, bytes.NewReader(image), int64(len(image)), Options{ChunkSize: 64 << 10})
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want %v", err, os.ErrDeadlineExceeded)
	}
}

func FuzzReader(f *testing.F) {
	for seed := range uint64(3) {
		image := testImage(70<<10, seed)
		copy(image[:], "data in the first block and a little in the second chunk")
		clear(image[8<<10 : 65<<10])
		_, blob := mustWrite(f, bytes.NewReader(image), int64(len(image)), Options{ChunkSize: 64 << 10})
		f.Add(blob, false)
		f.Add(blob[:len(blob)/2], true)
	}
	f.Add([]byte(magic), false)
	f.Fuzz(func(t *testing.T, blob []byte, reseal bool) {
		if reseal { // make hostile content pass the digest checks
			resealFrames(blob)
		}
		r, err := NewReader(bytes.NewReader(blob), "")
		if err != nil {
			return
		}
		defer r.Close()
		h := r.Header()
		var total, end int64
		for {
			c, err := r.Next()
			if err != nil {
				if errors.Is(err, io.EOF) && total != h.DataBytes {
					t.Fatalf("got %d bytes of data, want %d", total, h.DataBytes)
				}
				return
			}
			for _, s := range c.Segments {
				if s.Offset < end {
					t.Fatalf("got segment at %d, want it at %d or later", s.Offset, end)
				}
				if last := s.Offset + int64(len(s.Data)); last > h.VirtualSize {
					t.Fatalf("got segment that ends at %d, want at most %d, the size of the disk", last, h.VirtualSize)
				}
				if len(s.Data) == 0 {
					t.Fatalf("got empty segment at %d, want data", s.Offset)
				}
				end = s.Offset + int64(len(s.Data))
				total += int64(len(s.Data))
			}
			c.Release()
		}
	})
}

// resealFrames updates the digests of the frames that it can parse.
func resealFrames(b []byte) {
	if len(b) < headerSize {
		return
	}
	n := int(binary.LittleEndian.Uint32(b[16:]))
	at := int(framesOffset(n))
	for i := range n {
		e := headerSize + i*entrySize
		if n > maxFrames || e+entrySize > len(b) {
			return
		}
		size := int(binary.LittleEndian.Uint32(b[e+8:]))
		if at < 0 || at+size > len(b) || size < 0 {
			return
		}
		seal(b[e:e+entrySize], b[at:at+size])
		at += size
	}
}
