// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/qemu/internal/qmp"
)

// A Local that is killed after it started QEMU and before it recorded the PID leaves
// an orphan, and so does a user who deletes the record. One that has created its QMP
// socket is found there. Until then only the lock on the machine's log shows that it
// exists: QEMU inherits it, and the kernel holds it until QEMU has ended.

// errLocked is returned when a process of the machine holds the lock.
var errLocked = errors.New("a QEMU process of this machine exists")

// lockLog creates and locks a machine's log, or returns errLocked.
func lockLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// checkLock returns errLocked if a process holds the lock of a machine's log. A log that
// does not exist has none.
func checkLock(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(lock(f), f.Close())
}

func lock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EWOULDBLOCK):
			err = errLocked
		}
		return fmt.Errorf("locking %s: %w", f.Name(), err)
	}
}

// claim returns the locked log, with which a process of the machine may be started, or
// the orphan that serves the machine's QMP socket. It waits until an orphan does.
func (m *instance) claim(ctx context.Context, r record) (*os.File, process.Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	p := r.Machine.Paths
	for {
		// The order matters: an orphan may end, but none can appear once the lock is
		// held.
		log, lockErr := lockLog(p.Log)
		if lockErr != nil && !errors.Is(lockErr, errLocked) {
			return nil, process.Identity{}, lockErr
		}
		orphan, err := findProcess(ctx, p.QMP, m.id)
		if lockErr == nil && err == nil && orphan == (process.Identity{}) {
			return log, orphan, nil
		}
		if lockErr == nil {
			err = errors.Join(err, log.Close())
		}
		if err != nil || orphan != (process.Identity{}) {
			return nil, orphan, err
		}
		select {
		case <-time.After(firstRetry):
		case <-ctx.Done():
			return nil, process.Identity{}, fmt.Errorf("%w, and does not answer at %s: %w", lockErr, p.QMP, ctx.Err())
		}
	}
}

// findProcess returns the process that serves this machine's QMP socket, or the
// zero Identity. A stale socket refuses connections.
func findProcess(ctx context.Context, path, id string) (process.Identity, error) {
	client, identity, err := dialMachine(ctx, path, id)
	switch {
	case err == nil:
		return identity, client.Close()
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return process.Identity{}, nil
	default:
		return process.Identity{}, fmt.Errorf("identifying the process at the machine's QMP socket: %w", err)
	}
}

// dialMachine connects to the machine, verifies its UUID, and returns the process
// that the kernel reports as the socket's peer.
func dialMachine(ctx context.Context, path, id string) (*qmp.Client, process.Identity, error) {
	client, err := qmp.Dial(ctx, path)
	if err != nil {
		return nil, process.Identity{}, err
	}
	_, identity, err := identify(ctx, client, id)
	if err != nil {
		client.Close()
		return nil, process.Identity{}, fmt.Errorf("QMP socket %s: %w", path, err)
	}
	return client, identity, nil
}

// identify returns the machine that the process at the other end runs, and the process. want
// is the machine that it must be, or "".
func identify(ctx context.Context, client *qmp.Client, want string) (id string, p process.Identity, err error) {
	reply, err := client.Commands(ctx).QueryUUID()
	if err != nil {
		return "", process.Identity{}, err
	}
	if want != "" && reply.UUID != want {
		return "", process.Identity{}, fmt.Errorf("the socket belongs to machine %q, not %s", reply.UUID, want)
	}
	pid, err := client.PeerPID()
	if err != nil {
		return "", process.Identity{}, err
	}
	p, err = process.Find(pid)
	return reply.UUID, p, err
}
