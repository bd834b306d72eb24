// SPDX-License-Identifier: Apache-2.0

package imagestream

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/bits"
)

// MediaType is the media type of the format in HTTP.
const MediaType = "application/vnd.pxelab.imagestream.v1"

// Version is the version of the format and of the encoder, for caching: it must
// be increased whenever the same image would be encoded differently.
const Version = 1

// BlockSize is the granularity of extents in bytes.
const BlockSize = 4096

// DefaultChunkSize is the size of the disk chunk that one frame covers. It is
// small enough that an interrupted transfer repeats little and that several fit
// into a guest of 512 MiB, and large enough to compress well.
const DefaultChunkSize = 4 << 20

const (
	magic       = "PXELIMG\x00"
	headerSize  = 64
	entrySize   = 64
	extentSize  = 8
	minChunk    = 64 << 10
	maxChunk    = 16 << 20
	maxFrames   = 1 << 20
	maxVirtual  = int64(1) << 46
	digestAlgo  = "sha256:"
	frameDigest = 32
)

// ErrCorrupt is wrapped by every error for data that does not match its digest
// or the format. Read errors do not wrap it.
var ErrCorrupt = errors.New("image stream is damaged")

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// Frame is an index entry.
type Frame struct {
	Offset     int64             // of the compressed frame in the blob
	Size       int64             // compressed bytes
	DiskOffset int64             // first byte of the chunk on the disk
	DataBytes  int64             // bytes that are written to the disk
	Extents    int               // contiguous runs of written bytes
	Sum        uint64            // xxHash64 of the written bytes, in disk order
	Digest     [frameDigest]byte // BLAKE3-256 of the compressed frame
}

// rawSize returns the size of the decompressed frame: data and extent table.
func (f *Frame) rawSize() int64 { return f.DataBytes + int64(f.Extents)*extentSize }

// Header describes a whole stream. It is immutable once read or written.
type Header struct {
	VirtualSize int64 // bytes of the disk that the image describes
	DataBytes   int64 // bytes that are written to the disk
	ChunkSize   int64
	Size        int64 // bytes of the whole blob
	Frames      []Frame

	digest string
}

// Digest returns the digest of header and index, "sha256:<hex>". It pins every
// byte that the stream can write to a disk.
func (h *Header) Digest() string { return h.digest }

// FramesOffset returns the offset of the first frame in the blob.
func (h *Header) FramesOffset() int64 { return framesOffset(len(h.Frames)) }

func framesOffset(frames int) int64 { return headerSize + int64(frames)*entrySize }

// ReadHeader reads and validates header and index from r. Unless digest is
// empty, they must match it. It reads no further, so that the frames can be read
// from r afterwards.
func ReadHeader(r io.Reader, digest string) (*Header, error) {
	fixed := make([]byte, headerSize)
	if _, err := io.ReadFull(r, fixed); err != nil {
		return nil, fmt.Errorf("reading header of image stream: %w", err)
	}
	h, frames, err := parseFixed(fixed)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	sum.Write(fixed)
	// The index grows only as data arrives, so that a hostile count costs the
	// sender as much as the reader.
	var index []byte
	for want := frames * entrySize; want > 0; {
		part := make([]byte, min(want, 1<<16))
		if _, err := io.ReadFull(r, part); err != nil {
			return nil, fmt.Errorf("reading index of image stream: %w", err)
		}
		index = append(index, part...)
		want -= len(part)
	}
	sum.Write(index)
	h.digest = digestAlgo + hex.EncodeToString(sum.Sum(nil))
	if digest != "" && digest != h.digest {
		return nil, corrupt("its header has digest %s, want %s", h.digest, digest)
	}
	if err := h.parseIndex(index); err != nil {
		return nil, err
	}
	return h, nil
}

