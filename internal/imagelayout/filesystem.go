// SPDX-License-Identifier: Apache-2.0

package imagelayout

import (
	"errors"
	"io"
	"strings"
)

// filesystem reads directories and files without a mount. The number of an inode is opaque;
// 0 is none. It follows no symlinks, and its work is bounded for any content.
type filesystem interface {
	root() uint64
	// entries calls yield for the entries of a directory until it returns false. What is
	// not a directory has none.
	entries(dir uint64, yield func(name string, inode uint64) bool) error
	// content returns the beginning of a regular file, at most limit bytes; what is not
	// one has none.
	content(inode uint64, limit int) ([]byte, error)
	// incomplete reports whether a journal may hold entries that are not in place yet.
	incomplete() bool
}

// errUnreadable reports a file system that this package cannot read.
var errUnreadable = errors.New("file system not readable")

// open opens the file system of a partition. The error wraps errUnreadable if it is not one
// that this package reads, and is otherwise one of r.
func open(c Content, r io.ReaderAt) (filesystem, error) {
	switch c {
	case ContentExt4:
		return openExt(r)
	case ContentXFS:
		return openXFS(r)
	case ContentVFAT:
		return openFAT(r)
	}
	return nil, errUnreadable
}

// find returns the inode of a path, 0 if it does not exist.
func find(fs filesystem, path string) (uint64, error) {
	inode := fs.root()
	for name := range strings.SplitSeq(path, "/") {
		next := uint64(0)
		err := fs.entries(inode, func(entry string, i uint64) bool {
			if entry == name {
				next = i
			}
			return next == 0
		})
		if err != nil || next == 0 {
			return 0, err
		}
		inode = next
	}
	return inode, nil
}
