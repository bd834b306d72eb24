// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// maxSocketPath is what fits into sun_path on every system we run on (macOS:
// 104 bytes with the terminating zero).
const maxSocketPath = 103

// bind makes the port's socket, in a folder that nobody else can write to. It
// returns the file too, so that only this very file is removed later.
func bind(local, remote string) (*net.UnixConn, os.FileInfo, error) {
	for _, path := range []string{local, remote} {
		if path == "" || len(path) > maxSocketPath {
			return nil, nil, fmt.Errorf("socket path %q has %d bytes, wanted are 1 to %d: use a shorter runtime directory", path, len(path), maxSocketPath)
		}
	}
	if local == remote {
		return nil, nil, fmt.Errorf("socket path %q is given for both ends", local)
	}
	if err := ensurePrivate(filepath.Dir(local)); err != nil {
		return nil, nil, err
	}
	if err := removeStale(local); err != nil {
		return nil, nil, err
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: local, Net: "unixgram"})
	if err != nil {
		return nil, nil, fmt.Errorf("binding switch socket: %w", err)
	}
	if err := os.Chmod(local, 0o600); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("restricting switch socket: %w", err), c.Close(), os.Remove(local))
	}
	info, err := os.Lstat(local)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("looking at switch socket: %w", err), c.Close())
	}
	_ = c.SetReadBuffer(socketBuffer)
	return c, info, nil
}

// ensurePrivate makes the folder if needed, and refuses one where others could
// put a socket of theirs in our place.
func ensurePrivate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the folder of switch sockets: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("looking at the folder of switch sockets: %w", err)
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if info.Mode().Perm()&0o022 != 0 || int(owner) != os.Geteuid() {
		return fmt.Errorf("folder %s (mode %o, owner %d) must belong to user %d and be writable by nobody else: chmod 700 it or choose another runtime directory",
			dir, info.Mode().Perm(), owner, os.Geteuid())
	}
	return nil
}

// removeStale removes a socket that no process serves any more.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for an old switch socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is no socket: remove it or choose another runtime directory", path)
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err == nil {
		_ = c.Close()
		return fmt.Errorf("%w: %s", ErrInUse, path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("finding out whether %s is served: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing an old switch socket: %w", err)
	}
	return nil
}
