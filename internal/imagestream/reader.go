// SPDX-License-Identifier: Apache-2.0

package imagestream

import (
	"fmt"
	"io"
)

// Reader yields the chunks of a stream in disk order. Its memory is bounded by
// the index and a few chunks, whatever the input. It is not safe for
// concurrent use, but chunks may be handed to other goroutines.
type Reader struct {
	src    io.Reader
	header *Header
	dec    *Decoder
	next   int
	buf    []byte
}

// NewReader reads the header from src and returns a reader for the frames
// behind it. digest is Header.Digest as pinned by whoever ordered the
// installation; empty accepts any well-formed stream. Close it after use.
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

// Header describes the stream.
func (r *Reader) Header() *Header { return r.header }

// Offset is the byte of the blob at which the next frame begins: where an
// interrupted transfer goes on. It is Header.Size at the end.
func (r *Reader) Offset() int64 {
	if r.next == len(r.header.Frames) {
		return r.header.Size
	}
	return r.header.Frames[r.next].Offset
}

// Reset goes on with another source whose first byte is the one at Offset.
// Chunks that Next returned before are not returned again.
func (r *Reader) Reset(src io.Reader) { r.src = src }

// Next returns the next chunk, or io.EOF behind the last. After any other
// error the source is of no use any more; Reset makes the reader go on with
// the same frame. An error that wraps ErrCorrupt means that the frame arrived
// whole and wrong.
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
