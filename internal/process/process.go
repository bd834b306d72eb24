// SPDX-License-Identifier: Apache-2.0

// Package process starts programs that outlive their parent and identifies them
// later without mistaking another process for one of them.
//
// A process is identified by its [Identity]: PID, start time and the host's boot
// ID. A PID alone is not sufficient, because the kernel reuses PIDs.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrGone is returned for a process that has ended, even if another process has its
// PID now.
var ErrGone = errors.New("process has ended")

// Identity identifies one process permanently. Identities are comparable; the zero
// Identity does not refer to a process.
type Identity struct {
	PID int `json:"pid"`
	// Start is when the process started, in a platform-specific unit: only
	// equality is meaningful.
	Start uint64 `json:"start"`
	// Boot is the ID of the host's boot within which Start is valid.
	Boot string `json:"boot"`
}

// Exit is how a process ended.
type Exit struct {
	// Known is false when the process was not a child of the caller, whose exit
	// status is not available.
	Known bool
	// Code is the exit status, or -1 when a signal ended the process.
	Code int
	// Signal is the signal that ended the process, or zero.
	Signal syscall.Signal
}

// Command describes a program to start.
type Command struct {
	// Path is the absolute path of the program. Args are its arguments without the
	// program name.
	Path string
	Args []string
	// Env is the complete environment; nil means the caller's.
	Env []string
	// Dir is the working directory; "" means the root directory, so that the
	// process does not keep a file system busy.
	Dir string
	// Log is the file to which standard output and standard error are appended. It
	// is created with mode 0600.
	Log string
	// Inherit are files that stay open in the program, from descriptor 3 on.
	Inherit []*os.File
	// Confine, unless nil, calls start such that the process which start starts is
	// restricted, and returns its error.
	Confine func(start func() error) error
}

// Start starts the program in a new session: it has no controlling terminal, does
// not receive the caller's terminal signals, and outlives the caller. The caller
// should Wait for it; otherwise it remains a zombie until the caller ends.
func Start(c Command) (Identity, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDONLY, 0)
	if err != nil {
		return Identity{}, err
	}
	defer null.Close()
	log, err := os.OpenFile(c.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return Identity{}, fmt.Errorf("opening the log of %s: %w", c.Path, err)
	}
	defer log.Close()

	dir := c.Dir
	if dir == "" {
		dir = "/"
	}
	env := c.Env
	if env == nil {
		env = os.Environ()
	}
	var p *os.Process
	start := func() (err error) {
		p, err = os.StartProcess(c.Path, append([]string{c.Path}, c.Args...), &os.ProcAttr{
			Dir:   dir,
			Env:   env,
			Files: append([]*os.File{null, log, log}, c.Inherit...),
			Sys:   &syscall.SysProcAttr{Setsid: true},
		})
		return err
	}
	if c.Confine == nil {
		err = start()
	} else {
		err = c.Confine(start)
	}
	if err != nil {
		return Identity{}, fmt.Errorf("starting %s: %w", c.Path, err)
	}
	// A child keeps its PID until it is reaped, so this cannot be another process.
	id, err := identify(p.Pid, true)
	if err != nil {
		_, _ = p.Kill(), wait(p)
		return Identity{}, fmt.Errorf("identifying %s: %w", c.Path, err)
	}
	return id, p.Release()
}

func wait(p *os.Process) error {
	_, err := p.Wait()
	return err
}

// Find returns the identity of the running process with this PID, or ErrGone. Use
// it only for a PID from a current source, such as the peer of a socket.
func Find(pid int) (Identity, error) {
	return identify(pid, false)
}

// Alive reports whether the process is running. A zombie is not.
func Alive(id Identity) bool {
	if id.PID <= 0 {
		return false
	}
	now, err := Find(id.PID)
	return err == nil && now == id
}

// Wait blocks until the process has ended or ctx is done, and reaps it if it is a
// child of the caller. Only the first of several Waits for a child returns a Known
// Exit.
func Wait(ctx context.Context, id Identity) (Exit, error) {
	if err := awaitEnd(ctx, id); err != nil {
		return Exit{}, err
	}
	return reap(id), nil
}

// reap collects the exit status of a child that has ended.
func reap(id Identity) Exit {
	var status syscall.WaitStatus
	for {
		pid, err := syscall.Wait4(id.PID, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid != id.PID {
			return Exit{Code: -1} // Not a child of this process, or reaped already.
		}
		break
	}
	if status.Signaled() {
		return Exit{Known: true, Code: -1, Signal: status.Signal()}
	}
	return Exit{Known: true, Code: status.ExitStatus()}
}

// SameBoot reports whether the host has not rebooted since the process was started.
func SameBoot(id Identity) bool {
	boot, err := bootID()
	return err == nil && boot == id.Boot
}

// BootID returns the ID of the host's current boot.
func BootID() (string, error) { return bootID() }
