// SPDX-License-Identifier: Apache-2.0

package qemutest

import (
	"context"
	"slices"

	"github.com/pxelab/pxelab/internal/machine"
)

// PowerDown implements [machine.Runner]. The guest powers off immediately unless
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
		f.exit(m, machine.Exit{Reason: machine.ExitGuestShutdown})
	}
	return nil
}

// Stop implements [machine.Runner]. It never blocks.
func (f *Fake) Stop(ctx context.Context, id string, o machine.StopOptions) (machine.StopMethod, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(ctx, "Stop"); err != nil {
		return "", err
	}
	m := f.machines[id]
	switch {
	case m == nil || !m.state.Phase.Alive():
		return machine.StoppedAlready, nil
	case o.ACPITimeout > 0 && !m.ignoresPower && m.state.Phase == machine.PhaseRunning:
		m.state.PowerDownRequestedAt = f.now()
		f.exit(m, machine.Exit{Reason: machine.ExitGuestShutdown})
		return machine.StoppedByGuest, nil
	case m.state.Phase == machine.PhaseUnresponsive:
		f.exit(m, machine.Exit{Reason: machine.ExitStopped, Code: -1, Signal: "killed"})
		return machine.StoppedByKill, nil
	default:
		f.exit(m, machine.Exit{Reason: machine.ExitStopped})
		return machine.StoppedByQuit, nil
	}
}

// Reset implements [machine.Runner].
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

// SetBootOrder implements [machine.Runner].
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
	f.publish(id, machine.EventChanged, "boot order")
	return nil
}
