// SPDX-License-Identifier: Apache-2.0

// Package dispatch combines the runners of a host into one, so that its callers need
// not know which of them runs a machine.
package dispatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/pxelab/pxelab/internal/machine"
)

// Runner is a [machine.Runner] that passes each request to the Runner that knows the
// machine, and a start of an unknown machine to that of its Kind. It keeps no state: a
// machine belongs to the Runner that has its record, also after a restart.
type Runner struct {
	qemu, simulated machine.Runner
}

var _ machine.Runner = (*Runner)(nil)

// New returns a Runner that combines those of virtual and of simulated machines. The
// caller closes both after the last use of the result.
func New(qemu, simulated machine.Runner) *Runner {
	return &Runner{qemu: qemu, simulated: simulated}
}

// all returns the Runners; the first one answers for machines that none knows.
func (r *Runner) all() []machine.Runner { return []machine.Runner{r.qemu, r.simulated} }

// of returns the Runner that knows a machine and its state: one that has it alive, else
// one that has its record, else the first one.
func (r *Runner) of(ctx context.Context, id string) (machine.Runner, machine.State, error) {
	var found machine.Runner
	var state machine.State
	for _, runner := range r.all() {
		s, err := runner.Observe(ctx, id)
		if err != nil {
			return nil, machine.State{}, err
		}
		known := s.Phase != machine.PhaseNotFound
		if found == nil || s.Phase.Alive() || known && state.Phase == machine.PhaseNotFound {
			found, state = runner, s
		}
		if s.Phase.Alive() {
			break
		}
	}
	return found, state, nil
}

// Start implements [machine.Runner]. A machine that is known to the Runner of another
// Kind, which its object excludes, is removed there first unless it runs.
func (r *Runner) Start(ctx context.Context, m machine.Machine) error {
	chosen := r.qemu
	if m.Kind == machine.KindSimulated {
		chosen = r.simulated
	}
	if machine.CheckID(m.ID) != nil {
		return chosen.Start(ctx, m) // refuses it
	}
	known, state, err := r.of(ctx, m.ID)
	switch {
	case err != nil:
		return fmt.Errorf("starting %s: %w", m.ID, err)
	case state.Phase.Alive():
		return known.Start(ctx, asKind(m, known == r.simulated))
	case state.Phase != machine.PhaseNotFound && known != chosen:
		if err := known.Remove(ctx, m.ID); err != nil {
			return fmt.Errorf("starting %s: %w", m.ID, err)
		}
	}
	return chosen.Start(ctx, m)
}

// asKind returns a description that the Runner of a kind accepts, for a machine that it
// has alive and leaves as it is.
func asKind(m machine.Machine, simulated bool) machine.Machine {
	m.Kind = machine.KindQEMU
	if simulated {
		m.Kind = machine.KindSimulated
	} else {
		m.Simulation = nil
	}
	return m
}

// Observe implements [machine.Runner].
func (r *Runner) Observe(ctx context.Context, id string) (machine.State, error) {
	_, state, err := r.of(ctx, id)
	return state, err
}

// List implements [machine.Runner].
func (r *Runner) List(ctx context.Context) ([]machine.State, error) {
	var all []machine.State
	for _, runner := range r.all() {
		states, err := runner.List(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, states...)
	}
	slices.SortStableFunc(all, func(a, b machine.State) int {
		if c := cmp.Compare(a.ID, b.ID); c != 0 || a.Phase.Alive() == b.Phase.Alive() {
			return c
		}
		if a.Phase.Alive() {
			return -1
		}
		return 1
	})
	return slices.CompactFunc(all, func(a, b machine.State) bool { return a.ID == b.ID }), nil
}

// PowerDown implements [machine.Runner].
func (r *Runner) PowerDown(ctx context.Context, id string) error {
	runner, _, err := r.of(ctx, id)
	if err != nil {
		return err
	}
	return runner.PowerDown(ctx, id)
}

// Stop implements [machine.Runner].
func (r *Runner) Stop(ctx context.Context, id string, o machine.StopOptions) (machine.StopMethod, error) {
	runner, _, err := r.of(ctx, id)
	if err != nil {
		return "", err
	}
	return runner.Stop(ctx, id, o)
}

// Reset implements [machine.Runner].
func (r *Runner) Reset(ctx context.Context, id string) error {
	runner, _, err := r.of(ctx, id)
	if err != nil {
		return err
	}
	return runner.Reset(ctx, id)
}

// SetBootOrder implements [machine.Runner].
func (r *Runner) SetBootOrder(ctx context.Context, id string, devices []string) error {
	runner, _, err := r.of(ctx, id)
	if err != nil {
		return err
	}
	return runner.SetBootOrder(ctx, id, devices)
}

// Remove implements [machine.Runner]. Each Runner removes what it knows of the machine.
// None removes the files of a machine that another one has alive.
func (r *Runner) Remove(ctx context.Context, id string) error {
	_, state, err := r.of(ctx, id)
	if err != nil {
		return err
	}
	if state.Phase.Alive() {
		return fmt.Errorf("removing %s: %w", id, machine.ErrRunning)
	}
	var errs []error
	for _, runner := range r.all() {
		errs = append(errs, runner.Remove(ctx, id))
	}
	return errors.Join(errs...)
}

// Watch implements [machine.Runner].
func (r *Runner) Watch(ctx context.Context) <-chan machine.Event {
	out := make(chan machine.Event)
	var sources sync.WaitGroup
	for _, runner := range r.all() {
		events := runner.Watch(ctx)
		sources.Go(func() {
			for e := range events {
				select {
				case out <- e:
				case <-ctx.Done():
				}
			}
		})
	}
	go func() {
		sources.Wait()
		close(out)
	}()
	return out
}
