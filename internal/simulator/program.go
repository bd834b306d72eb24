// SPDX-License-Identifier: Apache-2.0

package simulator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/simulator/internal/control"
	"github.com/pxelab/pxelab/internal/version"
)

const (
	// startTimeout is how long a program may take to serve its socket on a busy host.
	startTimeout = 60 * time.Second
	// helloTimeout is how long a program may take to answer a connection.
	helloTimeout = 10 * time.Second
	// answerTimeout is how long the program may be silent before its machines are
	// unresponsive.
	answerTimeout = 5 * control.HeartbeatInterval
	// findInterval is how often a program is looked for that another Runner may have
	// started. One that is about to serve its socket is looked for after firstRetry,
	// and then less often, down to lastRetry.
	findInterval = 5 * time.Second
	firstRetry   = 10 * time.Millisecond
	lastRetry    = 500 * time.Millisecond
	// closeTimeout is how long a program that has closed its connection may take to
	// end, and endTimeout one that was sent SIGTERM.
	closeTimeout = 2 * time.Second
	endTimeout   = 15 * time.Second
	// maxOutput is how many bytes of the end of the program's log an Exit contains, and
	// maxLog the size above which the log is cut when the program is started.
	maxOutput = 4 << 10
	maxLog    = 16 << 20
)

var (
	errDisconnected = errors.New("the connection to the simulator was lost")
	errEnded        = errors.New("the simulator has ended")
	errNotStarted   = errors.New("starting the simulator")
	// errSilent is returned when a program runs and does not answer.
	errSilent = errors.New("the simulator does not answer")
)

// child is a program that this Runner has started. exit is set when done is closed.
type child struct {
	process   process.Identity
	logOffset int64
	done      chan struct{}
	exit      process.Exit
}

// run keeps the Runner connected to the program, and starts the program when a machine
// has to be started. It ends with Close.
func (r *Runner) run() {
	for r.ctx.Err() == nil {
		l, err := r.open()
		switch {
		case r.ctx.Err() != nil:
			if l != nil {
				_ = l.conn.Close()
			}
			return
		case l != nil:
			r.serve(l)
			r.disconnected(l)
			continue
		case err != nil:
			r.log.Info("Connecting to the simulator failed", "error", err.Error())
			r.failStarts(err)
		}
		if err == nil {
			r.settledOnce.Do(func() { close(r.settled) })
		}
		select {
		case <-r.wake:
		case <-time.After(findInterval):
		case <-r.ctx.Done():
		}
	}
}

// open connects to the running program, or to one that it starts if a machine is to be
// started. It returns nil if none runs and none is needed.
func (r *Runner) open() (*link, error) {
	deadline, retry := time.Now().Add(startTimeout), firstRetry
	var started *child
	for {
		l, alive, err := r.find()
		if l != nil {
			return l, nil
		}
		if !alive {
			r.settle(nil)
			switch {
			case !r.needed():
				return nil, nil
			case started == nil:
				if started, err = r.startProgram(); err != nil {
					return nil, err
				}
			case ended(started) && started.exit.Code == control.ExitRuns:
				started = nil // another one is about to serve its socket, or to end
			case ended(started):
				return nil, fmt.Errorf("%w: %s", errNotStarted, r.output(started.logOffset))
			}
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(errSilent, err)
		}
		select {
		case <-time.After(retry):
		case <-r.ctx.Done():
			return nil, r.ctx.Err()
		}
		retry = min(2*retry, lastRetry)
	}
}

func ended(c *child) bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// needed reports whether a machine is to be started.
func (r *Runner) needed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.outbox, func(c *call) bool {
		return c.request.Operation == control.Start && !r.obsolete(c)
	})
}

// find connects to the recorded program, if one is alive.
func (r *Runner) find() (l *link, alive bool, err error) {
	p, err := control.LoadProgram(r.files.Record)
	if errors.Is(err, os.ErrNotExist) || err == nil && !process.Alive(p.Process) {
		return nil, false, nil
	}
	if err != nil {
		// It is written atomically; a program that runs repairs it.
		r.log.Error(err, "The record of the simulator is unusable")
		return nil, false, nil
	}
	l, err = r.dial(p)
	if err != nil {
		return nil, process.Alive(p.Process), err
	}
	if l.hello.Protocol != control.Version {
		_ = l.conn.Close()
		return nil, true, r.replace(l.hello)
	}
	return l, true, nil
}

// replace terminates a program that speaks another version of the protocol: no request
// can reach it. Its machines end with it.
func (r *Runner) replace(h control.Hello) error {
	r.log.Info("Terminating a simulator of another version", "pid", h.Process.PID, "release", h.Release,
		"protocol", h.Protocol, "want", control.Version)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := process.Signal(h.Process, signal); errors.Is(err, process.ErrGone) {
			return nil
		} else if err != nil {
			return fmt.Errorf("terminating a simulator of another version: %w", err)
		}
		if r.awaitEnd(h.Process, endTimeout) {
			return nil
		}
	}
	return fmt.Errorf("terminating a simulator of another version: process %d did not end", h.Process.PID)
}

// startProgram starts the program, which records itself when it serves its socket.
func (r *Runner) startProgram() (*child, error) {
	if err := r.cutLog(); err != nil {
		return nil, err
	}
	c := &child{done: make(chan struct{})}
	if info, err := os.Stat(r.files.Log); err == nil {
		c.logOffset = info.Size()
	}
	var err error
	c.process, err = process.Start(process.Command{
		Path: r.options.Program, Args: []string{"--data-dir", r.options.DataDir, "--runtime-dir", r.options.RuntimeDir},
		Env: environment(), Log: r.files.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("%w; build it with \"make build\"", err)
	}
	r.log.Info("Started the simulator", "pid", c.process.PID, "program", r.options.Program)
	r.mu.Lock()
	r.child = c
	r.mu.Unlock()
	r.tasks.Go(func() {
		exit, err := process.Wait(r.ctx, c.process)
		if err != nil {
			return // the Runner is closed
		}
		c.exit = exit
		close(c.done)
		r.poke()
	})
	return c, nil
}

// environment returns the program's environment, as small as QEMU's.
func environment() []string {
	env := []string{"LC_ALL=C"}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GOMEMLIMIT"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// cutLog sets a large log of the program aside.
func (r *Runner) cutLog() error {
	info, err := os.Stat(r.files.Log)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.Size() <= maxLog {
		return nil
	}
	if err == nil {
		err = os.Rename(r.files.Log, r.files.Log+".1")
	}
	if err != nil {
		return fmt.Errorf("setting the log of the simulator aside: %w", err)
	}
	return nil
}

func (r *Runner) output(offset int64) string { return process.Tail(r.files.Log, offset, maxOutput) }

// digestOf returns the digest of the program that would be started; empty if it cannot
// be read.
func digestOf(path string) string {
	if path == "" {
		return ""
	}
	digest, err := version.FileDigest(path)
	if err != nil {
		return ""
	}
	return digest
}

// awaitEnd waits until a process has ended and reports whether it did before the
// timeout.
func (r *Runner) awaitEnd(p process.Identity, timeout time.Duration) bool {
	ctx, cancel := context.WithTimeout(r.ctx, timeout)
	defer cancel()
	r.mu.Lock()
	c := r.child
	r.mu.Unlock()
	if c == nil || c.process != p {
		_, err := process.Wait(ctx, p)
		return err == nil
	}
	// Its exit status is collected once.
	select {
	case <-c.done:
		return true
	case <-ctx.Done():
		return false
	}
}
