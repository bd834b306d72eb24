// SPDX-License-Identifier: Apache-2.0

// Package imagestream is the form in which a disk image travels to a machine
// that is being installed: only the bytes that are not zero, in independent
// zstd frames, behind an index that binds every frame to one digest.
//
// A blob is
//
//	header   64 bytes: magic, version, sizes
//	index    64 bytes per frame: which chunk of the disk, size, BLAKE3, xxHash64
//	frames   one zstd frame per chunk of the disk that holds data
//
// all integers little endian. The disk is cut into chunks of equal size; a
// chunk that is all zero has no frame. A frame decompresses to the data of its
// extents, one after the other, followed by the table of the extents (offset
// and length inside the chunk, 32 bits each). Extents begin and end on 4 KiB
// blocks, so data keeps the alignment that O_DIRECT asks for.
//
// Header.Digest (SHA-256 of header and index) is what a manager pins. The
// reader checks it before it believes anything, and checks a frame's BLAKE3
// before it decompresses it, so nothing unverified ever reaches zstd or a disk.
// BLAKE3 because the decoder runs in emulated guests without SHA instructions,
// where it is two to three times as fast as SHA-256. Each frame's xxHash64 over
// its plain data, which costs next to nothing, lets the installer read the disk
// back and compare; being part of the index it is bound to the same digest.
//
// An interrupted transfer goes on at any frame: Reader.Offset says where.
//
// The package does not fetch, does not write to disks, and does not clear what
// the image leaves out: the caller sees to it that the rest of the disk reads
// as zeros.
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

// MediaType names the format in HTTP.
const MediaType = "application/vnd.pxelab.imagestream.v1"

// Version is the version of the format, and of the encoder for the purpose of
// caching: it is raised whenever the same image would give other bytes.
const Version = 1

// BlockSize is the granularity of extents in bytes.
const BlockSize = 4096

// DefaultChunkSize is the part of the disk that one frame covers: small enough
// that a broken transfer repeats little and that a guest of 512 MiB can hold
// several, large enough that compression does not suffer.
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

// ErrCorrupt is wrapped by every error that means the bytes are not what the
// digest or the format promises. A read that merely failed does not wrap it.
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
	Extents    int               // runs of bytes that are written
	Sum        uint64            // xxHash64 of the written bytes, in disk order
	Digest     [frameDigest]byte // BLAKE3-256 of the compressed frame
}

// rawSize is the size of the decompressed frame: data and extent table.
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

// Digest returns "sha256:<hex>" over header and index, which pins every byte
// that the stream can put on a disk.
func (h *Header) Digest() string { return h.digest }

// FramesOffset is where the first frame begins in the blob.
func (h *Header) FramesOffset() int64 { return framesOffset(len(h.Frames)) }

func framesOffset(frames int) int64 { return headerSize + int64(frames)*entrySize }

// ReadHeader reads and checks header and index from r. When digest is not
// empty they must match it. It reads not a byte further, so r may be used for
// the frames.
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
	// The index grows only with what arrives: a hostile count costs the sender
	// as much as it costs us.
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
		return nil, corrupt("its header has digest %s, wanted %s", h.digest, digest)
	}
	if err := h.parseIndex(index); err != nil {
		return nil, err
	}
	return h, nil
}

func parseFixed(b []byte) (*Header, int, error) {
	if string(b[:8]) != magic {
		return nil, 0, corrupt("it does not begin with the magic of an image stream")
	}
	le := binary.LittleEndian
	if v := le.Uint32(b[8:]); v != Version {
		return nil, 0, corrupt("its version is %d, this program reads version %d", v, Version)
	}
	chunk, frames := le.Uint32(b[12:]), le.Uint32(b[16:])
	virtual, data, size := le.Uint64(b[24:]), le.Uint64(b[32:]), le.Uint64(b[40:])
	switch {
	case bits.OnesCount32(chunk) != 1 || chunk < minChunk || chunk > maxChunk:
		return nil, 0, corrupt("chunk size %d", chunk)
	case frames > maxFrames:
		return nil, 0, corrupt("%d frames", frames)
	case virtual == 0 || virtual > uint64(maxVirtual):
		return nil, 0, corrupt("virtual size %d", virtual)
	case data > virtual:
		return nil, 0, corrupt("%d bytes of data on a disk of %d", data, virtual)
	case size > 2*uint64(maxVirtual):
		return nil, 0, corrupt("blob size %d", size)
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
			return corrupt("frame %d covers chunk %d of %d out of order", i, chunk, chunks)
		}
		next = chunk + 1
		f.DiskOffset = int64(chunk) * h.ChunkSize
		room := min(h.ChunkSize, h.VirtualSize-f.DiskOffset)
		if f.DataBytes == 0 || f.DataBytes > room || f.Extents == 0 || int64(f.Extents) > h.ChunkSize/BlockSize {
			return corrupt("frame %d has %d bytes in %d extents, its chunk has %d", i, f.DataBytes, f.Extents, room)
		}
		if f.Size == 0 || f.Size > maxCompressed(f.rawSize()) {
			return corrupt("frame %d has %d compressed bytes for %d", i, f.Size, f.rawSize())
		}
		at += f.Size
		data += f.DataBytes
		h.Frames = append(h.Frames, f)
	}
	if data != h.DataBytes {
		return corrupt("its frames hold %d bytes, its header says %d", data, h.DataBytes)
	}
	if at != h.Size {
		return corrupt("its frames end at byte %d, its header says %d", at, h.Size)
	}
	return nil
}

// maxCompressed is above zstd's worst case for n bytes that do not compress.
func maxCompressed(n int64) int64 { return n + n/128 + 1024 }

// marshal renders header and index and sets the digest.
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
