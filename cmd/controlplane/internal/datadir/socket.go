// SPDX-License-Identifier: Apache-2.0

package datadir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// maxSocketPath is the longest path that fits into sockaddr_un, with its NUL, on
// every supported system.
const maxSocketPath = 103

// SocketPath returns a path for a UNIX socket that only its owner can reach. The
// path is inside dir, whose mode must protect it, unless it would be too long for
// a socket. Then it is inside a new private directory, returned as scratch, which
// the caller removes.
func SocketPath(dir string) (socket, scratch string, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", "", fmt.Errorf("choosing a socket path: %w", err)
	}
	if socket = filepath.Join(abs, "sock"); len(socket) <= maxSocketPath {
		return socket, "", nil
	}
	if scratch, err = os.MkdirTemp("", "pxelab-"); err != nil {
		return "", "", fmt.Errorf("choosing a socket path: %w", err)
	}
	if socket = filepath.Join(scratch, "sock"); len(socket) > maxSocketPath {
		err := fmt.Errorf("choosing a socket path: both %s and %s exceed the %d bytes of a socket path; use a shorter --data-dir or TMPDIR",
			abs, scratch, maxSocketPath)
		return "", "", errors.Join(err, os.Remove(scratch))
	}
	return socket, scratch, nil
}
