// SPDX-License-Identifier: Apache-2.0

// Package process starts programs that outlive the one that started them, and
// finds them again without ever mistaking another process for one of them.
//
// A process is known by its [Identity]: PID, start time and the host's boot. A
// PID alone is recycled and proves nothing. The package knows nothing of what
// the programs do.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrGone is returned for a process that has ended, whoever has its PID now.
var ErrGone = errors.New("process has ended")

// Identity names one process for all time. Identities are comparable; the zero
// Identity names no process.
type Identity struct {
	PID int `json:"pid"`
	// Start is when the process started, in a unit of the platform's own: only
	// equality means something.
	Start uint64 `json:"start"`
	// Boot names the host's current boot; Start is only unique within one.
	Boot string `json:"boot"`
}

// Exit is how a process ended.
type Exit struct {
	// Known is false when the process was not our child, so that nobody told us.
	Known bool
	// Code is the exit status, or -1 when a signal ended the process.
	Code int
	// Signal ended the process, if not zero.
	Signal syscall.Signal
}

// Command says what to start.
type Command struct {
	// Path is the program, absolute. Args come after its name.
	Path string
	Args []string
	// Env is the whole environment; nil means the caller's.
	Env []string
	// Dir is the working directory; "" means the root directory, so that the
	// process holds no file system busy.
	Dir string
	// Log gets standard output and standard error, appended. Made with mode 0600.
	Log string
}

// Start starts the program in a session of its own: it has no terminal, gets no
// signals meant for the caller, and outlives it. The caller should Wait for it,
// or its entry in the process table stays until the caller ends.
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
	p, err := os.StartProcess(c.Path, append([]string{c.Path}, c.Args...), &os.ProcAttr{
		Dir:   dir,
		Env:   env,
		Files: []*os.File{null, log, log},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return Identity{}, fmt.Errorf("starting %s: %w", c.Path, err)
	}
	// Our child keeps its PID until it is waited for, so this cannot meet another.
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

// Find is the identity of the live process that has this PID now; ErrGone when
// there is none. Only for a PID that comes from a source that is current, such
// as the peer of a socket.
func Find(pid int) (Identity, error) {
	return identify(pid, false)
}

// Alive reports whether the process still runs. A zombie does not.
func Alive(id Identity) bool {
	if id.PID <= 0 {
		return false
	}
	now, err := Find(id.PID)
	return err == nil && now == id
}

// Wait blocks until the process has ended or ctx is done, and reaps it if it is
// a child of ours. Two waits for one child learn its Exit once: the other's is
// not Known.
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
			return Exit{Code: -1} // Not our child, or waited for already.
		}
		break
	}
	if status.Signaled() {
		return Exit{Known: true, Code: -1, Signal: status.Signal()}
	}
	return Exit{Known: true, Code: status.ExitStatus()}
}

// SameBoot reports whether the host still runs the boot in which the process
// was started.
func SameBoot(id Identity) bool {
	boot, err := bootID()
	return err == nil && boot == id.Boot
}

// BootID names the host's current boot.
func BootID() (string, error) { return bootID() }
