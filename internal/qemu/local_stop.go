// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/qemu/internal/qmp"
)

// stop ends the process. It tries ACPI shutdown by the guest, QEMU's quit and
// SIGKILL in this order.
func (m *instance) stop(ctx context.Context, o machine.StopOptions) (machine.StopMethod, error) {
	m.interrupt() // what was requested since
	m.mu.Lock()
	err := m.identified()
	m.mu.Unlock()
	if err != nil {
		return "", err
	}
	r, client := m.snapshot()
	if !r.running() {
		return machine.StoppedAlready, nil
	}
	if o.ACPITimeout > 0 && client != nil && m.powerDown(ctx) == nil {
		if gone, err := m.ended(ctx, o.ACPITimeout); gone || err != nil {
			return machine.StoppedByGuest, err
		}
	}
	m.update(func() {
		if m.record.Ending == "" {
			m.record.Ending = machine.ExitStopped
		}
	})
	if err := m.save(); err != nil {
		// Stopping must work on a full disk, because it can free space.
		m.local.log.Error(err, "Recording that a machine is being stopped", "machine", m.id)
	}
	quitTimeout := o.QuitTimeout
	if quitTimeout <= 0 {
		quitTimeout = machine.DefaultQuitTimeout
	}
	m.quit(ctx, client, r.Process, quitTimeout)
	if gone, err := m.ended(ctx, quitTimeout); gone || err != nil {
		return machine.StoppedByQuit, err
	}
	if err := process.Signal(r.Process, syscall.SIGKILL); err != nil && m.alive() {
		return "", fmt.Errorf("killing process %d: %w", r.Process.PID, err)
	}
	// Disk I/O in the kernel can delay SIGKILL.
	if err := m.await(ctx, func() bool { return !m.record.running() }); err != nil {
		return "", fmt.Errorf("waiting for process %d to end after SIGKILL: %w", r.Process.PID, err)
	}
	return machine.StoppedByKill, nil
}

// quit asks QEMU to exit, by QMP or, when that fails, by the equivalent SIGTERM.
func (m *instance) quit(ctx context.Context, client *qmp.Client, p process.Identity, timeout time.Duration) {
	if client != nil {
		asking, cancel := context.WithTimeout(ctx, min(timeout, qmp.DefaultTimeout))
		defer cancel()
		// The reply may be lost because the process ends.
		if err := client.Commands(asking).Quit(); err == nil {
			return
		}
	}
	_ = process.Signal(p, syscall.SIGTERM)
}

// ended waits for the process to end and reports whether it did before the
// timeout.
func (m *instance) ended(ctx context.Context, timeout time.Duration) (bool, error) {
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := m.await(waiting, func() bool { return !m.record.running() })
	if err != nil && ctx.Err() == nil && m.local.ctx.Err() == nil {
		return false, nil
	}
	return err == nil, err
}

// restrictSockets makes the machine's sockets private; QEMU creates them with the
// umask's mode. Their directory is private as well.
func (m *instance) restrictSockets() error {
	r, _ := m.snapshot()
	p := r.Machine.Paths
	var errs []error
	for _, path := range append([]string{p.QMP, p.Serial, p.VNC}, r.Machine.DgramSockets()...) {
		if err := os.Chmod(path, 0o600); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// remove deletes every file that was created for the machine, except its disks. It
// refuses a machine that runs or starts; from then on none can be started.
func (m *instance) remove() error {
	m.mu.Lock()
	if err := m.identified(); err != nil {
		m.mu.Unlock()
		return err
	}
	if m.record.running() || m.starting != nil {
		m.mu.Unlock()
		return machine.ErrRunning
	}
	r := m.record
	m.removed = true
	m.mu.Unlock()
	err := m.local.removeFilesOf(m.id, r)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.removed = false
		return err
	}
	m.record = record{}
	m.interrupts()
	return nil
}

func (l *Local) removeFilesOf(id string, r record) error {
	p := r.Machine.Paths
	if p == (machine.Paths{}) {
		p = l.paths(id)
	}
	for _, path := range r.Machine.DgramSockets() {
		if err := hostfs.RemoveStaleSocket("unixgram", path); err != nil {
			return err
		}
	}
	for _, path := range []string{p.Vars, p.Record} {
		if err := hostfs.RemoveTemporary(path); err != nil {
			return err
		}
	}
	// The record is removed last, so that an interrupted removal can be repeated.
	err := removeFiles(p.QMP, p.Serial, p.VNC, p.Sockets,
		p.Log, p.Log+".1", p.SerialLog, p.SerialLog+".1", p.Vars, unusablePath(p.Record), p.Record)
	if err != nil {
		return err
	}
	return removeIfEmpty(p.Dir)
}
