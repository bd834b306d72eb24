// SPDX-License-Identifier: Apache-2.0

package imagestream

import (
	"fmt"
	"io"
	"slices"
)

// ReaderAt reads parts of the image that a blob describes. Each part is verified as by
// Decode; what the image leaves out reads as zeros. It keeps the last chunk that it has
// read, so that reads close to each other cost one. It is not safe for concurrent use.
type ReaderAt struct {
	blob   io.ReaderAt
	header *Header
	dec    *Decoder
	frame  int    // index of the kept frame, -1 for none
	chunk  []byte // the content of its chunk
}

// NewReaderAt returns a reader of the image in a blob with header h. The caller must
// close it.
func NewReaderAt(blob io.ReaderAt, h *Header) (*ReaderAt, error) {
	dec, err := NewDecoder(h)
	if err != nil {
		return nil, err
	}
	return &ReaderAt{blob: blob, header: h, dec: dec, frame: -1}, nil
}

// Close releases the decoder.
func (r *ReaderAt) Close() { r.dec.Close() }

// ReadAt implements io.ReaderAt on the disk that the image describes.
func (r *ReaderAt) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("reading image stream: invalid offset %d", off)
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= r.header.VirtualSize {
			return done, io.EOF
		}
		start := at / r.header.ChunkSize * r.header.ChunkSize
		rest := min(r.header.ChunkSize, r.header.VirtualSize-start) - (at - start)
		part := p[done:min(len(p), done+int(rest))]
		if err := r.readChunk(part, start, at-start); err != nil {
			return done, err
		}
		done += len(part)
	}
	return done, nil
}

// readChunk fills p from an offset in the chunk that starts at a disk offset.
func (r *ReaderAt) readChunk(p []byte, start, offset int64) error {
	frame, ok := slices.BinarySearchFunc(r.header.Frames, start, func(f Frame, at int64) int { return int(max(-1, min(1, f.DiskOffset-at))) })
	if !ok {
		clear(p)
		return nil
	}
	if frame != r.frame {
		if err := r.load(frame); err != nil {
			return err
		}
	}
	copy(p, r.chunk[offset:])
	return nil
}

func (r *ReaderAt) load(frame int) error {
	f := &r.header.Frames[frame]
	compressed := make([]byte, f.Size)
	if n, err := r.blob.ReadAt(compressed, f.Offset); n < len(compressed) {
		return fmt.Errorf("reading image stream at byte %d of %d: %w", f.Offset, r.header.Size, err)
	}
	c, err := r.dec.Decode(frame, compressed)
	if err != nil {
		return err
	}
	if r.chunk == nil {
		r.chunk = make([]byte, r.header.ChunkSize)
	}
	r.frame = frame
	clear(r.chunk)
	for _, s := range c.Segments {
		copy(r.chunk[s.Offset-f.DiskOffset:], s.Data)
	}
	c.Release()
	return nil
}
