// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"

	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/pxelab/pxelab/internal/landlock"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/machine/dispatch"
	"github.com/pxelab/pxelab/internal/metrics"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/simulator"
)

// newMachines adopts the machines of the data directory.
func newMachines(o options, recorder *metrics.Recorder) (machine.Runner, func(), error) {
	version := landlock.Version()
	recorder.Confinement(version)
	if version == 0 {
		ctrl.Log.WithName("qemu").Info("This host has no Landlock: QEMU can open all files of this user, see docs/security.md")
	}
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
