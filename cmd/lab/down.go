// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/machine/dispatch"
	"github.com/pxelab/pxelab/internal/ownership"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/simulator"
)

// powerDownTimeout is how long a guest may take to shut down; emulated guests
// are slow.
const powerDownTimeout = 90 * time.Second

// down stops the manager first, so that it does not restart machines, then the
// machines, and the control plane last.
func (l *lab) down(ctx context.Context) error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return l.stopAll(ctx)
}

func (l *lab) stopAll(ctx context.Context) error {
	if err := l.stopProgram(ctx, manager); err != nil {
		return err
	}
	if err := l.stopMachines(ctx); err != nil {
		return err
	}
	if err := l.stopProgram(ctx, controlPlane); err != nil {
		return err
	}
	l.out.line("the lab is stopped; \"make up\" starts the same machines again")
	return nil
}

// withMachines calls use with a runner for the lab's machines. It fails while a
// manager uses the data directory, also one that this command did not start, and
// excludes managers until use returns.
func (l *lab) withMachines(use func(labMachines) error) (err error) {
	directory, err := ownership.AcquireDirectory(l.dirs.Data)
	if err != nil {
		return fmt.Errorf("opening the lab's machines: %w", err)
	}
	defer func() { err = errors.Join(err, directory.Release()) }()
	virtual, err := qemu.New(qemu.Options{DataDir: l.dirs.Data, RuntimeDir: l.dirs.Runtime, Log: logr.Discard()})
	if err != nil {
		return fmt.Errorf("opening the lab's machines: %w", err)
	}
	defer virtual.Close()
	// It starts no machine, and so needs no program.
	simulated, err := simulator.New(simulator.Options{DataDir: l.dirs.Data, RuntimeDir: l.dirs.Runtime, Log: logr.Discard()})
	if err != nil {
		return fmt.Errorf("opening the lab's machines: %w", err)
	}
	defer simulated.Close()
	return use(labMachines{dispatch.New(virtual, simulated), simulated})
}

// labMachines are the machines of a lab.
type labMachines struct {
	machine.Runner
	simulated *simulator.Runner
}

func (l *lab) stopMachines(ctx context.Context) error {
	return l.withMachines(func(machines labMachines) error {
		err := machine.StopAll(ctx, machines, machine.StopOptions{ACPITimeout: powerDownTimeout}, func(s machine.State, how machine.StopMethod) {
			if how == "" {
				l.out.line("shutting down %s (process %d)", s.Name, s.PID)
				return
			}
			l.out.line("%s is off (%s)", s.Name, how)
		})
		if err != nil {
			return err
		}
		// It would exit a moment later, because it has no machines.
		ctx, cancel := context.WithTimeout(ctx, stopTimeout)
		defer cancel()
		return machines.simulated.Retire(ctx)
	})
}

// labData lists the entries of the data directory that belong to a lab. The user
// may have chosen a directory that contains other files.
var labData = []string{"artifacts", "controlplane", "digest.key", "id", "logs", "machines", "manager.lock", "retained", "run"}

// clean stops the lab and removes its data. It keeps the cache.
func (l *lab) clean(ctx context.Context) error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.stopAll(ctx); err != nil {
		return err
	}
	var errs []error
	for _, name := range labData {
		errs = append(errs, os.RemoveAll(filepath.Join(l.dirs.Data, name)))
	}
	errs = append(errs, os.RemoveAll(l.dirs.Runtime))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing the lab's data: %w", err)
	}
	// Remove fails, as it should, if the directory contains other files.
	_ = os.Remove(l.dirs.Data)
	l.out.line("removed the lab's data from %s", l.dirs.Data)
	if left, err := os.ReadDir(l.dirs.Data); err == nil && len(left) > 0 {
		l.out.line("kept files that do not belong to the lab, for example %s", left[0].Name())
	}
	return nil
}
