// SPDX-License-Identifier: Apache-2.0

package hostfs

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// MaxSocketPath is the longest path in bytes of a UNIX socket that works on Linux
// (107) and macOS (103).
const MaxSocketPath = 103

// ErrSocketInUse means that a process serves the socket.
var ErrSocketInUse = errors.New("socket is in use by another process")

// socketTimeout bounds the connection attempt to a socket whose server does not
// accept connections.
const socketTimeout = time.Second

// RemoveStaleSocket removes a UNIX socket that no process serves, as a killed process
// leaves it. network is "unix" or "unixgram", as for [net.Dial]. A missing file is not
// an error. A file that is not a socket and a socket that a process serves remain; the
// latter is [ErrSocketInUse]. The caller must prevent that another process binds path
// at the same time, usually by a lock.
func RemoveStaleSocket(network, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("checking for a stale socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket; remove it or use another directory", path)
	}
	conn, err := net.DialTimeout(network, path, socketTimeout)
	switch {
	case err == nil:
		_ = conn.Close()
		return fmt.Errorf("%w: %s", ErrSocketInUse, path)
	case errors.Is(err, fs.ErrNotExist): // removed in the meantime
		return nil
	case !errors.Is(err, syscall.ECONNREFUSED):
		// Includes a server whose backlog is full.
		return fmt.Errorf("checking whether a process serves %s: %w; stop that process or remove the file", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing a stale socket: %w", err)
	}
	return nil
}
