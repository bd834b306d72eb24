// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/pxelab/pxelab/internal/hostfs"
)

// bind creates the port's socket in a directory that only this user can write to.
// It also returns the file's identity, so that only this file is removed later.
func bind(local, remote string) (*net.UnixConn, os.FileInfo, error) {
	for _, path := range []string{local, remote} {
		if path == "" || len(path) > hostfs.MaxSocketPath {
			return nil, nil, fmt.Errorf("socket path %q has %d bytes, must have 1 to %d: use a shorter runtime directory",
				path, len(path), hostfs.MaxSocketPath)
		}
	}
	if local == remote {
		return nil, nil, fmt.Errorf("socket path %q is used for both ends: set different paths", local)
	}
	dir := filepath.Dir(local)
	if err := refuseWritable(dir); err != nil {
		return nil, nil, err
	}
	if err := hostfs.PrivateDir(dir); err != nil {
		return nil, nil, err
	}
	if err := hostfs.RemoveStaleSocket("unixgram", local); err != nil {
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
		return nil, nil, errors.Join(fmt.Errorf("checking switch socket: %w", err), c.Close())
	}
	_ = c.SetReadBuffer(socketBuffer)
	return c, info, nil
}

// refuseWritable refuses an existing directory that other users can write to.
// Restricting its mode would not help: what they put there remains.
func refuseWritable(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("checking the directory of switch sockets: %w", err)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%w: other users can write to %s (mode %o); empty it and chmod 700 it, or use another runtime directory",
			hostfs.ErrNotPrivate, dir, info.Mode().Perm())
	}
	return nil
}
