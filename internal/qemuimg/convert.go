// SPDX-License-Identifier: Apache-2.0

package qemuimg

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/imageformat"
)

const (
	// blockSize is the size of the blocks that become holes if they are zero.
	blockSize = 4096
	// maxWindow bounds the memory of the decompressors. zstd --long=27 needs 128
	// MiB and xz -9 needs 64 MiB; files that need more are rejected.
	maxWindow = 128 << 20
	copySize  = 1 << 20
)

// ToRaw converts the image src, which has the given format, to the raw file dst,
// which must not exist. A compressed file may contain a raw or a qcow2 image; an archive
// and other formats are rejected with ReasonUnsupportedFormat. Zeros become holes. It blocks until dst is complete and
// synced; if it fails, dst does not exist. progress, unless nil, is called with
// the bytes done and in total.
func (t *Tool) ToRaw(ctx context.Context, src, format, dst string, progress func(done, total int64)) error {
	info, err := t.Inspect(ctx, src, format)
	if err != nil {
		return err
	}
	if progress == nil {
		progress = func(int64, int64) {}
	}
	if format == imageformat.QCOW2 {
		return t.convert(ctx, subject{path: src, name: src}, dst, info.VirtualSize, progress)
	}
	return t.unpack(ctx, src, format, dst, progress)
}

// convert converts a qcow2 file with qemu-img.
func (t *Tool) convert(ctx context.Context, src subject, dst string, size int64, progress func(done, total int64)) error {
	abs, err := safePath(src.path)
	if err != nil {
		return err
	}
	return writeNew(dst, func(tmp *os.File) error {
		// -n makes qemu-img write to the existing file, so that no other process
		// can replace it. It requires the final size.
		if err := tmp.Truncate(size); err != nil {
			return err
		}
		l := limits{timeout: t.opts.Timeout, fileSize: size, files: files{read: []string{abs}, write: []string{tmp.Name()}}}
		_, err := t.run(ctx, l, &percents{total: size, report: progress},
			"convert", "-p", "-n", "--target-is-zero", "-W", "-m", "4", "-S", "4k", "-f", imageformat.QCOW2, "-O", imageformat.Raw, abs, tmp.Name())
		if room, ferr := hostfs.FreeSpace(filepath.Dir(tmp.Name())); err != nil && ferr == nil && room < copySize {
			return full(errors.Join(err, syscall.ENOSPC), dst, size-allocated(tmp))
		}
		return damaged(src.name, err)
	})
}

// unpack decompresses src, or copies it if it is not compressed.
func (t *Tool) unpack(ctx context.Context, src, format, dst string, progress func(done, total int64)) error {
	f, err := os.Open(src)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	// What the progress is part of is known when the content is.
	in := &counted{ctx: ctx, src: f, total: st.Size()}
	r, closer, err := unpacker(bufio.NewReaderSize(in, copySize), format)
	if err != nil {
		return failf(ReasonDamaged, err, "decompressing %s: %v; download the image again", src, err)
	}
	defer closer()
	p := &packed{name: src, in: in, content: bufio.NewReaderSize(r, imageformat.HeadSize)}
	inner, err := p.detect()
	if err != nil {
		return err
	}
	if inner == imageformat.QCOW2 {
		return t.unpackQCOW2(ctx, p, dst, progress)
	}
	in.follow(progress)
	return writeNew(dst, func(tmp *os.File) error { return t.copyOut(ctx, p, tmp) })
}

func unpacker(r byteSource, format string) (io.Reader, func(), error) {
	switch format {
	case imageformat.Raw:
		return r, func() {}, nil
	case imageformat.RawGzip:
		z, err := gzip.NewReader(r)
		return z, func() {}, err
	case imageformat.RawXZ:
		z, err := newXZReader(r)
		return z, func() {}, err
	case imageformat.RawZstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	default:
		return nil, nil, failf(ReasonUnsupportedFormat, nil, "format %q is not supported", format)
	}
}

// allocated returns the disk space that the file uses, or 0 if unknown.
func allocated(f *os.File) int64 {
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	return hostfs.AllocatedBytes(info)
}

// counted reports the number of bytes read. Reads fail once ctx has ended. A decompressor
// may read in a goroutine of its own.
type counted struct {
	ctx   context.Context
	src   io.Reader
	total int64

	mu     sync.Mutex
	done   int64
	report func(done, total int64) // nil for none
}

func (c *counted) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.src.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done += int64(n)
	if c.report != nil {
		c.report(c.done, c.total)
	}
	return n, err
}

// follow reports from now on.
func (c *counted) follow(report func(done, total int64)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report = report
}

// read returns the number of bytes read.
func (c *counted) read() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done
}

// copySparse writes r to f with holes for zeros and returns the length. Errors
// of r have ReasonDamaged.
func copySparse(f *os.File, r io.Reader) (int64, error) {
	buf := make([]byte, copySize)
	var at int64
	for {
		n, err := fillBuffer(r, buf)
		if werr := writeSparse(f, buf[:n], at); werr != nil {
			return at, werr
		}
		at += int64(n)
		switch {
		case errors.Is(err, io.EOF):
			return at, f.Truncate(at)
		case err != nil:
			return at, failf(ReasonDamaged, err, "decompressing the image after byte %d: %v; download it again", at, err)
		}
	}
}

// fillBuffer is like io.ReadFull, but returns the reader's error unchanged:
// io.ErrUnexpectedEOF from a decompressor means truncated input, and io.ReadFull
// returns the same error for a short last part.
func fillBuffer(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = r.Read(b[n:])
		n += m
	}
	return n, err
}

// writeSparse writes the blocks of b that are not zero, adjacent ones in one
// write.
func writeSparse(f *os.File, b []byte, at int64) error {
	for off := 0; off < len(b); {
		end := off
		for end < len(b) && !hostfs.IsZero(b[end:min(end+blockSize, len(b))]) {
			end += blockSize
		}
		end = min(end, len(b))
		if end > off {
			if _, err := f.WriteAt(b[off:end], at+int64(off)); err != nil {
				return err
			}
		}
		off = end + blockSize // the block at end is zero or past the end of b
	}
	return nil
}

// writeNew creates the file path atomically from a temporary file that fill
// writes. It never replaces a file.
func writeNew(path string, fill func(tmp *os.File) error) (err error) {
	abs, err := safePath(path)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(abs), "."+filepath.Base(abs)+".tmp-")
	if err != nil {
		return noSpace(fmt.Errorf("creating %s: %w", path, err), abs)
	}
	defer func() {
		err = errors.Join(err, tmp.Close(), os.Remove(tmp.Name()))
	}()
	if err := fill(tmp); err != nil {
		return noSpace(err, abs)
	}
	if err := tmp.Sync(); err != nil {
		return noSpace(fmt.Errorf("creating %s: %w", path, err), abs)
	}
	// Unlike rename(2), link(2) fails if the path exists.
	if err := os.Link(tmp.Name(), abs); err != nil {
		if errors.Is(err, os.ErrExist) {
			return failf(ReasonConflict, err, "%s already exists; move it away", path)
		}
		return fmt.Errorf("creating %s: %w", path, err)
	}
	return hostfs.SyncDir(filepath.Dir(abs))
}
