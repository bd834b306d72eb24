// SPDX-License-Identifier: Apache-2.0

// Package qemutest provides a fake [machine.Runner] for tests of its callers, a fake of
// QEMU's program for tests of the real Runner, and the conformance suite that both
// Runners pass.
package qemutest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/pxelab/pxelab/internal/machine"
)

// Fake is an in-memory [machine.Runner]. Tests simulate guests and failures with
// Exit, GuestShutdown, GuestReset, Panic, SetRunState, StallDisk and Fail. Safe
// for concurrent use.
type Fake struct {
	feed machine.Feed

	mu       sync.Mutex
	machines map[string]*fakeMachine
	failures map[string]error  // by method
	failing  map[string]string // by machine
	hanging  map[string]bool   // by machine
	holding  bool
	nextPID  int
	nextPort int
	now      func() time.Time
	paths    func(id string) machine.Paths
}

type fakeMachine struct {
	described    machine.Machine
	state        machine.State
	ignoresPower bool
}

var _ machine.Runner = (*Fake)(nil)

// NewFake returns a Fake without machines. paths returns the Paths that the Fake
// reports for a machine.
func NewFake(paths func(id string) machine.Paths) *Fake {
	return &Fake{
		machines: map[string]*fakeMachine{},
		failures: map[string]error{},
		failing:  map[string]string{},
		hanging:  map[string]bool{},
		nextPID:  1000,
		nextPort: 40000,
		now:      time.Now,
		paths:    paths,
	}
}

// SetClock replaces the clock used for the timestamps of states and events.
func (f *Fake) SetClock(now func() time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = now
}

// Start implements [machine.Runner].
func (f *Fake) Start(ctx context.Context, m machine.Machine) error {
	if err := m.Validate(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(ctx, "Start"); err != nil {
		return fmt.Errorf("starting qemu for %s: %w", m.ID, err)
	}
	known := f.machines[m.ID]
	if known != nil && known.state.Phase.Alive() {
		return nil
	}
	f.nextPID++
	fm := &fakeMachine{described: m, state: machine.State{
		ID: m.ID, Name: m.Name, Phase: machine.PhaseStarting, PID: f.nextPID, StartedAt: f.now(),
		Digest: m.Digest(), Accelerator: machine.TCG, RunState: "prelaunch", BootOrder: m.BootOrder(),
		Forwards: f.forwards(m), Paths: f.paths(m.ID),
	}}
	if m.Accelerator != "" {
		fm.state.Accelerator = m.Accelerator
	}
	fm.state.HostMemory = machine.Footprint(m.MemoryMiB, fm.state.Accelerator)
	if known != nil {
		fm.ignoresPower = known.ignoresPower
	}
	f.machines[m.ID] = fm
	switch output := f.failing[m.ID]; {
	case output != "":
		f.exit(fm, machine.Exit{Reason: machine.ExitNotStarted, Code: -1, Output: output})
	case !f.holding:
		f.started(fm)
	}
	return nil
}

// started lets the guest of a machine that starts execute.
func (f *Fake) started(m *fakeMachine) {
	m.state.Phase, m.state.RunState = machine.PhaseRunning, "running"
	if f.hanging[m.state.ID] {
		m.state.Phase, m.state.RunState = machine.PhaseUnresponsive, "unknown"
	}
	f.publish(m.state.ID, machine.EventStarted, "")
}

func (f *Fake) forwards(m machine.Machine) map[string][]machine.Forward {
	all := map[string][]machine.Forward{}
	for _, n := range m.NICs {
		if n.Backend.User == nil {
			continue
		}
		for _, fw := range n.Backend.User.Forwards {
			if fw.HostPort == 0 {
				f.nextPort++
				fw.HostPort = f.nextPort
			}
			all[n.ID] = append(all[n.ID], fw)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// Hang makes the QEMU of a machine stop responding, now or when it has started.
func (f *Fake) Hang(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hanging[id] = true
	if m := f.machines[id]; m != nil && m.state.Phase == machine.PhaseRunning {
		m.state.Phase, m.state.RunState = machine.PhaseUnresponsive, "unknown"
	}
}

// Observe implements [machine.Runner].
func (f *Fake) Observe(ctx context.Context, id string) (machine.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(ctx, "Observe"); err != nil {
		return machine.State{}, err
	}
	m := f.machines[id]
	if m == nil {
		return machine.State{ID: id, Phase: machine.PhaseNotFound, Paths: f.paths(id)}, nil
	}
	return snapshot(m), nil
}

// List implements [machine.Runner].
func (f *Fake) List(ctx context.Context) ([]machine.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(ctx, "List"); err != nil {
		return nil, err
	}
	var all []machine.State
	for _, id := range slices.Sorted(maps.Keys(f.machines)) {
		all = append(all, snapshot(f.machines[id]))
	}
	return all, nil
}

// Remove implements [machine.Runner].
func (f *Fake) Remove(ctx context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(ctx, "Remove"); err != nil {
		return err
	}
	if m := f.machines[id]; m != nil && m.state.Phase.Alive() {
		return fmt.Errorf("removing %s: %w", id, machine.ErrRunning)
	}
	delete(f.machines, id)
	return nil
}

// Watch implements [machine.Runner].
func (f *Fake) Watch(ctx context.Context) <-chan machine.Event { return f.feed.Watch(ctx) }

func (f *Fake) check(ctx context.Context, method string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return f.failures[method]
}

func (f *Fake) running(ctx context.Context, method, id string) (*fakeMachine, error) {
	if err := f.check(ctx, method); err != nil {
		return nil, err
	}
	m := f.machines[id]
	if m == nil || !m.state.Phase.Alive() {
		return nil, fmt.Errorf("%s of %s: %w", method, id, machine.ErrNotRunning)
	}
	return m, nil
}

func (f *Fake) exit(m *fakeMachine, e machine.Exit) {
	s := &m.state
	e.At, e.StartedAt = f.now(), s.StartedAt
	e.Requested = e.Reason == machine.ExitStopped || !s.PowerDownRequestedAt.IsZero()
	s.Phase, s.PID, s.StartedAt, s.RunState = machine.PhaseStopped, 0, time.Time{}, ""
	s.Exit, s.Forwards, s.Resets, s.GuestPanicked = &e, nil, 0, false
	s.HostMemory = 0
	s.PowerDownRequestedAt, s.Stall = time.Time{}, nil
	if e.Reason == machine.ExitGuestShutdown {
		f.publish(s.ID, machine.EventShutdown, "guest-shutdown")
	}
	f.publish(s.ID, machine.EventExited, string(e.Reason))
}

func (f *Fake) reset(m *fakeMachine, why string) {
	m.state.Resets++
	m.state.GuestPanicked, m.state.Stall = false, nil
	m.state.Phase, m.state.RunState = machine.PhaseRunning, "running"
	f.publish(m.state.ID, machine.EventReset, why)
}

func (f *Fake) publish(id string, t machine.EventType, detail string) {
	f.feed.Publish(machine.Event{ID: id, Type: t, Detail: detail, At: f.now()})
}

// snapshot returns a deep copy of the machine's state.
func snapshot(m *fakeMachine) machine.State {
	s := m.state
	s.BootOrder = slices.Clone(s.BootOrder)
	s.Forwards = maps.Clone(s.Forwards)
	if s.Exit != nil {
		e := *s.Exit
		s.Exit = &e
	}
	return s
}
