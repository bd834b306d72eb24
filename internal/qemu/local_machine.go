// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/qemu/internal/qmp"
)

const (
	// queryTimeout is how long a machine may take to answer while others wait for it
	// at the start of a Local.
	queryTimeout = 2 * time.Second
	// requestTimeout is how long a request may take; what a hung QEMU leaves undone
	// is requested again.
	requestTimeout = 30 * time.Second
	// requestPause is the time between attempts at a request that failed.
	requestPause = 2 * time.Second
)

// instance is one machine of a Local: its record, its QMP connection and the
// signals to the goroutines that supervise its process.
type instance struct {
	local *Local
	id    string
	// operating holds a token while an operation runs.
	operating chan struct{}

	mu     sync.Mutex
	record record
	client *qmp.Client
	// view is what was last observed of the process; zero before it has answered.
	view view
	// starting is the start that was accepted and has no process yet, or nil.
	starting *starting
	// queue is closed when the request that was enqueued last has ended.
	queue <-chan struct{}
	// underway are the names of the requests that are being carried out.
	underway map[string]bool
	// order is the boot order that was last requested, until it is set.
	order *bootOrder
	// resume requests that a paused guest resumes.
	resume bool
	// unknown is why it is not known whether, or as which process, the machine runs;
	// nil if it is known.
	unknown error
	// panics and diskErrors count the events of the process, which a guest can cause
	// at any rate. panicSeen is set by the first panic after a reset.
	panics, diskErrors int
	panicSeen          bool
	// removed is set for good when the machine's files are being deleted.
	removed bool
	// requests ends when a stop interrupts the requests that are under way.
	requests   context.Context //nolint:containedctx // its lifetime is that of several requests
	interrupts context.CancelFunc
	// changed is closed and replaced when a field guarded by mu has changed.
	changed chan struct{}
	// dirty requests that the record be written soon.
	dirty chan struct{}
	// poked wakes the observation of the machine.
	poked chan struct{}
}

// view is what was observed of a process.
type view struct {
	phase    machine.Phase
	runState string
	stall    *machine.Stall
}

// bootOrder is a requested boot order.
type bootOrder struct {
	devices []string
	// err is why the last attempt failed, nil while one is under way.
	err     error
	retryAt time.Time
}

func newInstance(l *Local, id string) *instance {
	m := &instance{
		local: l, id: id,
		operating: make(chan struct{}, 1),
		underway:  map[string]bool{},
		changed:   make(chan struct{}),
		dirty:     make(chan struct{}, 1),
		poked:     make(chan struct{}, 1),
	}
	m.requests, m.interrupts = context.WithCancel(l.ctx)
	return m
}

// exclusively runs one operation at a time.
func (m *instance) exclusively(ctx context.Context, operation func() error) error {
	select {
	case m.operating <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("waiting for another operation on the machine: %w", ctx.Err())
	}
	defer func() { <-m.operating }()
	if err := ctx.Err(); err != nil {
		return err
	}
	return operation()
}

// interrupt ends the requests that are under way. A start that has no process yet is
// revoked. A process that an earlier Local may have started is still looked for.
func (m *instance) interrupt() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.interrupts()
	if m.starting != nil && !m.starting.exists {
		m.starting = nil
	}
	m.requests, m.interrupts = context.WithCancel(m.local.ctx)
}

// request carries out an operation on a running process in the background, unless
// one of the same name is under way.
func (m *instance) request(name string, operation func(context.Context) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.record.running() {
		return machine.ErrNotRunning
	}
	if m.underway[name] {
		return nil
	}
	err := m.enqueue(operation, func(err error) {
		m.update(func() { delete(m.underway, name) })
		if err != nil {
			m.local.log.Info("A request to a machine failed", "machine", m.id, "request", name, "error", err.Error())
			m.local.publish(m.id, machine.EventChanged, name+": "+err.Error())
		}
	})
	if err == nil {
		m.underway[name] = true
	}
	return err
}

// enqueue runs an operation in the background, after those that were enqueued before
// it, and then calls ended. The caller holds mu.
func (m *instance) enqueue(operation func(context.Context) error, ended func(error)) error {
	requests, before, mine := m.requests, m.queue, make(chan struct{})
	err := m.local.run(func() {
		defer close(mine)
		ctx, cancel := context.WithTimeout(requests, requestTimeout)
		defer cancel()
		if before != nil {
			select {
			case <-before:
			case <-ctx.Done():
			}
		}
		ended(m.exclusively(ctx, func() error { return operation(ctx) }))
	})
	if err == nil {
		m.queue = mine
	}
	return err
}

// update changes the machine's state and wakes the callers of await.
func (m *instance) update(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
	close(m.changed)
	m.changed = make(chan struct{})
}

// await blocks until the condition, evaluated with mu held, is true.
func (m *instance) await(ctx context.Context, condition func() bool) error {
	return machine.Await(ctx, m.local.ctx.Done(), func() (bool, <-chan struct{}) {
		m.mu.Lock()
		defer m.mu.Unlock()
		return condition(), m.changed
	})
}

