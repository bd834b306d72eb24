// SPDX-License-Identifier: Apache-2.0

// Package datadir manages the data directory of a server: exclusive access to
// it, a TCP port that stays the same across starts, and the path of a private
// socket. Nothing here blocks: what is not available is an error.
package datadir

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Lock is an exclusive lock on a data directory. The holder keeps a reference
// to it and calls Release; the kernel releases it when the process ends for any
// reason.
type Lock struct{ f *os.File }

// AcquireLock locks dir. It does not block: its error names the process that
// holds the lock.
func AcquireLock(dir string) (*Lock, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer func() { _ = f.Close() }()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another control plane%s is already using %s; stop it, or set another --data-dir", holder(f), dir)
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	// The PID only serves the error message above; the flock is what counts.
	if err := errors.Join(f.Truncate(0), writePID(f)); err != nil {
		return nil, errors.Join(fmt.Errorf("writing %s: %w", path, err), f.Close())
	}
	return &Lock{f}, nil
}

func writePID(f *os.File) error {
	_, err := f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	return err
}

func holder(f *os.File) string {
	data, err := io.ReadAll(io.LimitReader(f, 32))
	if pid := strings.TrimSpace(string(data)); err == nil && pid != "" {
		return fmt.Sprintf(" (process %s)", pid)
	}
	return ""
}

// Release releases the lock. It is idempotent. The file stays: removing it
// would let two instances lock two different files.
func (l *Lock) Release() error {
	if err := l.f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("releasing the data directory: %w", err)
	}
	return nil
}
