// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pxelab/pxelab/internal/imagestream"
)

// Target is a disk to which an image is written.
type Target interface {
	io.ReaderAt
	// Prepare removes old signatures and makes the image's range read as zeros
	// outside the chunks that WriteChunk will write.
	Prepare(ctx context.Context, h *imagestream.Header) error
	// WriteChunk writes the segments of the chunk of length bytes at offset and
	// makes the rest of the chunk read as zeros. It is called concurrently, at
	// most once for each chunk.
	WriteChunk(offset, length int64, segments []imagestream.Segment) error
	// Flush makes the written data durable and drops it from caches.
	Flush() error
}

// ImageOpener opens the image blob at an offset.
type ImageOpener func(ctx context.Context, offset int64) (io.ReadCloser, error)

const (
	// writers is the number of chunks that are written concurrently.
	writers = 2
	// attemptsPerFrame is how often a frame is fetched before the image counts
	// as damaged.
	attemptsPerFrame = 3
	// attemptsWithoutByte is how many connections in a row may deliver no byte;
	// with backoff they take about a minute.
	attemptsWithoutByte = 16
	// discardBuffer is the size of the buffer, in bytes, through which Discard reads.
	discardBuffer = 16 << 10
)

// Stream is the transfer of an image to a disk.
type Stream struct {
	open   ImageOpener
	header *imagestream.Header
	body   io.ReadCloser // positioned at the next frame; nil between connections

	mu     sync.Mutex
	layout imagestream.Layout
}

// OpenStream fetches the image's header and verifies it against digest. The
// caller must Close the stream.
func OpenStream(ctx context.Context, open ImageOpener, digest string) (*Stream, error) {
	for attempt := 1; ; attempt++ {
		body, err := open(ctx, 0)
		if err != nil {
			return nil, err
		}
		h, err := imagestream.ReadHeader(body, digest)
		if err == nil {
			return &Stream{open: open, header: h, body: body}, nil
		}
		body.Close()
		if errors.Is(err, imagestream.ErrCorrupt) || ctx.Err() != nil || attempt == attemptsPerFrame {
			return nil, fmt.Errorf("image %s: %w", digest, err)
		}
	}
}

// Header returns the image's header.
func (s *Stream) Header() *imagestream.Header { return s.header }

// Close ends the transfer. It is idempotent.
func (s *Stream) Close() {
	if s.body != nil {
		s.body.Close()
		s.body = nil
	}
}

type frame struct {
	index int
	data  []byte
}

