// SPDX-License-Identifier: Apache-2.0

package simulator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/simulator/internal/control"
)

// validate checks what a simulated machine needs besides [machine.Machine.Validate].
func validate(m machine.Machine) error {
	if err := m.Validate(); err != nil {
		return err
	}
	if m.Kind != machine.KindSimulated {
		return fmt.Errorf("%w: it is of kind %q, not %s", machine.ErrInvalid, m.Kind, machine.KindSimulated)
	}
	for _, n := range m.NICs {
		if n.Backend.Dgram == nil {
			return fmt.Errorf("%w: %s of a simulated machine must be attached to a user-space network", machine.ErrInvalid, n.ID)
		}
	}
	return nil
}

// Start implements [machine.Runner].
func (r *Runner) Start(_ context.Context, m machine.Machine) error {
	if err := validate(m); err != nil {
		return fmt.Errorf("starting simulated machine %s: %w", m.ID, err)
	}
	record := control.Record{Machine: m, Digest: m.Digest(), StartedAt: time.Now(), BootOrder: m.BootOrder()}
	record.Machine.Paths = r.paths(m.ID)
	record.Machine.Accelerator = machine.NoGuest
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return fmt.Errorf("starting simulated machine %s: %w", m.ID, errClosed)
	}
	e := r.ensure(m.ID)
	switch {
	case e.removing:
		return fmt.Errorf("starting simulated machine %s: it is being removed; try again", m.ID)
	case e.active():
		return nil
	}
	record.PowerOns = e.record.PowerOns + 1
	c := &call{request: control.Request{Operation: control.Start, Machine: m.ID, Record: &record}}
	c.ended = func(err error) { r.startEnded(e, c, err) }
	e.starting = c
	e.notify()
	r.enqueue(c)
	return nil
}

// startEnded handles the reply to a start. Its result is in the machine's record.
func (r *Runner) startEnded(e *entry, c *call, err error) {
	r.mu.Lock()
	pending := e.starting == c
	switch {
	case !pending:
	case err == nil:
		e.starting = nil
		e.notify()
	case c.revoked && errors.Is(err, errDisconnected):
		err = nil // whether it was carried out is known with the next connection
	case c.revoked:
		r.interrupt(e)
		err = nil
	case errors.Is(err, control.ErrRetiring) || errors.Is(err, errDisconnected):
		// The next program gets it, or the next connection to this one, unless it was
		// carried out.
		r.enqueue(c)
		err = nil
	}
	r.mu.Unlock()
	if !pending || err == nil {
		return
	}
	reason := machine.ExitNotStarted
	if errors.Is(err, errEnded) {
		reason = machine.ExitFailed
	}
	record := c.request.Record.Clone()
	record.Exit = record.End(reason)
	record.Exit.Output = err.Error()
	r.save(record)
	r.mu.Lock()
	if e.starting == c {
		e.record, e.starting = record, nil
		e.notify()
	}
	r.mu.Unlock()
	r.log.Info("Starting a simulated machine failed", "machine", e.id, "name", record.Machine.Name, "error", err.Error())
	r.publish(e.id, machine.EventExited, string(reason))
}

// interrupt forgets a start that was not carried out. The caller holds mu.
func (r *Runner) interrupt(e *entry) {
	e.starting = nil
	e.notify()
	r.publish(e.id, machine.EventChanged, "start interrupted")
}

// interruptRevoked forgets the revoked starts, once it is known that they were not carried
// out: the program does not list their machines, or has ended. The caller holds mu.
func (r *Runner) interruptRevoked() {
	for _, e := range r.machines {
		if e.starting != nil && e.starting.revoked {
			r.interrupt(e)
		}
	}
}

// save writes the record of a machine that no program runs.
func (r *Runner) save(record control.Record) {
	if err := hostfs.PrivateDir(record.Machine.Paths.Dir); err != nil {
		r.log.Error(err, "Recording the exit of a simulated machine", "machine", record.Machine.ID)
		return
	}
	if err := record.Save(); err != nil {
		r.log.Error(err, "Recording the exit of a simulated machine", "machine", record.Machine.ID)
	}
}
