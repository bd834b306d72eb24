// SPDX-License-Identifier: Apache-2.0

package qemutest

import "github.com/pxelab/pxelab/internal/qemu"

// The methods below play the guest and the host. Those that take an ID panic
// when the machine does not run: a test that scripts a machine which is not
// there is wrong.

// Described is the description the machine was last started with, and whether
// there is one.
func (f *Fake) Described(id string) (qemu.Machine, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.machines[id]; m != nil {
		return m.described, true
	}
	return qemu.Machine{}, false
}

// GuestShutdown powers the guest off from inside.
func (f *Fake) GuestShutdown(id string) {
	f.Exit(id, qemu.Exit{Reason: qemu.ExitGuestShutdown})
}

// Exit ends the machine's process. Exit.At is filled in.
func (f *Fake) Exit(id string, e qemu.Exit) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.exit(f.mustRun(id), e)
}

// GuestReset makes the guest reboot by itself.
func (f *Fake) GuestReset(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reset(f.mustRun(id), "guest-reset")
}

// Panic makes the guest's kernel panic.
func (f *Fake) Panic(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.mustRun(id)
	m.state.GuestPanicked = true
	if m.described.OnPanic == qemu.PanicPause {
		m.state.Phase, m.state.RunState = qemu.PhasePaused, "guest-panicked"
	}
	f.publish(id, qemu.EventGuestPanicked, "")
}

// SetRunState puts the machine in another phase with QEMU's word for it, such
// as PhaseInternalError and "internal-error".
func (f *Fake) SetRunState(id string, p qemu.Phase, runState string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.mustRun(id)
	m.state.Phase, m.state.RunState = p, runState
	f.publish(id, qemu.EventChanged, runState)
}

// StallDisk stops the guest as a write that failed does; nil lets it go on.
func (f *Fake) StallDisk(id string, s *qemu.Stall) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.mustRun(id)
	m.state.Phase, m.state.RunState, m.state.Stall = qemu.PhaseRunning, "running", nil
	if s != nil {
		told := *s
		m.state.Phase, m.state.RunState, m.state.Stall = qemu.PhasePaused, "io-error", &told
	}
	f.publish(id, qemu.EventChanged, m.state.RunState)
}

// IgnorePowerButton makes the machine's guest deaf to PowerDown, also after
// later starts.
func (f *Fake) IgnorePowerButton(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mustRun(id).ignoresPower = true
}

// Fail makes every call of the named method (such as "Start") fail until it is
// called again with nil.
func (f *Fake) Fail(method string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failures[method] = err
}

func (f *Fake) mustRun(id string) *fakeMachine {
	m := f.machines[id]
	if m == nil || !m.state.Phase.Alive() {
		panic("qemutest: machine " + id + " does not run")
	}
	return m
}