// WriteTo writes the image to the disk. It fetches, decodes and writes
// concurrently, with memory for a few chunks. It calls written, concurrently,
// with the number of data bytes of each written chunk.
func (s *Stream) WriteTo(ctx context.Context, disk Target, written func(int64)) error {
	if err := disk.Prepare(ctx, s.header); err != nil {
		return err
	}
	decoders := max(1, min(runtime.GOMAXPROCS(0), 4))
	frames := make(chan frame, 1)
	buffers := make(chan []byte, decoders+2)
	for range cap(buffers) {
		buffers <- nil
	}
	chunks := make(chan *imagestream.Chunk)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(guard(func() error {
		defer close(frames)
		return s.fetch(ctx, frames, buffers)
	}))
	decoding, decodeCtx := errgroup.WithContext(ctx)
	for range decoders {
		decoding.Go(guard(func() error { return s.decode(decodeCtx, frames, buffers, chunks) }))
	}
	g.Go(func() error {
		defer close(chunks)
		return decoding.Wait()
	})
	for range writers {
		g.Go(guard(func() error { return s.write(ctx, disk, chunks, written) }))
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return disk.Flush()
}

// fetch reads the frames in order and resumes where a connection broke.
func (s *Stream) fetch(ctx context.Context, frames chan<- frame, buffers <-chan []byte) error {
	defer s.Close()
	for i := range s.header.Frames {
		var buf []byte
		select {
		case buf = <-buffers:
		case <-ctx.Done():
			return ctx.Err()
		}
		f := &s.header.Frames[i]
		if int64(cap(buf)) < f.Size {
			buf = make([]byte, f.Size, f.Size+f.Size/4)
		}
		buf = buf[:f.Size]
		if err := s.fetchFrame(ctx, f, buf); err != nil {
			return err
		}
		select {
		case frames <- frame{i, buf}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// fetchFrame fills buf with the frame.
func (s *Stream) fetchFrame(ctx context.Context, f *imagestream.Frame, buf []byte) error {
	return s.receive(ctx, f, func(body io.Reader, done int64) (int64, error) {
		n, err := io.ReadFull(body, buf[done:])
		return int64(n), err
	})
}

// receive calls read with a connection that is positioned at byte done of the frame,
// until read has read the rest of the frame without an error. It resumes where a
// connection broke and gives up after attemptsWithoutByte connections in a row
// without a byte. read returns the number of bytes that it read.
func (s *Stream) receive(ctx context.Context, f *imagestream.Frame, read func(body io.Reader, done int64) (int64, error)) error {
	pause := minBackoff
	for done, empty := int64(0), 0; ; {
		if s.body == nil {
			body, err := s.open(ctx, f.Offset+done)
			if err != nil {
				return err
			}
			s.body = body
		}
		n, err := read(s.body, done)
		done += n
		if err == nil {
			return nil
		}
		s.Close()
		if n > 0 {
			empty, pause = 0, minBackoff
		} else if empty++; empty == attemptsWithoutByte {
			return fmt.Errorf("the image ends at byte %d of %d: %w", f.Offset+done, s.header.Size, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, maxBackoff)
	}
}

// Discard receives the image and verifies it as WriteTo does, but neither
// decompresses nor writes it, and needs memory for no frame: it is for a simulated
// machine. It calls written with the number of data bytes of each verified frame.
func (s *Stream) Discard(ctx context.Context, written func(int64)) error {
	defer s.Close()
	check := imagestream.NewChecker(s.header)
	buf := make([]byte, discardBuffer)
	for i := range s.header.Frames {
		f := &s.header.Frames[i]
		for attempt := 1; ; attempt++ {
			err := s.receive(ctx, f, func(body io.Reader, done int64) (int64, error) {
				n, err := io.CopyBuffer(check, io.LimitReader(body, f.Size-done), buf)
				if err == nil && done+n < f.Size {
					err = io.ErrUnexpectedEOF
				}
				return n, err
			})
			if err != nil {
				return err
			}
			if err = check.Check(i); err == nil {
				break
			}
			if attempt == attemptsPerFrame {
				return err
			}
			s.Close() // the next connection begins with this frame
		}
		written(f.DataBytes)
	}
	return nil
}

func (s *Stream) decode(ctx context.Context, frames <-chan frame, buffers chan<- []byte, chunks chan<- *imagestream.Chunk) error {
	dec, err := imagestream.NewDecoder(s.header)
	if err != nil {
		return err
	}
	defer dec.Close()
	for f := range frames {
		c, err := dec.Decode(f.index, f.data)
		for attempt := 2; errors.Is(err, imagestream.ErrCorrupt) && attempt <= attemptsPerFrame; attempt++ {
			if err := s.refetch(ctx, f); err != nil {
				return err
			}
			c, err = dec.Decode(f.index, f.data)
		}
		if err != nil {
			return err
		}
		buffers <- f.data
		select {
		case chunks <- c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// refetch fetches one frame again over a separate connection.
func (s *Stream) refetch(ctx context.Context, f frame) error {
	at := s.header.Frames[f.index].Offset
	body, err := s.open(ctx, at)
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err := io.ReadFull(body, f.data); err != nil {
		return fmt.Errorf("fetching %d bytes of the image at %d again: %w", len(f.data), at, err)
	}
	return nil
}

func (s *Stream) write(ctx context.Context, disk Target, chunks <-chan *imagestream.Chunk, written func(int64)) error {
	for c := range chunks {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f := &s.header.Frames[c.Frame]
		length := min(s.header.ChunkSize, s.header.VirtualSize-f.DiskOffset)
		if err := disk.WriteChunk(f.DiskOffset, length, c.Segments); err != nil {
			return err
		}
		s.mu.Lock()
		s.layout.Add(c)
		s.mu.Unlock()
		c.Release()
		written(f.DataBytes)
	}
	return nil
}

// Verify reads back the written data and compares it with the image's checksums.
// It must be called after WriteTo. progress may be nil.
func (s *Stream) Verify(ctx context.Context, disk io.ReaderAt, progress func(done int64)) error {
	return s.header.Verify(ctx, disk, &s.layout, progress)
}

// guard turns a panic into an error, because PID 1 must not exit.
func guard(f func() error) func() error {
	return func() (err error) {
		defer func() {
			if r := recover(); r != nil {
				err = panicError(r)
			}
		}()
		return f()
	}
}

func panicError(r any) error {
	stack := make([]byte, 4096)
	stack = stack[:runtime.Stack(stack, false)]
	return fmt.Errorf("the installer panicked: %v\n%s", r, stack)
}
