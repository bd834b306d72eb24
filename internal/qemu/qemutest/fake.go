// SPDX-License-Identifier: Apache-2.0

// Package qemutest has a [qemu.Runner] that runs nothing, for the tests of what
// drives one, and the conformance suite that it and the real Runner pass.
package qemutest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/pxelab/pxelab/internal/qemu"
)

// Fake is a [qemu.Runner] in memory. Tests script what the guests do with Exit,
// GuestShutdown, GuestReset, Panic, SetRunState and Fail. Safe for concurrent
// use.
type Fake struct {
	feed qemu.Feed

	mu       sync.Mutex
	machines map[string]*fakeMachine
	failures map[string]error
	nextPID  int
	nextPort int
	now      func() time.Time
	paths    func(id string) qemu.Paths
}

type fakeMachine struct {
	described    qemu.Machine
	state        qemu.State
	ignoresPower bool
}

var _ qemu.Runner = (*Fake)(nil)

// NewFake is a Runner without machines. paths says where the files of a machine
// would be that is started now.
func NewFake(paths func(id string) qemu.Paths) *Fake {
	return &Fake{
		machines: map[string]*fakeMachine{},
		failures: map[string]error{},
		nextPID:  1000,
		nextPort: 40000,
		now:      time.Now,
		paths:    paths,
	}
}

// SetClock replaces the clock that stamps states and events.
func (f *Fake) SetClock(now func() time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = now
}

// Start is [qemu.Runner.Start].
func (f *Fake) Start(ctx context.Context, m qemu.Machine) error {
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
	fm := &fakeMachine{described: m, state: qemu.State{
		ID: m.ID, Name: m.Name, Phase: qemu.PhaseRunning, PID: f.nextPID, StartedAt: f.now(),
		Digest: m.Digest(), Accelerator: qemu.TCG, RunState: "running", BootOrder: m.BootOrder(),
		Forwards: f.forwards(m), Paths: f.paths(m.ID),
	}}
	if m.Accelerator != "" {
		fm.state.Accelerator = m.Accelerator
	}
	if known != nil {
		fm.ignoresPower = known.ignoresPower
	}
	f.machines[m.ID] = fm
	f.publish(m.ID, qemu.EventStarted, "")
	return nil
}

func (f *Fake) forwards(m qemu.Machine) map[string][]qemu.Forward {
	all := map[string][]qemu.Forward{}
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

// Observe is [qemu.Runner.Observe].
func (f *Fake) Observe(ctx context.Context, id string) (qemu.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(ctx, "Observe"); err != nil {
		return qemu.State{}, err
	}
	m := f.machines[id]
	if m == nil {
		return qemu.State{ID: id, Phase: qemu.PhaseNotFound, Paths: f.paths(id)}, nil
	}
	return snapshot(m), nil
}

// List is [qemu.Runner.List].
func (f *Fake) List(ctx context.Context) ([]qemu.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(ctx, "List"); err != nil {
		return nil, err
	}
	var all []qemu.State
	for _, id := range slices.Sorted(maps.Keys(f.machines)) {
		all = append(all, snapshot(f.machines[id]))
	}
	return all, nil
}

// PowerDown is [qemu.Runner.PowerDown]. The guest obeys at once unless
// IgnorePowerButton was called.
func (f *Fake) PowerDown(ctx context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, err := f.running(ctx, "PowerDown", id)
	if err != nil {
		return err
	}
	m.state.PowerDownRequestedAt = f.now()
	if !m.ignoresPower {
		f.exit(m, qemu.Exit{Reason: qemu.ExitGuestShutdown})
	}
	return nil
}

// Stop is [qemu.Runner.Stop]. It never waits.
func (f *Fake) Stop(ctx context.Context, id string, o qemu.StopOptions) (qemu.StopMethod, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(ctx, "Stop"); err != nil {
		return "", err
	}
	m := f.machines[id]
	switch {
	case m == nil || !m.state.Phase.Alive():
		return qemu.StoppedAlready, nil
	case o.ACPITimeout > 0 && !m.ignoresPower && m.state.Phase == qemu.PhaseRunning:
		m.state.PowerDownRequestedAt = f.now()
		f.exit(m, qemu.Exit{Reason: qemu.ExitGuestShutdown})
		return qemu.StoppedByGuest, nil
	case m.state.Phase == qemu.PhaseUnresponsive:
		f.exit(m, qemu.Exit{Reason: qemu.ExitStopped, Code: -1, Signal: "killed"})
		return qemu.StoppedByKill, nil
	default:
		f.exit(m, qemu.Exit{Reason: qemu.ExitStopped})
		return qemu.StoppedByQuit, nil
	}
}

// Reset is [qemu.Runner.Reset].
func (f *Fake) Reset(ctx context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, err := f.running(ctx, "Reset", id)
	if err != nil {
		return err
	}
	f.reset(m, "host-qmp-system-reset")
	return nil
}

// SetBootOrder is [qemu.Runner.SetBootOrder].
func (f *Fake) SetBootOrder(ctx context.Context, id string, devices []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, err := f.running(ctx, "SetBootOrder", id)
	if err != nil {
		return err
	}
	if err := m.described.CheckBootOrder(devices); err != nil {
		return err
	}
	if slices.Equal(m.state.BootOrder, devices) {
		return nil
	}
	m.state.BootOrder = slices.Clone(devices)
	f.publish(id, qemu.EventChanged, "boot order")
	return nil
}

// Remove is [qemu.Runner.Remove].
func (f *Fake) Remove(ctx context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(ctx, "Remove"); err != nil {
		return err
	}
	if m := f.machines[id]; m != nil && m.state.Phase.Alive() {
		return fmt.Errorf("removing %s: %w", id, qemu.ErrRunning)
	}
	delete(f.machines, id)
	return nil
}

// Watch is [qemu.Runner.Watch].
func (f *Fake) Watch(ctx context.Context) <-chan qemu.Event { return f.feed.Watch(ctx) }

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
		return nil, fmt.Errorf("%s of %s: %w", method, id, qemu.ErrNotRunning)
	}
	return m, nil
}

func (f *Fake) exit(m *fakeMachine, e qemu.Exit) {
	e.At = f.now()
	s := &m.state
	s.Phase, s.PID, s.StartedAt, s.RunState = qemu.PhaseStopped, 0, time.Time{}, ""
	s.Exit, s.Forwards, s.Resets, s.GuestPanicked = &e, nil, 0, false
	s.PowerDownRequestedAt, s.Stall = time.Time{}, nil
	if e.Reason == qemu.ExitGuestShutdown {
		f.publish(s.ID, qemu.EventShutdown, "guest-shutdown")
	}
	f.publish(s.ID, qemu.EventExited, string(e.Reason))
}

func (f *Fake) reset(m *fakeMachine, why string) {
	m.state.Resets++
	m.state.GuestPanicked, m.state.Stall = false, nil
	m.state.Phase, m.state.RunState = qemu.PhaseRunning, "running"
	f.publish(m.state.ID, qemu.EventReset, why)
}

func (f *Fake) publish(id string, t qemu.EventType, detail string) {
	f.feed.Publish(qemu.Event{ID: id, Type: t, Detail: detail, At: f.now()})
}

// snapshot is a copy that shares nothing with the original.
func snapshot(m *fakeMachine) qemu.State {
	s := m.state
	s.BootOrder = slices.Clone(s.BootOrder)
	s.Forwards = maps.Clone(s.Forwards)
	if s.Exit != nil {
		e := *s.Exit
		s.Exit = &e
	}
	return s
}
