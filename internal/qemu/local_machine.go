// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/qmp"
)

const (
	// queryTimeout is how long Observe waits for a machine that does not answer.
	queryTimeout = 2 * time.Second
	// startTimeout is how long QEMU may take from its start to its QMP greeting;
	// seconds on a busy computer.
	startTimeout = 60 * time.Second
)

// machine is one machine of a Local.
type machine struct {
	local *Local
	id    string
	// operating holds a token while an operation runs.
	operating chan struct{}

	mu     sync.Mutex
	record record
	client *qmp.Client
	// changed is closed and replaced when anything below mu has changed.
	changed chan struct{}
	// dirty asks for the record to be written soon.
	dirty chan struct{}
	// stopped tells that the guest may have been stopped by a failed write.
	stopped chan struct{}
	// refused is patience's, for whoever asks why the machine is stopped.
	refused atomic.Int64
}

func newMachine(l *Local, id string, r record) *machine {
	return &machine{
		local: l, id: id, record: r,
		operating: make(chan struct{}, 1),
		changed:   make(chan struct{}),
		dirty:     make(chan struct{}, 1),
		stopped:   make(chan struct{}, 1),
	}
}

// exclusively runs one operation at a time.
func (m *machine) exclusively(ctx context.Context, operation func() error) error {
	select {
	case m.operating <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("waiting for another operation on the machine: %w", ctx.Err())
	}
	defer func() { <-m.operating }()
	return operation()
}

// update changes the machine's state and wakes those who wait for a change.
func (m *machine) update(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
	close(m.changed)
	m.changed = make(chan struct{})
}

// await blocks until the condition, evaluated under the lock, holds.
func (m *machine) await(ctx context.Context, condition func() bool) error {
	for {
		m.mu.Lock()
		ok, changed := condition(), m.changed
		m.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-m.local.ctx.Done():
			return fmt.Errorf("the runner of virtual machines is closing: %w", context.Canceled)
		}
	}
}

// snapshot is a copy of the record and the current connection.
func (m *machine) snapshot() (record, *qmp.Client) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.record
	r.BootOrder = slices.Clone(r.BootOrder)
	return r, m.client
}

// running reports whether the record is of a process that was not seen to end.
func (r record) running() bool { return r.Process.PID != 0 && r.Exit == nil }

// alive reports whether the process lives.
func (m *machine) alive() bool {
	r, _ := m.snapshot()
	return r.running() && process.Alive(r.Process)
}

// connected is the connection, waited for.
func (m *machine) connected(ctx context.Context) (*qmp.Client, error) {
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
		return nil, ErrNotRunning
	}
	return client, nil
}

func (m *machine) observe(ctx context.Context) (State, error) {
	r, _ := m.snapshot()
	if r.Machine.ID == "" {
		return State{ID: m.id, Phase: PhaseNotFound, Paths: m.local.paths(m.id)}, nil
	}
	if !r.running() {
		return stateOf(r, PhaseStopped, ""), ctx.Err()
	}
	asking, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	phase, runState, stall := m.ask(asking)
	if err := ctx.Err(); err != nil {
		return State{}, err
	}
	r, _ = m.snapshot() // it may have ended meanwhile
	if !r.running() {
		phase, runState, stall = PhaseStopped, "", nil
	}
	s := stateOf(r, phase, runState)
	s.Stall = stall
	return s, nil
}

// ask is the phase of a live process by its own word.
func (m *machine) ask(ctx context.Context) (Phase, string, *Stall) {
	client, err := m.connected(ctx)
	if err != nil {
		return PhaseUnresponsive, "", nil
	}
	runState, err := queryStatus(ctx, client)
	if err != nil {
		return PhaseUnresponsive, "", nil
	}
	if runState != runStateIOError {
		return phaseOf(runState), runState, nil
	}
	r, _ := m.snapshot()
	stall, err := m.stalled(ctx, client, r.Machine)
	if err != nil {
		m.local.log.V(1).Info("Asking for the disk that failed", "machine", m.id, "error", err.Error())
	}
	return phaseOf(runState), runState, stall
}

