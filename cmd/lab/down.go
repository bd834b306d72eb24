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

const (
	// powerDownTimeout is how long a guest may take to shut down; emulated guests
	// are slow.
	powerDownTimeout = 90 * time.Second
	// stopMachinesTimeout is how long all machines, which are stopped at the same time,
	// may take to end. A QEMU that does not quit is killed; a kernel that does not end
	// a killed process must not block the rest.
	stopMachinesTimeout = powerDownTimeout + 2*machine.DefaultQuitTimeout + time.Minute
	// recordTimeout is how long the cluster may take to answer, and then to record that
	// the machines are off.
	recordTimeout = 15 * time.Second
)

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

// stopAll continues after a failure, unless a manager uses the machines. It returns an
// error that names what still runs.
func (l *lab) stopAll(ctx context.Context) error {
	// The manager's record, which names its cluster, is removed with it.
	objects := l.objectsOf()
	errs := []error{l.stopProgram(ctx, manager)}
	errs = append(errs, l.withMachines(func(machines labMachines) error {
		err := l.stopMachines(ctx, machines)
		l.recordDown(ctx, machines.directory, machines, objects)
		if err != nil {
			return err
		}
		return machines.retire(ctx)
	}))
	err := errors.Join(errs...)
	if ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	if errors.Is(err, ownership.ErrInUse) {
		return fmt.Errorf("%w\nthe machines and the control plane are left running", err)
	}
	if err := errors.Join(err, l.stopProgram(ctx, controlPlane)); err != nil {
		return fmt.Errorf("the lab is not completely stopped:\n%w", err)
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
	return use(labMachines{dispatch.New(virtual, simulated), directory, simulated})
}

// labMachines are the machines of a lab.
type labMachines struct {
	machine.Runner
	directory *ownership.Directory
	simulated *simulator.Runner
}

// retire ends the simulator, which has no machines any more and would exit a moment later.
func (m labMachines) retire(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	return m.simulated.Retire(ctx)
}

// stopMachines stops all machines at the same time, and prints how each was stopped and
// how many were. The error names those that still run.
func (l *lab) stopMachines(ctx context.Context, machines machine.Runner) error {
	ctx, cancel := context.WithTimeoutCause(ctx, stopMachinesTimeout, fmt.Errorf("not off after %s", stopMachinesTimeout))
	defer cancel()
	asked, off := 0, map[machine.StopMethod]int{}
	err := machine.StopAll(ctx, machines, machine.StopOptions{ACPITimeout: powerDownTimeout}, func(s machine.State, how machine.StopMethod) {
		if how == "" {
			asked++
			l.out.line("shutting down %s (process %d)", s.Name, s.PID)
			return
		}
		off[how]++
		l.out.line("%s is off: %s", s.Name, stopText(how))
	})
	if asked > 0 {
		l.out.line("%s", countText(asked, off))
	}
	return err
}

// stopText describes how a machine was stopped.
func stopText(how machine.StopMethod) string {
	switch how {
	case machine.StoppedByGuest:
		return "its guest shut down"
	case machine.StoppedByQuit:
		return "switched off, because its guest did not shut down in time"
	case machine.StoppedByKill:
		return "killed, because it did not respond"
	default:
		return "it had ended already"
	}
}

// countText counts the machines of those that were asked to stop that are off.
func countText(asked int, off map[machine.StopMethod]int) string {
	total := 0
	for _, n := range off {
		total += n
	}
	text := fmt.Sprintf("%d of %d machines are off", total, asked)
	if n := off[machine.StoppedByQuit]; n > 0 {
		text += fmt.Sprintf(", %d without a shutdown of the guest", n)
	}
	if n := off[machine.StoppedByKill]; n > 0 {
		text += fmt.Sprintf(", %d killed", n)
	}
	return text
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
