// SPDX-License-Identifier: Apache-2.0

package datadir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// maxSocketPath is what fits into sockaddr_un everywhere, with its NUL.
const maxSocketPath = 103

// SocketPath names a place for a UNIX socket that only its owner reaches. It is
// inside dir, whose mode must guard it, unless that name is too long for a
// socket; then it is in a fresh private directory, returned as scratch, which
// the caller removes.
func SocketPath(dir string) (socket, scratch string, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", "", fmt.Errorf("finding a place for a socket: %w", err)
	}
	if socket = filepath.Join(abs, "sock"); len(socket) <= maxSocketPath {
		return socket, "", nil
	}
	if scratch, err = os.MkdirTemp("", "pxelab-"); err != nil {
		return "", "", fmt.Errorf("finding a place for a socket: %w", err)
	}
	if socket = filepath.Join(scratch, "sock"); len(socket) > maxSocketPath {
		err := fmt.Errorf("no place for a socket: both %s and %s are longer than a socket's name may be (%d bytes); use a shorter --data-dir or TMPDIR", abs, scratch, maxSocketPath)
		return "", "", errors.Join(err, os.Remove(scratch))
	}
	return socket, scratch, nil
}