func queryStatus(ctx context.Context, client *qmp.Client) (string, error) {
	var status struct {
		Status string `json:"status"`
	}
	err := client.Execute(ctx, "query-status", nil, &status)
	return status.Status, err
}

// phaseOf maps QEMU's RunState (qapi/run-state.json).
func phaseOf(runState string) Phase {
	switch runState {
	case "running":
		return PhaseRunning
	case "internal-error":
		return PhaseInternalError
	default:
		return PhasePaused
	}
}

func stateOf(r record, phase Phase, runState string) State {
	s := State{
		ID: r.Machine.ID, Name: r.Machine.Name, Phase: phase, Digest: r.Digest,
		Accelerator: r.Machine.Accelerator, RunState: runState, BootOrder: r.BootOrder,
		Exit: r.Exit, Paths: r.Machine.Paths,
	}
	if !phase.Alive() {
		return s
	}
	s.PID, s.StartedAt, s.Exit = r.Process.PID, r.StartedAt, nil
	s.Resets, s.GuestPanicked, s.PowerDownRequestedAt = r.Resets, r.GuestPanicked, r.PowerDownRequestedAt
	s.SerialOffset = r.SerialOffset
	for _, n := range r.Machine.NICs {
		if u := n.Backend.User; u != nil && len(u.Forwards) > 0 {
			if s.Forwards == nil {
				s.Forwards = map[string][]Forward{}
			}
			s.Forwards[n.ID] = slices.Clone(u.Forwards)
		}
	}
	return s
}

func (m *machine) powerDown(ctx context.Context) error {
	client, err := m.connected(ctx)
	if err != nil {
		return err
	}
	if err := client.Execute(ctx, "system_powerdown", nil, nil); err != nil {
		return err
	}
	m.update(func() { m.record.PowerDownRequestedAt = time.Now() })
	return m.save()
}

func (m *machine) reset(ctx context.Context) error {
	client, err := m.connected(ctx)
	if err != nil {
		return err
	}
	before, err := queryStatus(ctx, client)
	if err != nil {
		return err
	}
	r, _ := m.snapshot()
	if err := client.Execute(ctx, "system_reset", nil, nil); err != nil {
		return err
	}
	if before == "running" {
		return nil
	}
	// A guest that had stopped for good stays stopped after its reset, and
	// "cont" is refused before that has happened.
	if err := m.await(ctx, func() bool { return m.record.Resets != r.Resets || !m.record.running() }); err != nil {
		return fmt.Errorf("waiting for the reset: %w", err)
	}
	return client.Execute(ctx, "cont", nil, nil)
}

func (m *machine) setBootOrder(ctx context.Context, devices []string) error {
	client, err := m.connected(ctx)
	if err != nil {
		return err
	}
	r, _ := m.snapshot()
	if err := r.Machine.CheckBootOrder(devices); err != nil {
		return err
	}
	// All indices are taken away first: QEMU refuses one that is in use.
	for _, id := range r.Machine.deviceIDs() {
		if err := setBootIndex(ctx, client, id, -1); err != nil {
			return err
		}
	}
	for i, id := range devices {
		if err := setBootIndex(ctx, client, id, i+1); err != nil {
			return err
		}
	}
	m.update(func() { m.record.BootOrder = slices.Clone(devices) })
	if err := m.save(); err != nil {
		return err
	}
	m.local.publish(m.id, EventChanged, "boot order")
	return nil
}

func setBootIndex(ctx context.Context, client *qmp.Client, device string, index int) error {
	return client.Execute(ctx, "qom-set", map[string]any{
		"path": "/machine/peripheral/" + device, "property": "bootindex", "value": index,
	}, nil)
}

