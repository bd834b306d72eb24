// SPDX-License-Identifier: Apache-2.0

package imagestream

import (
	"context"
	"fmt"
	"io"

	"github.com/cespare/xxhash/v2"
)

// MismatchError is the error of Verify for a disk whose content differs from the
// stream.
type MismatchError struct {
	Frame          int
	Offset, Length int64 // range of the disk that contains the difference
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("the disk content differs from the written data between bytes %d and %d (frame %d)",
		e.Offset, e.Offset+e.Length, e.Frame)
}

type extent struct {
	offset int64
	length uint32
}

// Layout records the extents of the chunks of a stream, 16 bytes each, so that
// the disk can be read back. The zero value is ready for use. It is not safe for
// concurrent use.
type Layout struct {
	frames map[int][]extent
}

// Add records the segments of a chunk. It is idempotent.
func (l *Layout) Add(c *Chunk) {
	if l.frames == nil {
		l.frames = make(map[int][]extent)
	}
	extents := make([]extent, 0, len(c.Segments))
	for _, s := range c.Segments {
		extents = append(extents, extent{s.Offset, uint32(len(s.Data))})
	}
	l.frames[c.Frame] = extents
}

// Verify reads back every extent from disk and compares it with the index of the
// stream. The layout must contain all frames. progress, unless nil, is called
// with the number of bytes compared so far. Verify reads whole 4 KiB blocks into
// aligned memory, so that disk may be opened with O_DIRECT; the caller must
// ensure that reads are not served from a cache. The first difference is returned
// as a *MismatchError.
func (h *Header) Verify(ctx context.Context, disk io.ReaderAt, l *Layout, progress func(done int64)) error {
	buf := alignedBuffer(int(h.ChunkSize))
	var done int64
	for i := range h.Frames {
		if err := ctx.Err(); err != nil {
			return err
		}
		f := &h.Frames[i]
		extents, ok := l.frames[i]
		if !ok {
			return fmt.Errorf("frame %d of %d was never written", i, len(h.Frames))
		}
		// All extents but the last are whole blocks, so that each read into the
		// contiguous buffer is aligned.
		data := buf[:0]
		for _, e := range extents {
			n := len(data)
			data = data[:n+int(e.length)]
			if _, err := disk.ReadAt(data[n:], e.offset); err != nil {
				return fmt.Errorf("reading back %d bytes at %d: %w", e.length, e.offset, err)
			}
		}
		if int64(len(data)) != f.DataBytes || xxhash.Sum64(data) != f.Sum {
			return &MismatchError{Frame: i, Offset: f.DiskOffset, Length: min(h.ChunkSize, h.VirtualSize-f.DiskOffset)}
		}
		done += f.DataBytes
		if progress != nil {
			progress(done)
		}
	}
	return nil
}
