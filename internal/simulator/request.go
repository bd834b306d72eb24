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

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/simulator/internal/control"
)

// PowerDown implements [machine.Runner].
func (r *Runner) PowerDown(_ context.Context, id string) error {
	if err := r.request(id, control.PowerDown); err != nil {
		return fmt.Errorf("pressing the power button of %s: %w", id, err)
	}
	return nil
}

// Reset implements [machine.Runner].
func (r *Runner) Reset(_ context.Context, id string) error {
	if err := r.request(id, control.Reset); err != nil {
		return fmt.Errorf("resetting %s: %w", id, err)
	}
	return nil
}

// request sends a request to a machine that runs, unless the same is under way.
func (r *Runner) request(id string, operation control.Operation) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.machines[id]
	if e == nil || !e.record.Alive() {
		return machine.ErrNotRunning
	}
	if r.closed {
		return errClosed
	}
	if e.underway[operation] {
		return nil
	}
	e.underway[operation] = true
	r.enqueue(&call{
		request: control.Request{Operation: operation, Machine: id},
		ended: func(err error) {
			r.mu.Lock()
			delete(e.underway, operation)
			r.mu.Unlock()
			if err != nil {
				r.log.Info("A request to a simulated machine failed", "machine", id, "request", operation, "error", err.Error())
				r.publish(id, machine.EventChanged, string(operation)+": "+err.Error())
			}
		},
	})
	return nil
}

// SetBootOrder implements [machine.Runner].
func (r *Runner) SetBootOrder(_ context.Context, id string, devices []string) error {
	if err := r.requestBootOrder(id, devices); err != nil {
		return fmt.Errorf("changing the boot order of %s: %w", id, err)
	}
	return nil
}

func (r *Runner) requestBootOrder(id string, devices []string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.machines[id]
	if e == nil || !e.record.Alive() {
		return machine.ErrNotRunning
	}
	if r.closed {
		return errClosed
	}
	if err := e.record.Machine.CheckBootOrder(devices); err != nil {
		return err
	}
	if o := e.order; o != nil && slices.Equal(o.devices, devices) {
		if o.err == nil || time.Now().Before(o.retryAt) {
			return o.err
		}
	}
	o := &bootOrder{devices: slices.Clone(devices)}
	e.order = o
	r.enqueue(&call{
		request: control.Request{Operation: control.SetBootOrder, Machine: id, Devices: o.devices},
		ended: func(err error) {
			r.mu.Lock()
			switch {
			case e.order != o: // another order was requested since
			case err == nil:
				e.order = nil
			default:
				o.err, o.retryAt = err, time.Now().Add(requestPause)
			}
			r.mu.Unlock()
			if err != nil {
				r.log.Info("Changing the boot order failed", "machine", id, "error", err.Error())
				r.publish(id, machine.EventChanged, "boot order: "+err.Error())
			}
		},
	})
	return nil
}

// Remove implements [machine.Runner]. It deletes a few small files.
func (r *Runner) Remove(_ context.Context, id string) error {
	if err := machine.CheckID(id); err != nil {
		return err
	}
	r.mu.Lock()
	e := r.ensure(id)
	switch {
	case e.removing:
		r.mu.Unlock()
		return fmt.Errorf("removing %s: it is being removed already; try again", id)
	case e.active():
		r.mu.Unlock()
		return fmt.Errorf("removing %s: %w", id, machine.ErrRunning)
	}
	e.removing = true
	record := e.record
	r.mu.Unlock()

	err := r.removeFiles(id, record)

	r.mu.Lock()
	defer r.mu.Unlock()
	e.removing = false
	if err != nil {
		return fmt.Errorf("removing %s: %w", id, err)
	}
	e.record = control.Record{}
	if r.machines[id] == e {
		delete(r.machines, id)
	}
	e.notify()
	return nil
}

// removeFiles deletes what was created for a machine, except its disks. The machine
// belongs to another Runner if there is no record of it.
func (r *Runner) removeFiles(id string, record control.Record) error {
	p := record.Machine.Paths
	if p == (machine.Paths{}) {
		p = r.paths(id)
	}
	unusable := p.Record + machine.UnusableSuffix
	if record.Machine.ID == "" && !exists(p.Record) && !exists(unusable) {
		return nil
	}
	for _, path := range record.Machine.DgramSockets() {
		if err := hostfs.RemoveStaleSocket("unixgram", path); err != nil {
			return err
		}
	}
	if err := hostfs.RemoveTemporary(p.Record); err != nil {
		return err
	}
	// The record is removed last, so that an interrupted removal can be repeated.
	for _, path := range []string{p.Serial, p.Sockets, p.SerialLog, p.SerialLog + ".1", unusable, p.Record, p.Dir} {
		err := os.Remove(path)
		notEmpty := errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST)
		switch {
		case err == nil, errors.Is(err, os.ErrNotExist):
		case notEmpty && (path == p.Dir || path == p.Sockets): // disks, and the switch's sockets
		default:
			return err
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
