// SPDX-License-Identifier: Apache-2.0

package hostfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// ErrNotPrivate means that a directory cannot be made private, because another user
// controls it or it is shared.
var ErrNotPrivate = errors.New("directory is not private")

// PrivateDir ensures that dir is a directory owned by this user and inaccessible to
// others, creating it if needed: the sockets and keys in it depend on that. It is
// idempotent. It returns [ErrNotPrivate] for a directory or symbolic link of another
// user, and for a directory with the sticky bit, such as /tmp.
func PrivateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("creating a private directory: %w", err)
	}
	uid := os.Geteuid()
	// The target of another user's link can be changed at any time.
	if link, err := os.Lstat(dir); err == nil && link.Mode()&fs.ModeSymlink != 0 {
		if owner := ownerOf(link); owner != uid && owner != 0 {
			return fmt.Errorf("%w: %s is a symbolic link owned by user %d, want an owner of %d; remove it or use another directory",
				ErrNotPrivate, dir, owner, uid)
		}
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("checking a private directory: %w", err)
	}
	if owner := ownerOf(info); owner != uid {
		return fmt.Errorf("%w: %s is owned by user %d, want an owner of %d; use another directory", ErrNotPrivate, dir, owner, uid)
	}
	if info.Mode()&fs.ModeSticky != 0 {
		return fmt.Errorf("%w: %s has the sticky bit, so that other users share it; use another directory", ErrNotPrivate, dir)
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("restricting access to a private directory: %w", err)
	}
	return nil
}

// ownerOf returns the user ID of a file's owner, or -1 if unknown.
func ownerOf(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}
