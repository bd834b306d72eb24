// SPDX-License-Identifier: Apache-2.0

package imagestream

import (
	"context"
	"fmt"
	"io"

	"github.com/cespare/xxhash/v2"
)

// MismatchError says that a disk does not hold what was written to it.
type MismatchError struct {
	Frame          int
	Offset, Length int64 // the part of the disk that is wrong somewhere
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("the disk does not hold what was written to it: bytes %d to %d differ (frame %d)",
		e.Offset, e.Offset+e.Length, e.Frame)
}

type extent struct {
	offset int64
	length uint32
}

// Layout remembers where the chunks of a stream went, 16 bytes an extent, so
// that the disk can be read back. The zero value is empty and ready for use;
// it is not safe for concurrent use.
type Layout struct {
	frames map[int][]extent
}

// Add notes the segments of a chunk. Adding a chunk twice changes nothing.
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

// Verify reads every extent back from disk and compares it with the index of
// the stream. Layout must know all frames. progress, when not nil, is called
// with the bytes compared so far. Reads are whole 4 KiB blocks into aligned
// memory, so disk may be opened with O_DIRECT; the caller sees to it that they
// come from the disk and not from a cache. The first difference is returned as
// a *MismatchError.
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
		// Extents are packed as the encoder packed them: all but the last are
		// whole blocks, so each read stays aligned.
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
