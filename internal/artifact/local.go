// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/internal/hostfs"
)

// openLocal opens a regular file below the images folder. It follows symbolic
// links that stay inside the folder.
func (s *Store) openLocal(path string) (*os.File, stamp, error) {
	if s.opts.ImagesDir == "" {
		return nil, stamp{}, failf(ReasonInvalid, nil, "path %s cannot be used: no images folder is configured; use a url", path)
	}
	where := filepath.Join(s.opts.ImagesDir, filepath.FromSlash(path))
	root, err := os.OpenRoot(s.opts.ImagesDir)
	if err != nil {
		return nil, stamp{}, failf(ReasonNotFound, err, "opening the images folder for %s: %v", path, err)
	}
	defer func() { _ = root.Close() }()
	// O_NONBLOCK keeps the open from blocking on a named pipe.
	f, err := root.OpenFile(filepath.FromSlash(path), os.O_RDONLY|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, stamp{}, failf(ReasonNotFound, err, "%s does not exist; put the file there or correct the path", where)
	case err != nil:
		return nil, stamp{}, failf(ReasonInvalid, err, "%s cannot be opened: %v", where, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = failf(ReasonInvalid, nil, "%s is not a regular file", where)
	}
	if err != nil {
		return nil, stamp{}, errors.Join(err, f.Close())
	}
	return f, stampOf(info), nil
}

// sameFiles reports whether the files that a source was resolved from are
// unchanged. A deleted file counts as unchanged: its content stays verified.
func (s *Store) sameFiles(c *checked, r *sourceRecord) bool {
	if r.Files == nil {
		return false
	}
	same := func(path string, want stamp) bool {
		f, got, err := s.openLocal(path)
		if err != nil {
			var e *Error
			return errors.As(err, &e) && e.Reason == ReasonNotFound
		}
		_ = f.Close()
		return got == want
	}
	return same(c.Path, r.Files.File) && (c.sums == "" || same(c.sums, r.Files.Sums))
}

// fetchFile copies a file of the images folder into the store. It does not use a
// hard link, which would change with the original, and hashes the copy, so that
// a concurrent change of the original is detected.
func (s *Store) fetchFile(ctx context.Context, c *checked, m *meter) (Artifact, error) {
	src, files, want, err := s.openWithSum(ctx, c, m)
	if err != nil {
		return Artifact{}, err
	}
	defer func() { _ = src.Close() }()
	if err := s.checkSize(c, files.File.Size); err != nil {
		return Artifact{}, err
	}
	tmp, err := s.copyIn(ctx, src, files.File.Size, m)
	if err != nil {
		return Artifact{}, err
	}
	defer func() { _ = os.Remove(tmp) }()
	sums, err := hashFile(ctx, tmp, want.algo == "sha512", m)
	if err != nil {
		return Artifact{}, err
	}
	if !sums.has(want) {
		return Artifact{}, mismatch(c)
	}
	return s.adopt(tmp, sums, c, files)
}

// mismatch returns the error for content that does not match its checksum. It contains
// neither digest: with that of the content, which may come from a server that only the
// manager can reach, another profile could request the content itself; and the expected one
// may have been read from such a server.
func mismatch(c *checked) error {
	want := "checksum " + c.sum.String()
	if c.sum.algo == "" {
		want = "checksum in " + redact(c.Checksum)
	}
	return failf(ReasonChecksumMismatch, nil,
		"%s does not match the %s; correct the checksum, or replace the file if it is damaged", c, want)
}

// openWithSum opens the file of a local source and determines its checksum.
func (s *Store) openWithSum(ctx context.Context, c *checked, m *meter) (*os.File, *localFiles, checksum, error) {
	files := &localFiles{}
	want := c.sum
	switch {
	case c.sums != "":
		m.stage(StageChecksum, 0, 0)
		f, st, err := s.openLocal(c.sums)
		if err != nil {
			return nil, nil, checksum{}, fmt.Errorf("opening the checksum file of %s: %w", c, err)
		}
		data, err := io.ReadAll(io.LimitReader(f, maxSums+1))
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, nil, checksum{}, fmt.Errorf("reading %s: %w", c.sums, err)
		}
		files.Sums = st
		if want, err = findChecksum(data, c.entryNames(), c.sums); err != nil {
			return nil, nil, checksum{}, err
		}
	case c.sumsURL != "":
		var err error
		if want, err = s.fetchSum(ctx, c, m); err != nil {
			return nil, nil, checksum{}, err
		}
	}
	f, st, err := s.openLocal(c.Path)
	files.File = st
	return f, files, want, err
}

// copyIn copies src to a scratch file and preserves holes. Unless the file system
// can share the blocks, it requires that the data of src fits and leaves
// Options.Reserve free.
func (s *Store) copyIn(ctx context.Context, src *os.File, size int64, m *meter) (path string, err error) {
	dst, err := os.CreateTemp(s.run, "copy-")
	if err != nil {
		return "", noSpace(err, s.run, size)
	}
	defer func() {
		if err = errors.Join(err, dst.Close()); err != nil {
			_ = os.Remove(dst.Name())
		}
	}()
	m.stage(StageCopying, 0, size)
	if reflink(dst, src) {
		return dst.Name(), nil
	}
	info, err := src.Stat()
	if err != nil {
		return "", fmt.Errorf("copying %s: %w", src.Name(), err)
	}
	if err := s.checkSpace(s.run, min(size, hostfs.AllocatedBytes(info))); err != nil {
		return "", err
	}
	if err := dst.Truncate(size); err != nil {
		return "", noSpace(err, dst.Name(), size)
	}
	buf := make([]byte, copyBuffer)
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		data, err := hostfs.NextData(src, at, size)
		if err != nil {
			return "", fmt.Errorf("finding data in %s: %w", src.Name(), err)
		}
		if at = data; at >= size {
			break
		}
		n, err := src.ReadAt(buf, at)
		if n > 0 {
			if _, werr := dst.WriteAt(buf[:n], at); werr != nil {
				return "", noSpace(fmt.Errorf("copying %s: %w", src.Name(), werr), dst.Name(), size-at)
			}
		}
		at += int64(n)
		m.at(at)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", fmt.Errorf("copying %s: %w", src.Name(), err)
		}
	}
	return dst.Name(), nil
}
