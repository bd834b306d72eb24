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

// Stop implements [machine.Runner]. A program that does not respond is killed, with all
// its machines.
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
// with it. The caller holds mu, and ends the other ones.
func (r *Runner) revoke(e *entry) (others []*call) {
	r.outbox = slices.DeleteFunc(r.outbox, func(c *call) bool {
		switch {
		case c.request.Machine != e.id || c.request.Operation == control.Stop:
			return false
		case c == e.starting:
			e.starting = nil
			e.notify()
			r.publish(e.id, machine.EventChanged, "start interrupted")
		default:
			others = append(others, c)
		}
		return true
	})
	return others
}

func (r *Runner) stop(ctx context.Context, e *entry, press bool, o machine.StopOptions) (machine.StopMethod, error) {
	if press && r.request(e.id, control.PowerDown) == nil {
		if gone, err := r.ended(ctx, e, o.ACPITimeout); gone || err != nil {
			return machine.StoppedByGuest, err
		}
	}
	quitTimeout := o.QuitTimeout
	if quitTimeout <= 0 {
		quitTimeout = machine.DefaultQuitTimeout
	}
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return "", errClosed
	}
	r.enqueue(&call{request: control.Request{Operation: control.Stop, Machine: e.id}, ended: func(error) {}})
	r.mu.Unlock()
	if gone, err := r.ended(ctx, e, quitTimeout); gone || err != nil {
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

// ended waits for the machine to end and reports whether it did before the timeout.
func (r *Runner) ended(ctx context.Context, e *entry, timeout time.Duration) (bool, error) {
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := r.await(waiting, e, func() bool { return !e.active() })
	if err != nil && ctx.Err() == nil && r.ctx.Err() == nil {
		return false, nil
	}
	return err == nil, err
}
