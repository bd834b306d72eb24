// SPDX-License-Identifier: Apache-2.0

package simulator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/simulator/internal/control"
)

// busyTimeout is how long a program that answers may take, beyond the time that a Stop
// allows, to end a machine.
const busyTimeout = time.Minute

// Stop implements [machine.Runner]. A program that does not respond is killed, with all
// its machines; one that responds only if it has not ended the machine a minute later.
func (r *Runner) Stop(ctx context.Context, id string, o machine.StopOptions) (machine.StopMethod, error) {
	r.mu.Lock()
	e := r.machines[id]
	if e == nil {
		r.mu.Unlock()
		return machine.StoppedAlready, nil
	}
	revoked := r.revoke(e)
	active, press := e.active(), o.ACPITimeout > 0 && e.record.Alive() && r.responsive
	r.mu.Unlock()
	for _, c := range revoked {
		c.ended(errInterrupted)
	}
	if !active {
		return machine.StoppedAlready, nil
	}
	how, err := r.stop(ctx, e, press, o)
	if err != nil {
		return "", fmt.Errorf("stopping %s: %w", id, err)
	}
	return how, nil
}

var errInterrupted = errors.New("interrupted by a stop")

// revoke takes back the requests to a machine that have not been sent. A start ends
// with it; one that was sent is not sent again. The caller holds mu, and ends the other
// ones.
func (r *Runner) revoke(e *entry) (others []*call) {
	if e.starting != nil {
		e.starting.revoked = true
	}
	r.outbox = slices.DeleteFunc(r.outbox, func(c *call) bool {
		switch {
		case c.request.Machine != e.id || c.request.Operation == control.Stop:
			return false
		case c == e.starting:
			r.interrupt(e)
		default:
			others = append(others, c)
		}
		return true
	})
	return others
}

func (r *Runner) stop(ctx context.Context, e *entry, press bool, o machine.StopOptions) (machine.StopMethod, error) {
	never := func() bool { return false }
	if press && r.request(e.id, control.PowerDown) == nil {
		if gone, err := r.ended(ctx, e, o.ACPITimeout, never); gone || err != nil {
			return machine.StoppedByGuest, err
		}
	}
	quitTimeout := o.QuitTimeout
	if quitTimeout <= 0 {
		quitTimeout = machine.DefaultQuitTimeout
	}
	if gone, err := r.quit(ctx, e, quitTimeout, never); gone || err != nil {
		return machine.StoppedByQuit, err
	}
	// All machines end with the program. One that answers is only busy, such as with the
	// ends of many machines.
	silent := func() bool { return !r.responsive }
	if gone, err := r.quit(ctx, e, busyTimeout, silent); gone || err != nil {
		return machine.StoppedByQuit, err
	}
	r.mu.Lock()
	program := e.record.Process
	if !e.record.Alive() {
		program = r.program // it was asked to start the machine
	}
	r.mu.Unlock()
	r.log.Info("Killing the simulator, which does not end a machine", "machine", e.id, "pid", program.PID, "after", quitTimeout)
	if err := process.Signal(program, syscall.SIGKILL); err != nil && !errors.Is(err, process.ErrGone) {
		return "", fmt.Errorf("killing process %d: %w", program.PID, err)
	}
	if err := r.await(ctx, e, func() bool { return !e.active() }); err != nil {
		return "", fmt.Errorf("waiting for process %d to end after SIGKILL: %w", program.PID, err)
	}
	return machine.StoppedByKill, nil
}

// quit asks the program to end the machine, and waits as ended does.
func (r *Runner) quit(ctx context.Context, e *entry, timeout time.Duration, giveUp func() bool) (bool, error) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return false, errClosed
	}
	r.enqueueStop(e, e.startedAt())
	r.mu.Unlock()
	return r.ended(ctx, e, timeout, giveUp)
}

// enqueueStop asks the program to end a machine, unless the given power-on of it has
// ended. A request that is lost with a connection is sent again over the next one. The
// caller holds mu.
func (r *Runner) enqueueStop(e *entry, startedAt time.Time) {
	if !e.active() || !e.startedAt().Equal(startedAt) {
		return
	}
	r.enqueue(&call{
		request: control.Request{Operation: control.Stop, Machine: e.id},
		ended: func(err error) {
			if !errors.Is(err, errDisconnected) {
				return
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			if !r.closed {
				r.enqueueStop(e, startedAt)
			}
		},
	})
}

// ended waits for the machine to end and reports whether it did before the timeout, and
// before giveUp, evaluated with mu held, was true.
func (r *Runner) ended(ctx context.Context, e *entry, timeout time.Duration, giveUp func() bool) (bool, error) {
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := r.await(waiting, e, func() bool { return !e.active() || giveUp() })
	if err != nil && (ctx.Err() != nil || r.ctx.Err() != nil) {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return !e.active(), nil
}
