// SPDX-License-Identifier: Apache-2.0

// Package datadir holds what one directory gives a server that lives in it: the
// exclusive right to use it, a TCP port that stays the same, and a place for a
// private socket. Everything fails at once instead of waiting.
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

// Lock is the right to use a data directory. Its owner keeps it reachable and
// calls Release; the kernel gives it back when the process dies, however it
// does.
type Lock struct{ f *os.File }

// AcquireLock takes the lock of dir or says who has it. It does not wait.
func AcquireLock(dir string) (*Lock, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer func() { _ = f.Close() }()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another control plane%s already serves from %s; stop it first, or give another --data-dir", holder(f), dir)
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	// The number is for the message above only; the lock is what counts.
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

// Release is idempotent. The file stays: removing it would let two instances
// lock two different files.
func (l *Lock) Release() error {
	if err := l.f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("releasing the data directory: %w", err)
	}
	return nil
}
