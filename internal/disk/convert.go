// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	// blockSize is the granularity in which zeros become holes.
	blockSize = 4096
	// maxWindow bounds the memory of the unpackers: 128 MiB is what the highest
	// levels of zstd and xz use (zstd --long=27, xz -9 has 64). A file that asks for
	// more is refused.
	maxWindow = 128 << 20
	copySize  = 1 << 20
)

// ToRaw writes the content of the image src, which has the given format, to
// the file dst, which must not exist. Zeros become holes. It blocks until dst
// is complete and durable, or it failed and dst does not exist. progress, when
// not nil, gets the bytes done and, when known, their total.
func (t *Tool) ToRaw(ctx context.Context, src, format, dst string, progress func(done, total int64)) error {
	info, err := t.Inspect(ctx, src, format)
	if err != nil {
		return err
	}
	if progress == nil {
		progress = func(int64, int64) {}
	}
	if format == FormatQCOW2 {
		return t.convert(ctx, src, dst, info.VirtualSize, progress)
	}
	return t.unpack(ctx, src, format, dst, progress)
}

// convert has qemu-img flatten a qcow2 file.
func (t *Tool) convert(ctx context.Context, src, dst string, size int64, progress func(done, total int64)) error {
	abs, err := safePath(src)
	if err != nil {
		return err
	}
	return writeNew(dst, func(tmp *os.File) error {
		// -n keeps it from making the file, so that nobody can put another in
		// its place, and wants the size to be there.
		if err := tmp.Truncate(size); err != nil {
			return err
		}
		_, err := t.run(ctx, limits{timeout: t.opts.Timeout, fileSize: size, files: files{read: []string{abs}, write: []string{tmp.Name()}}},
			&percents{total: size, report: progress},
			"convert", "-p", "-n", "--target-is-zero", "-W", "-m", "4", "-S", "4k", "-f", FormatQCOW2, "-O", FormatRaw, abs, tmp.Name())
		if room, ferr := freeSpace(tmp.Name()); err != nil && ferr == nil && room < copySize {
			return full(errors.Join(err, syscall.ENOSPC), dst, size-allocated(tmp))
		}
		return damaged(src, err)
	})
}

// unpack decompresses, or copies what is not compressed.
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
	in := &counted{ctx: ctx, src: f, total: st.Size(), report: progress}
	r, closer, err := unpacker(bufio.NewReaderSize(in, copySize), format)
	if err != nil {
		return failf(ReasonDamaged, err, "%s cannot be unpacked: %v; get the image anew", src, err)
	}
	defer closer()
	return writeNew(dst, func(tmp *os.File) error {
		n, err := copySparse(tmp, io.LimitReader(r, t.opts.MaxVirtualSize+1))
		if err != nil && in.done > 0 {
			// What is still packed takes about as much as what was has.
			err = noSpaceFor(err, dst, int64(float64(allocated(tmp))/float64(in.done)*float64(in.total-in.done)))
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return err
		case n == 0:
			return failf(ReasonUnsupportedFormat, nil, "%s holds no data", src)
		}
		return t.checkSize(src, n)
	})
}

func unpacker(r byteSource, format string) (io.Reader, func(), error) {
	switch format {
	case FormatRaw:
		return r, func() {}, nil
	case FormatRawGzip:
		z, err := gzip.NewReader(r)
		return z, func() {}, err
	case FormatRawXZ:
		z, err := newXZReader(r)
		return z, func() {}, err
	case FormatRawZstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	default:
		return nil, nil, failf(ReasonUnsupportedFormat, nil, "format %q is not supported", format)
	}
}

// counted reports how far a file was read, and ends with the context.
type counted struct {
	ctx    context.Context
	src    io.Reader
	done   int64
	total  int64
	report func(done, total int64)
}

func (c *counted) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.src.Read(b)
	c.done += int64(n)
	c.report(c.done, c.total)
	return n, err
}

// copySparse writes r to f, leaving holes for zeros, and returns the length.
// What is wrong with r comes back as ReasonDamaged.
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
			return at, failf(ReasonDamaged, err, "the image cannot be unpacked beyond byte %d: %v; get it anew", at, err)
		}
	}
}

// fillBuffer is io.ReadFull with the reader's own error: an unpacker says
// io.ErrUnexpectedEOF when its input is cut off, which must not look like a
// last part that is short.
func fillBuffer(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = r.Read(b[n:])
		n += m
	}
	return n, err
}

// writeSparse writes the blocks of b that are not zero, neighbours at once.
func writeSparse(f *os.File, b []byte, at int64) error {
	for off := 0; off < len(b); {
		end := off
		for end < len(b) && !isZero(b[end:min(end+blockSize, len(b))]) {
			end += blockSize
		}
		end = min(end, len(b))
		if end > off {
			if _, err := f.WriteAt(b[off:end], at+int64(off)); err != nil {
				return err
			}
		}
		off = end + blockSize // the block at end is zero, or there is none
	}
	return nil
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// writeNew makes the file path by way of a temporary one that fill writes, so
// that it is there whole or not at all. It never replaces a file.
func writeNew(path string, fill func(tmp *os.File) error) (err error) {
	abs, err := safePath(path)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(abs), "."+filepath.Base(abs)+".tmp-")
	if err != nil {
		return noSpace(fmt.Errorf("making %s: %w", path, err), abs)
	}
	defer func() {
		err = errors.Join(err, tmp.Close(), os.Remove(tmp.Name()))
	}()
	if err := fill(tmp); err != nil {
		return noSpace(err, abs)
	}
	if err := tmp.Sync(); err != nil {
		return noSpace(fmt.Errorf("making %s: %w", path, err), abs)
	}
	// A link, unlike a rename, fails when somebody was faster.
	if err := os.Link(tmp.Name(), abs); err != nil {
		if errors.Is(err, os.ErrExist) {
			return failf(ReasonConflict, err, "%s exists already", path)
		}
		return fmt.Errorf("making %s: %w", path, err)
	}
	return syncDir(filepath.Dir(abs))
}