func parseFixed(b []byte) (*Header, int, error) {
	if string(b[:8]) != magic {
		return nil, 0, corrupt("it does not start with the magic number of an image stream")
	}
	le := binary.LittleEndian
	if v := le.Uint32(b[8:]); v != Version {
		return nil, 0, corrupt("its version is %d, only version %d is supported", v, Version)
	}
	chunk, frames := le.Uint32(b[12:]), le.Uint32(b[16:])
	virtual, data, size := le.Uint64(b[24:]), le.Uint64(b[32:]), le.Uint64(b[40:])
	switch {
	case bits.OnesCount32(chunk) != 1 || chunk < minChunk || chunk > maxChunk:
		return nil, 0, corrupt("its chunk size of %d bytes is invalid", chunk)
	case frames > maxFrames:
		return nil, 0, corrupt("it has %d frames, at most %d are allowed", frames, maxFrames)
	case virtual == 0 || virtual > uint64(maxVirtual):
		return nil, 0, corrupt("its virtual size of %d bytes is invalid", virtual)
	case data > virtual:
		return nil, 0, corrupt("it has %d bytes of data on a disk of %d bytes", data, virtual)
	case size > 2*uint64(maxVirtual):
		return nil, 0, corrupt("its blob size of %d bytes is invalid", size)
	}
	return &Header{
		VirtualSize: int64(virtual), DataBytes: int64(data),
		ChunkSize: int64(chunk), Size: int64(size),
	}, int(frames), nil
}

func (h *Header) parseIndex(index []byte) error {
	le := binary.LittleEndian
	n := len(index) / entrySize
	h.Frames = make([]Frame, 0, n)
	at, data, next := framesOffset(n), int64(0), uint64(0)
	chunks := uint64((h.VirtualSize + h.ChunkSize - 1) / h.ChunkSize)
	for i := range n {
		b := index[i*entrySize:]
		chunk := le.Uint64(b)
		f := Frame{
			Offset:    at,
			Size:      int64(le.Uint32(b[8:])),
			DataBytes: int64(le.Uint32(b[12:])),
			Extents:   int(le.Uint32(b[16:])),
			Sum:       le.Uint64(b[24:]),
		}
		copy(f.Digest[:], b[32:])
		if chunk < next || chunk >= chunks {
			return corrupt("frame %d covers chunk %d of %d, which is out of order or range", i, chunk, chunks)
		}
		next = chunk + 1
		f.DiskOffset = int64(chunk) * h.ChunkSize
		room := min(h.ChunkSize, h.VirtualSize-f.DiskOffset)
		if f.DataBytes == 0 || f.DataBytes > room || f.Extents == 0 || int64(f.Extents) > h.ChunkSize/BlockSize {
			return corrupt("frame %d has %d bytes in %d extents for a chunk of %d bytes", i, f.DataBytes, f.Extents, room)
		}
		if f.Size == 0 || f.Size > maxCompressed(f.rawSize()) {
			return corrupt("frame %d has %d compressed bytes for %d bytes", i, f.Size, f.rawSize())
		}
		at += f.Size
		data += f.DataBytes
		h.Frames = append(h.Frames, f)
	}
	if data != h.DataBytes {
		return corrupt("its frames contain %d bytes, but its header specifies %d", data, h.DataBytes)
	}
	if at != h.Size {
		return corrupt("its frames end at byte %d, but its header specifies %d", at, h.Size)
	}
	return nil
}

// maxCompressed returns an upper bound of the size of n bytes after compression.
// It exceeds zstd's worst case for incompressible data.
func maxCompressed(n int64) int64 { return n + n/128 + 1024 }

// marshal encodes header and index and sets the digest.
func (h *Header) marshal() []byte {
	le := binary.LittleEndian
	b := make([]byte, framesOffset(len(h.Frames)))
	copy(b, magic)
	le.PutUint32(b[8:], Version)
	le.PutUint32(b[12:], uint32(h.ChunkSize))
	le.PutUint32(b[16:], uint32(len(h.Frames)))
	le.PutUint64(b[24:], uint64(h.VirtualSize))
	le.PutUint64(b[32:], uint64(h.DataBytes))
	le.PutUint64(b[40:], uint64(h.Size))
	for i := range h.Frames {
		f, e := &h.Frames[i], b[headerSize+i*entrySize:]
		le.PutUint64(e, uint64(f.DiskOffset/h.ChunkSize))
		le.PutUint32(e[8:], uint32(f.Size))
		le.PutUint32(e[12:], uint32(f.DataBytes))
		le.PutUint32(e[16:], uint32(f.Extents))
		le.PutUint64(e[24:], f.Sum)
		copy(e[32:], f.Digest[:])
	}
	sum := sha256.Sum256(b)
	h.digest = digestAlgo + hex.EncodeToString(sum[:])
	return b
}
