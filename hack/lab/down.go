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

	"github.com/pxelab/pxelab/internal/qemu"
)

// powerDownPatience is how long a guest may take to shut down; emulated ones
// are slow.
const powerDownPatience = 90 * time.Second

// down stops the manager first, so that nothing starts machines again; then
// the machines; the control plane last.
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
	l.say.line("the lab is down; \"make up\" brings the same machines back")
	return nil
}

// withMachines gives a runner on the lab's machines for as long as use runs.
func (l *lab) withMachines(use func(qemu.Runner) error) (err error) {
	machines, err := qemu.New(qemu.Options{DataDir: l.dirs.Data, RuntimeDir: l.dirs.Runtime, Log: logr.Discard()})
	if err != nil {
		return fmt.Errorf("looking for the lab's machines: %w", err)
	}
	defer func() { err = errors.Join(err, machines.Close()) }()
	return use(machines)
}

func (l *lab) stopMachines(ctx context.Context) error {
	return l.withMachines(func(machines qemu.Runner) error {
		return qemu.StopAll(ctx, machines, qemu.StopOptions{ACPITimeout: powerDownPatience}, func(s qemu.State, how qemu.StopMethod) {
			if how == "" {
				l.say.line("shutting down %s (process %d)", s.Name, s.PID)
				return
			}
			l.say.line("%s is off (%s)", s.Name, how)
		})
	})
}

// labData are the entries of the data directory that belong to a lab. Others
// are somebody else's: the directory may have been chosen by the user.
var labData = []string{"artifacts", "controlplane", "id", "logs", "machines", "manager.lock", "retained", "run"}

// clean removes the lab's data. The cache stays.
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
	// Gone if nothing else is in it.
	_ = os.Remove(l.dirs.Data)
	l.say.line("removed the lab's data from %s", l.dirs.Data)
	if left, err := os.ReadDir(l.dirs.Data); err == nil && len(left) > 0 {
		l.say.line("left what is not the lab's, %s among it", left[0].Name())
	}
	return nil
}
