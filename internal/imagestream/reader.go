// SPDX-License-Identifier: Apache-2.0

package imagestream

import (
	"fmt"
	"io"
)

// Reader reads the chunks of a stream in disk order. Its memory is bounded by the
// index and a few chunks for any input. It is not safe for concurrent use, but
// chunks may be passed to other goroutines.
type Reader struct {
	src    io.Reader
	header *Header
	dec    *Decoder
	next   int
	buf    []byte
}

// NewReader reads the header from src and returns a reader for the frames that
// follow. digest is the pinned Header.Digest; if empty, NewReader accepts any
// well-formed stream. The caller must close the reader.
func NewReader(src io.Reader, digest string) (*Reader, error) {
	h, err := ReadHeader(src, digest)
	if err != nil {
		return nil, err
	}
	dec, err := NewDecoder(h)
	if err != nil {
		return nil, err
	}
	return &Reader{src: src, header: h, dec: dec}, nil
}

// Header returns the header of the stream.
func (r *Reader) Header() *Header { return r.header }

// Offset returns the offset of the next frame in the blob, which is where an
// interrupted transfer resumes. At the end it returns Header.Size.
func (r *Reader) Offset() int64 {
	if r.next == len(r.header.Frames) {
		return r.header.Size
	}
	return r.header.Frames[r.next].Offset
}

// Reset continues with another source, whose first byte is the one at Offset.
// Next does not return chunks again that it has already returned.
func (r *Reader) Reset(src io.Reader) { r.src = src }

// Next returns the next chunk, or io.EOF after the last one. After any other
// error the source is unusable; Reset makes the reader retry the same frame. An
// error wraps ErrCorrupt if the frame arrived completely but is invalid.
func (r *Reader) Next() (*Chunk, error) {
	if r.next == len(r.header.Frames) {
		return nil, io.EOF
	}
	f := &r.header.Frames[r.next]
	if int64(cap(r.buf)) < f.Size {
		r.buf = make([]byte, f.Size, maxCompressed(r.header.maxRaw()))
	}
	if n, err := io.ReadFull(r.src, r.buf[:f.Size]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("reading image stream at byte %d of %d: %w", f.Offset+int64(n), r.header.Size, err)
	}
	c, err := r.dec.Decode(r.next, r.buf[:f.Size])
	if err != nil {
		return nil, err
	}
	r.next++
	return c, nil
}

// Close releases the decoder; it does not close the source.
func (r *Reader) Close() { r.dec.Close() }
