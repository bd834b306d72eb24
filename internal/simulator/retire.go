// SPDX-License-Identifier: Apache-2.0

package simulator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/simulator/internal/control"
)

// retireOutdated asks a program of another build to end once it runs no machine. The
// caller holds mu.
func (r *Runner) retireOutdated(l *link) {
	outdated := r.digest() != "" && r.digest() != l.hello.Program
	if !outdated || l.retiring || len(r.alive(func(*entry) bool { return true })) > 0 {
		return
	}
	for _, c := range r.sent {
		if c.request.Operation == control.Start {
			return
		}
	}
	if slices.ContainsFunc(r.outbox, func(c *call) bool { return c.request.Operation == control.Retire }) {
		return
	}
	r.log.Info("Replacing the simulator by another build", "pid", l.hello.Process.PID, "release", l.hello.Release)
	r.enqueue(retirement(func(error) {}))
	// Before the starts, which the next program gets.
	last := len(r.outbox) - 1
	r.outbox = append([]*call{r.outbox[last]}, r.outbox[:last]...)
}

// retirement returns a request to end the program, unless it runs a machine.
func retirement(ended func(error)) *call {
	return &call{request: control.Request{Operation: control.Retire}, ended: ended}
}

// Retire ends the program and returns when it has ended. It does nothing if none runs.
// The error is [machine.ErrRunning] while it runs a machine.
func (r *Runner) Retire(ctx context.Context) error {
	for {
		p, err := control.LoadProgram(r.files.Record)
		if errors.Is(err, os.ErrNotExist) || err == nil && !process.Alive(p.Process) {
			return nil
		}
		if err != nil {
			return err
		}
		result := make(chan error, 1)
		r.mu.Lock()
		if r.closed {
			r.mu.Unlock()
			return errClosed
		}
		r.enqueue(retirement(func(err error) { result <- err }))
		r.mu.Unlock()
		select {
		case err = <-result:
		case <-ctx.Done():
			return fmt.Errorf("ending the simulator (process %d): %w", p.Process.PID, ctx.Err())
		case <-r.ctx.Done():
			return errClosed
		}
		if errors.Is(err, machine.ErrRunning) {
			return fmt.Errorf("ending the simulator (process %d): %w", p.Process.PID, err)
		}
		if err == nil || errors.Is(err, errEnded) {
			if _, err := process.Wait(ctx, p.Process); err != nil {
				return fmt.Errorf("ending the simulator (process %d): %w", p.Process.PID, err)
			}
			return nil
		}
	}
}
