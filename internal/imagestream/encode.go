// SPDX-License-Identifier: Apache-2.0

package imagestream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"github.com/pxelab/pxelab/internal/hostfs"
)

// ErrChanged means that the image was modified while it was encoded.
var ErrChanged = errors.New("the image changed while it was read")

// mergeGap is the longest run of zeros that is encoded instead of skipped: for a
// guest, two small writes are slower than one that is slightly larger.
const mergeGap = 4 * BlockSize

// Options configures Write. The zero value is suitable for installations.
type Options struct {
	// ChunkSize is a power of two from 64 KiB to 16 MiB; 0 means DefaultChunkSize.
	ChunkSize int
	// Level is a compression level of the zstd program; 0 means 3.
	Level int
	// Progress, unless nil, is called from one goroutine at a time with the
	// number of disk bytes encoded so far and the size of the disk.
	Progress func(done, total int64)
}

// Write encodes the first size bytes of src as a blob at offset 0 of dst and
// returns its header. If src is an *os.File, Write skips holes without reading
// them. The result depends only on content, options and the version of the
// compressor. Write reads src twice and uses all processors. It blocks until done
// or ctx ends, and does not sync dst.
func Write(ctx context.Context, dst io.WriterAt, src io.ReaderAt, size int64, opts Options) (*Header, error) {
	if opts.ChunkSize == 0 {
		opts.ChunkSize = DefaultChunkSize
	}
	if opts.Level == 0 {
		opts.Level = 3
	}
	h := &Header{VirtualSize: size, ChunkSize: int64(opts.ChunkSize)}
	if size <= 0 || size > maxVirtual {
		return nil, fmt.Errorf("encoding an image of %d bytes: the size must be from 1 to %d", size, maxVirtual)
	}
	if c := opts.ChunkSize; c < minChunk || c > maxChunk || c&(c-1) != 0 {
		return nil, fmt.Errorf("chunk size %d is not a power of two from %d to %d", c, minChunk, maxChunk)
	}
	e := &encoder{header: h, src: src, opts: opts}
	chunks, err := e.chunksWithData(ctx)
	if err != nil {
		return nil, err
	}
	if len(chunks) > maxFrames {
		return nil, fmt.Errorf("encoding an image with data in %d chunks of %d bytes: at most %d chunks are supported; use larger chunks",
			len(chunks), opts.ChunkSize, maxFrames)
	}
	if err := e.encode(ctx, dst, chunks); err != nil {
		return nil, err
	}
	if _, err := dst.WriteAt(h.marshal(), 0); err != nil {
		return nil, fmt.Errorf("writing index of image stream: %w", err)
	}
	return h, nil
}

type encoder struct {
	header *Header
	src    io.ReaderAt
	opts   Options
}

// chunksWithData returns the disk offsets of the chunks that are not all zero.
func (e *encoder) chunksWithData(ctx context.Context) ([]int64, error) {
	h := e.header
	buf := make([]byte, h.ChunkSize)
	var chunks []int64
	for at := int64(0); at < h.VirtualSize; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		data, err := nextData(e.src, at, h.VirtualSize)
		if err != nil {
			return nil, fmt.Errorf("finding data in the image: %w", err)
		}
		if data >= h.VirtualSize {
			break
		}
		at = data / h.ChunkSize * h.ChunkSize
		part := buf[:min(h.ChunkSize, h.VirtualSize-at)]
		if err := readAt(e.src, part, at); err != nil {
			return nil, err
		}
		if !hostfs.IsZero(part) {
			chunks = append(chunks, at)
		}
		at += h.ChunkSize
	}
	return chunks, nil
}

type encoded struct {
	frame Frame
	bytes []byte
	err   error
}