// stop ends the process: by the guest, by QEMU, by the kernel.
func (m *machine) stop(ctx context.Context, o StopOptions) (StopMethod, error) {
	r, client := m.snapshot()
	if !r.running() {
		return StoppedAlready, nil
	}
	if o.ACPITimeout > 0 && client != nil && m.powerDown(ctx) == nil {
		if gone, err := m.ended(ctx, o.ACPITimeout); gone || err != nil {
			return StoppedByGuest, err
		}
	}
	m.update(func() {
		if m.record.Ending == "" {
			m.record.Ending = ExitStopped
		}
	})
	if err := m.save(); err != nil {
		// Stopping is how a full disk gets room again.
		m.local.log.Error(err, "Noting that a machine is stopped", "machine", m.id)
	}
	quitTimeout := o.QuitTimeout
	if quitTimeout <= 0 {
		quitTimeout = DefaultQuitTimeout
	}
	m.quit(ctx, client, r.Process, quitTimeout)
	if gone, err := m.ended(ctx, quitTimeout); gone || err != nil {
		return StoppedByQuit, err
	}
	if err := process.Signal(r.Process, syscall.SIGKILL); err != nil && m.alive() {
		return "", fmt.Errorf("killing process %d: %w", r.Process.PID, err)
	}
	// Nothing survives SIGKILL, but disk I/O in the kernel can hold it up.
	if err := m.await(ctx, func() bool { return !m.record.running() }); err != nil {
		return "", fmt.Errorf("process %d was killed and is still there: %w", r.Process.PID, err)
	}
	return StoppedByKill, nil
}

// quit asks QEMU to end, by QMP or, when it does not listen, by SIGTERM, which
// means the same to it.
func (m *machine) quit(ctx context.Context, client *qmp.Client, p process.Identity, timeout time.Duration) {
	if client != nil {
		asking, cancel := context.WithTimeout(ctx, min(timeout, qmp.DefaultTimeout))
		defer cancel()
		// The reply may be lost with the process; what counts is its end.
		if err := client.Execute(asking, "quit", nil, nil); err == nil {
			return
		}
	}
	_ = process.Signal(p, syscall.SIGTERM)
}

// ended waits for the end of the process for some time.
func (m *machine) ended(ctx context.Context, timeout time.Duration) (bool, error) {
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := m.await(waiting, func() bool { return !m.record.running() })
	if err != nil && ctx.Err() == nil && m.local.ctx.Err() == nil {
		return false, nil
	}
	return err == nil, err
}

// closeSockets takes from the machine's sockets the modes that QEMU gave them by
// the umask. Their directory is closed to others anyway.
func (m *machine) closeSockets() error {
	r, _ := m.snapshot()
	p := r.Machine.Paths
	var errs []error
	for _, path := range append([]string{p.QMP, p.Serial, p.VNC}, r.Machine.dgramSockets()...) {
		if err := os.Chmod(path, 0o600); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// remove deletes all that was made for the machine but its disks.
func (m *machine) remove() error {
	r, _ := m.snapshot()
	if r.running() {
		return ErrRunning
	}
	p := r.Machine.Paths
	if p == (Paths{}) {
		p = m.local.paths(m.id)
	}
	for _, path := range r.Machine.dgramSockets() {
		if err := removeSocket(path); err != nil {
			return err
		}
	}
	// The record goes last, so that a removal that was interrupted is found again.
	err := removeFiles(p.QMP, p.Serial, p.VNC, p.Sockets,
		p.Log, p.Log+".1", p.SerialLog, p.SerialLog+".1", p.Vars, p.Record+".unusable", p.Record)
	if err != nil {
		return err
	}
	if err := removeIfEmpty(p.Dir); err != nil {
		return err
	}
	m.update(func() { m.record = record{} })
	return nil
}

// save writes the record as it is now.
func (m *machine) save() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.record.Machine.ID == "" {
		return nil // It was removed.
	}
	return m.record.save()
}
