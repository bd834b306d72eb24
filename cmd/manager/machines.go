// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/machine/dispatch"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/simulator"
)

// newMachines adopts the machines of the data directory.
func newMachines(o options) (machine.Runner, func(), error) {
	virtual, err := qemu.New(qemu.Options{DataDir: o.dirs.Data, RuntimeDir: o.dirs.Runtime, Log: ctrl.Log.WithName("qemu")})
	if err != nil {
		return nil, nil, err
	}
	simulated, err := simulator.New(simulator.Options{
		DataDir: o.dirs.Data, RuntimeDir: o.dirs.Runtime,
		Program: filepath.Join(o.programsDir, "simulator"), Log: ctrl.Log.WithName("simulator"),
	})
	if err != nil {
		virtual.Close()
		return nil, nil, err
	}
	closeAll := func() {
		simulated.Close()
		virtual.Close()
	}
	return dispatch.New(virtual, simulated), closeAll, nil
}

// powerDownPatience is how long a guest may take to shut down; emulated guests
// are slow. The pod's terminationGracePeriodSeconds is longer.
const powerDownPatience = 90 * time.Second

// shutDown stops all machines. The reconcilers, which would restart them, must
// have stopped.
func shutDown(machines machine.Runner, log logr.Logger) error {
	options := machine.StopOptions{ACPITimeout: powerDownPatience}
	return machine.StopAll(context.Background(), machines, options, func(s machine.State, how machine.StopMethod) {
		if how == "" {
			log.Info("Shutting down", "machine", s.Name)
			return
		}
		log.Info("Shut down", "machine", s.Name, "by", how)
	})
}