// snapshot returns a copy of the record, and the current connection or nil.
func (m *instance) snapshot() (record, *qmp.Client) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.record
	r.BootOrder = slices.Clone(r.BootOrder)
	return r, m.client
}

// running reports whether the record contains a process whose end has not been
// observed.
func (r record) running() bool { return r.Process.PID != 0 && r.Exit == nil }

// settled reports whether the machine's process has answered or has ended, or none
// exists. The caller holds mu.
func (m *instance) settled() bool {
	return m.unknown == nil && (m.record.Exit != nil || m.view.phase != "" || m.record.Machine.ID == "")
}

// alive reports whether the machine's process is alive.
func (m *instance) alive() bool {
	r, _ := m.snapshot()
	return r.running() && process.Alive(r.Process)
}

// connected waits for the QMP connection and returns it.
func (m *instance) connected(ctx context.Context) (*qmp.Client, error) {
	var client *qmp.Client
	ended := false
	err := m.await(ctx, func() bool {
		client, ended = m.client, !m.record.running()
		return client != nil || ended
	})
	if err != nil {
		return nil, fmt.Errorf("waiting for QEMU to answer: %w", err)
	}
	if ended {
		return nil, machine.ErrNotRunning
	}
	return client, nil
}

// state returns what is known of the machine. It does no I/O.
func (m *instance) state() machine.State {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, v := m.record, m.view
	r.BootOrder = slices.Clone(r.BootOrder)
	switch {
	case m.unknown != nil:
		return machine.State{ID: m.id, Phase: machine.PhaseUnresponsive, Problem: m.identified().Error(), Paths: m.local.paths(m.id)}
	case m.starting != nil:
		return m.starting.state(m.local.paths(m.id))
	case r.Machine.ID == "":
		return machine.State{ID: m.id, Phase: machine.PhaseNotFound, Paths: m.local.paths(m.id)}
	case !r.running():
		return stateOf(r, machine.PhaseStopped, "")
	case v.phase == "":
		return stateOf(r, machine.PhaseUnresponsive, "")
	}
	s := stateOf(r, v.phase, v.runState)
	if v.stall != nil {
		stall := *v.stall
		s.Stall = &stall
	}
	return s
}

func queryStatus(ctx context.Context, client *qmp.Client) (string, error) {
	var status struct {
		Status string `json:"status"`
	}
	err := client.Execute(ctx, "query-status", nil, &status)
	return status.Status, err
}

// phaseOf maps QEMU's RunState (qapi/run-state.json) to a phase.
func phaseOf(runState string) machine.Phase {
	switch runState {
	case "running":
		return machine.PhaseRunning
	case runStatePrelaunch:
		return machine.PhaseStarting
	case "internal-error":
		return machine.PhaseInternalError
	default:
		return machine.PhasePaused
	}
}

func stateOf(r record, phase machine.Phase, runState string) machine.State {
	s := machine.State{
		ID: r.Machine.ID, Name: r.Machine.Name, Phase: phase, Digest: r.Digest,
		Accelerator: r.Machine.Accelerator, RunState: runState, BootOrder: r.BootOrder,
		Exit: r.Exit, Paths: r.Machine.Paths,
	}
	if !phase.Alive() {
		return s
	}
	s.PID, s.StartedAt, s.Exit = r.Process.PID, r.StartedAt, nil
	s.HostMemory = machine.Footprint(r.Machine.MemoryMiB, r.Machine.Accelerator)
	s.Resets, s.GuestPanicked, s.PowerDownRequestedAt = r.Resets, r.GuestPanicked, r.PowerDownRequestedAt
	s.SerialOffset = r.SerialOffset
	for _, n := range r.Machine.NICs {
		if u := n.Backend.User; u != nil && len(u.Forwards) > 0 {
			if s.Forwards == nil {
				s.Forwards = map[string][]machine.Forward{}
			}
			s.Forwards[n.ID] = slices.Clone(u.Forwards)
		}
	}
	return s
}

func (m *instance) powerDown(ctx context.Context) error {
	client, err := m.connected(ctx)
	if err != nil {
		return err
	}
	if err := client.Commands(ctx).SystemPowerdown(); err != nil {
		return err
	}
	m.update(func() { m.record.PowerDownRequestedAt = time.Now() })
	m.local.publish(m.id, machine.EventChanged, "power button")
	return m.save()
}

// reset presses the reset button. A guest that was stopped permanently, such as by a
// panic, is in the run state "prelaunch" after the reset and then resumed by watch.
func (m *instance) reset(ctx context.Context) error {
	client, err := m.connected(ctx)
	if err != nil {
		return err
	}
	if err := client.Commands(ctx).SystemReset(); err != nil {
		return err
	}
	m.poke()
	return nil
}

// save writes the current record.
func (m *instance) save() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.removed || m.record.Machine.ID == "" {
		return nil
	}
	return m.record.save()
}