// encode compresses chunks in parallel and writes them in order.
func (e *encoder) encode(ctx context.Context, dst io.WriterAt, chunks []int64) error {
	ctx, cancel := context.WithCancel(ctx)
	workers := runtime.GOMAXPROCS(0)
	// Each job has its own result channel. The queue of jobs preserves the order and
	// bounds how far the workers run ahead of the writer.
	type job struct {
		at   int64
		done chan encoded
	}
	jobs := make(chan job)
	order := make(chan job, workers)
	var wg sync.WaitGroup
	// Runs after cancel, so that all goroutines have ended when encode returns.
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		defer close(jobs)
		defer close(order)
		for _, at := range chunks {
			j := job{at, make(chan encoded, 1)}
			select {
			case order <- j:
			case <-ctx.Done():
				return
			}
			select {
			case jobs <- j:
			case <-ctx.Done():
				j.done <- encoded{err: ctx.Err()}
				return
			}
		}
	})
	for range workers {
		wg.Go(func() {
			w, err := newFrameEncoder(e)
			for j := range jobs {
				if err != nil {
					j.done <- encoded{err: err}
					continue
				}
				j.done <- w.encode(j.at)
			}
		})
	}
	h := e.header
	h.Size = framesOffset(len(chunks))
	h.Frames = make([]Frame, 0, len(chunks))
	for j := range order {
		r := <-j.done
		if r.err != nil {
			return r.err
		}
		r.frame.Offset = h.Size
		if _, err := dst.WriteAt(r.bytes, r.frame.Offset); err != nil {
			return fmt.Errorf("writing frame of image stream: %w", err)
		}
		h.Size += r.frame.Size
		h.DataBytes += r.frame.DataBytes
		h.Frames = append(h.Frames, r.frame)
		if e.opts.Progress != nil {
			e.opts.Progress(min(j.at+h.ChunkSize, h.VirtualSize), h.VirtualSize)
		}
	}
	return ctx.Err()
}

type frameEncoder struct {
	*encoder
	zstd *zstd.Encoder
	raw  []byte
}

func newFrameEncoder(e *encoder) (*frameEncoder, error) {
	z, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(e.opts.Level)),
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(e.opts.ChunkSize),
	)
	if err != nil {
		return nil, fmt.Errorf("creating zstd encoder: %w", err)
	}
	return &frameEncoder{encoder: e, zstd: z, raw: make([]byte, e.header.ChunkSize)}, nil
}

func (e *frameEncoder) encode(at int64) encoded {
	part := e.raw[:min(e.header.ChunkSize, e.header.VirtualSize-at)]
	if err := readAt(e.src, part, at); err != nil {
		return encoded{err: err}
	}
	payload := make([]byte, 0, len(part)+len(part)/BlockSize*extentSize)
	var table []byte
	extents := 0
	for off, n := nextExtent(part, 0); n > 0; off, n = nextExtent(part, off+n) {
		payload = append(payload, part[off:off+n]...)
		table = binary.LittleEndian.AppendUint32(table, uint32(off))
		table = binary.LittleEndian.AppendUint32(table, uint32(n))
		extents++
	}
	if extents == 0 {
		return encoded{err: fmt.Errorf("%w: the data at byte %d became zero", ErrChanged, at)}
	}
	f := Frame{
		DiskOffset: at,
		DataBytes:  int64(len(payload)),
		Extents:    extents,
		Sum:        xxhash.Sum64(payload),
	}
	compressed := e.zstd.EncodeAll(append(payload, table...), nil)
	f.Size = int64(len(compressed))
	f.Digest = blake3.Sum256(compressed)
	return encoded{frame: f, bytes: compressed}
}

// nextExtent returns the next run of blocks in b, at or after from, that are not
// zero, including gaps of up to mergeGap. The length is 0 if no run follows.
func nextExtent(b []byte, from int) (off, n int) {
	for from < len(b) && hostfs.IsZero(block(b, from)) {
		from += BlockSize
	}
	if from >= len(b) {
		return len(b), 0
	}
	end := from
	for at := from; at < len(b) && at-end <= mergeGap; at += BlockSize {
		if !hostfs.IsZero(block(b, at)) {
			end = at + BlockSize
		}
	}
	return from, min(end, len(b)) - from
}

func block(b []byte, at int) []byte { return b[at:min(at+BlockSize, len(b))] }

func readAt(src io.ReaderAt, b []byte, at int64) error {
	n, err := src.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it ends at byte %d", ErrChanged, at+int64(n))
	}
	return fmt.Errorf("reading the image at byte %d: %w", at, err)
}

// nextData returns the first offset at or after at that may contain data, or at
// least size if only a hole follows. Sources that are not files, and files on
// file systems without holes, consist of data only.
func nextData(src io.ReaderAt, at, size int64) (int64, error) {
	f, ok := src.(*os.File)
	if !ok {
		return at, nil
	}
	return hostfs.NextData(f, at, size)
}
