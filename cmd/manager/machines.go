// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"

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
