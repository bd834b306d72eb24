// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/gofrs/flock"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/simulator/internal/control"
)

// ErrRuns is returned by Run when another process runs the machines of the data
// directory.
var ErrRuns = errors.New("another simulator runs for this data directory")

// ExitStatus returns the exit status of a program for the error of Run.
func ExitStatus(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrRuns):
		return control.ExitRuns
	default:
		return 1
	}
}

// program is what makes this process the one that runs the machines of a data
// directory: a lock, and a socket with a record by which it is found.
type program struct {
	path     string // of the record
	record   control.Program
	lock     *flock.Flock
	listener *net.UnixListener
}

// acquire makes this process the one that runs the machines.
func acquire(o Options) (p *program, err error) {
	for what, dir := range map[string]string{"data": o.DataDir, "runtime": o.RuntimeDir} {
		if !filepath.IsAbs(dir) {
			return nil, fmt.Errorf("the %s directory %q is not an absolute path", what, dir)
		}
	}
	files := control.NewFiles(o.DataDir, o.RuntimeDir)
	for _, dir := range []string{filepath.Dir(files.Lock), o.RuntimeDir} {
		if err := hostfs.PrivateDir(dir); err != nil {
			return nil, fmt.Errorf("preparing for simulated machines: %w", err)
		}
	}
	self, err := process.Find(os.Getpid())
	if err != nil {
		return nil, fmt.Errorf("identifying this process: %w", err)
	}
	p = &program{path: files.Record, record: control.Program{Process: self, Socket: files.Socket}}
	p.lock = flock.New(files.Lock, flock.SetPermissions(0o600))
	held, err := p.lock.TryLock()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", files.Lock, err), p.lock.Close())
	}
	if !held {
		return nil, errors.Join(fmt.Errorf("%w (%s is locked)", ErrRuns, files.Lock), p.lock.Close())
	}
	if p.listener, err = listen(files.Socket); err != nil {
		return nil, errors.Join(err, p.lock.Close())
	}
	if err := control.SaveProgram(p.path, p.record); err != nil {
		return nil, errors.Join(err, p.release())
	}
	return p, nil
}

// release undoes acquire. The record is removed first and the lock released last, so
// that the next process finds nothing of this one.
func (p *program) release() error {
	errs := []error{os.Remove(p.path), p.listener.Close(), p.lock.Close()}
	for i, err := range errs {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, net.ErrClosed) {
			errs[i] = nil
		}
	}
	return errors.Join(errs...)
}

// keepRecord writes the record again if it was removed or replaced.
func (p *program) keepRecord() error {
	if now, err := control.LoadProgram(p.path); err == nil && now == p.record {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(p.path), 0o700); err != nil {
		return err
	}
	return control.SaveProgram(p.path, p.record)
}

// listen creates the private socket of the program. The caller holds the lock.
func listen(path string) (*net.UnixListener, error) {
	if err := hostfs.RemoveStaleSocket("unix", path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening for the manager: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restricting %s: %w", path, err), l.Close())
	}
	return l, nil
}

// descriptorLimit returns how many descriptors this process may open. The Go runtime
// raises the soft limit to the hard one at the start of a program. A machine with one
// NIC uses four.
func descriptorLimit() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return limit.Cur
}
