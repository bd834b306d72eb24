// SPDX-License-Identifier: Apache-2.0

package imagestream

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"
)

// Segment is a contiguous run of bytes to write to the disk. Data is aligned to
// 4 KiB in memory, Offset on the disk. The length is a multiple of 4 KiB, except
// at the end of an image whose size is not.
type Segment struct {
	Offset int64
	Data   []byte
}

// Chunk is a decoded frame. The caller owns its memory until Release.
type Chunk struct {
	Frame    int // index into Header.Frames
	Segments []Segment

	buf  []byte
	pool chan []byte
}

// Release returns the memory for use by later frames; the segments become
// invalid. Calling Release is optional; it must be called at most once.
func (c *Chunk) Release() {
	c.Segments = nil
	if c.buf == nil || c.pool == nil {
		return
	}
	select {
	case c.pool <- c.buf:
	default:
	}
	c.buf = nil
}

// poolSize bounds the number of buffers kept between frames: one being decoded,
// one being written, one between the two.
const poolSize = 3

// Decoder decodes compressed frames to chunks. It is not safe for concurrent
// use; to decode in parallel, use several.
type Decoder struct {
	header *Header
	zstd   *zstd.Decoder
	pool   chan []byte
}

// NewDecoder returns a decoder for the frames of h. The caller must close it.
func NewDecoder(h *Header) (*Decoder, error) {
	z, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		// Frames are authenticated by BLAKE3 before zstd sees them.
		zstd.IgnoreChecksum(true),
		zstd.WithDecoderMaxMemory(uint64(h.maxRaw())),
		zstd.WithDecoderMaxWindow(maxChunk*2),
	)
	if err != nil {
		return nil, fmt.Errorf("creating zstd decoder: %w", err)
	}
	return &Decoder{header: h, zstd: z, pool: make(chan []byte, poolSize)}, nil
}

// maxRaw returns the maximum size of a decompressed frame.
func (h *Header) maxRaw() int64 { return h.ChunkSize + h.ChunkSize/BlockSize*extentSize }

// Close releases the decoder. Chunks remain valid.
func (d *Decoder) Close() { d.zstd.Close() }

// Decode verifies and decodes the compressed bytes of the frame with the given
// index. Its errors wrap ErrCorrupt.
func (d *Decoder) Decode(frame int, compressed []byte) (*Chunk, error) {
	f := &d.header.Frames[frame]
	if int64(len(compressed)) != f.Size || blake3.Sum256(compressed) != f.Digest {
		return nil, d.header.mismatch(frame)
	}
	buf := d.buffer()
	raw, err := d.zstd.DecodeAll(compressed, buf[:0])
	if err != nil {
		return nil, corrupt("decompressing frame %d: %v", frame, err)
	}
	if int64(len(raw)) != f.rawSize() {
		return nil, corrupt("frame %d has %d bytes, want %d", frame, len(raw), f.rawSize())
	}
	if &raw[0] != &buf[:1][0] { // zstd reallocated the buffer: restore the alignment
		raw = append(buf[:0], raw...)
	}
	if xxhash.Sum64(raw[:f.DataBytes]) != f.Sum {
		return nil, corrupt("frame %d does not match its xxHash64", frame)
	}
	segments, err := d.header.segments(frame, raw)
	if err != nil {
		return nil, err
	}
	return &Chunk{Frame: frame, Segments: segments, buf: buf, pool: d.pool}, nil
}

func (h *Header) mismatch(frame int) error {
	f := &h.Frames[frame]
	return corrupt("frame %d, bytes %d to %d, does not match its digest", frame, f.Offset, f.Offset+f.Size)
}

// segments parses the extent table, which follows the data.
func (h *Header) segments(frame int, raw []byte) ([]Segment, error) {
	f := &h.Frames[frame]
	data, table := raw[:f.DataBytes], raw[f.DataBytes:]
	room := uint32(min(h.ChunkSize, h.VirtualSize-f.DiskOffset))
	segments := make([]Segment, 0, f.Extents)
	var end uint32
	for ; len(table) > 0; table = table[extentSize:] {
		off, n := binary.LittleEndian.Uint32(table), binary.LittleEndian.Uint32(table[4:])
		switch {
		case n == 0 || off < end || off%BlockSize != 0 || off > room || n > room-off:
			return nil, corrupt("frame %d has an invalid extent of %d bytes at %d in a chunk of %d", frame, n, off, room)
		case n%BlockSize != 0 && off+n != room:
			return nil, corrupt("frame %d has an extent of %d bytes at %d, which is not a multiple of the block size", frame, n, off)
		case int(n) > len(data):
			return nil, corrupt("the extents of frame %d exceed its %d bytes", frame, f.DataBytes)
		}
		segments = append(segments, Segment{Offset: f.DiskOffset + int64(off), Data: data[:n:n]})
		data, end = data[n:], off+n
	}
	if len(data) > 0 {
		return nil, corrupt("frame %d has %d bytes outside its extents", frame, len(data))
	}
	return segments, nil
}

func (d *Decoder) buffer() []byte {
	select {
	case b := <-d.pool:
		return b
	default:
		// zstd uses its fast path only with spare capacity after the data.
		return alignedBuffer(int(d.header.maxRaw()) + 64)
	}
}

// alignedBuffer returns n bytes that start on a 4 KiB boundary, which O_DIRECT
// requires. Go does not move heap objects.
func alignedBuffer(n int) []byte {
	b := make([]byte, n+BlockSize)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (BlockSize - 1))
	return b[skip : skip+n : skip+n]
}
