// SPDX-License-Identifier: Apache-2.0

package hostfs

import (
	"errors"
	"math"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// FreeSpace returns how many bytes an unprivileged process can write to the file
// system of path, which is an existing file or directory.
func FreeSpace(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	// Network file systems report values that overflow.
	return int64(min(float64(st.Bavail)*float64(st.Bsize), math.MaxInt64/2)), nil
}

// IsNoSpace reports whether err means that the file system is full or the user's
// quota is exhausted.
func IsNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// AllocatedBytes returns the disk space that a file uses, which is less than its
// length if it has holes.
func AllocatedBytes(info os.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}

// FileSize returns the length of a file, or 0 if it cannot be determined.
func FileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// SyncDir makes the creations, renames and removals in dir survive a power failure.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
