// SPDX-License-Identifier: Apache-2.0

package simulator

import (
	"context"
	"maps"
	"slices"

	"github.com/pxelab/pxelab/internal/machine"
)

// Observe implements [machine.Runner]. It does no I/O.
func (r *Runner) Observe(_ context.Context, id string) (machine.State, error) {
	if err := machine.CheckID(id); err != nil {
		return machine.State{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.machines[id]
	if e == nil {
		return machine.State{ID: id, Phase: machine.PhaseNotFound, Paths: r.paths(id)}, nil
	}
	return r.state(e), nil
}

// List implements [machine.Runner].
func (r *Runner) List(context.Context) ([]machine.State, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]machine.State, 0, len(r.machines))
	for _, id := range slices.Sorted(maps.Keys(r.machines)) {
		if s := r.state(r.machines[id]); s.Phase != machine.PhaseNotFound {
			all = append(all, s)
		}
	}
	return all, nil
}

// state returns what is known of a machine. The caller holds mu.
func (r *Runner) state(e *entry) machine.State {
	record := &e.record
	switch {
	case e.starting != nil && !record.Alive():
		record = e.starting.request.Record
		return machine.State{
			ID: e.id, Name: record.Machine.Name, Phase: machine.PhaseStarting, StartedAt: record.StartedAt, Digest: record.Digest,
			Accelerator: machine.NoGuest, HostMemory: machine.SimulatedFootprint, BootOrder: slices.Clone(record.BootOrder), Paths: record.Machine.Paths,
		}
	case record.Machine.ID == "":
		return machine.State{ID: e.id, Phase: machine.PhaseNotFound, Paths: r.paths(e.id)}
	}
	s := machine.State{
		ID: e.id, Name: record.Machine.Name, Phase: machine.PhaseStopped, Digest: record.Digest, Accelerator: machine.NoGuest,
		BootOrder: slices.Clone(record.BootOrder), Paths: record.Machine.Paths,
	}
	if record.Exit != nil {
		exit := *record.Exit
		s.Exit = &exit
		return s
	}
	switch {
	case !r.responsive:
		s.Phase = machine.PhaseUnresponsive
	case record.Executes:
		s.Phase, s.RunState = machine.PhaseRunning, "running"
	default:
		s.Phase = machine.PhaseStarting
	}
	s.PID, s.StartedAt, s.HostMemory = record.Process.PID, record.StartedAt, machine.SimulatedFootprint
	s.Resets, s.SerialOffset, s.PowerDownRequestedAt = record.Resets, record.SerialOffset, record.PowerDownRequestedAt
	return s
}
