// SPDX-License-Identifier: Apache-2.0

package qemutest

import (
	"github.com/pxelab/pxelab/internal/machine"
)

// The methods below simulate the guest and the host. Those that take an ID, other
// than Described, panic when the machine does not run, because the test is wrong.

// Described returns the description with which the machine was last started, and
// whether it was started.
func (f *Fake) Described(id string) (machine.Machine, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.machines[id]; m != nil {
		return m.described, true
	}
	return machine.Machine{}, false
}

// GuestShutdown powers the guest off from inside.
func (f *Fake) GuestShutdown(id string) {
	f.Exit(id, machine.Exit{Reason: machine.ExitGuestShutdown})
}

// Exit ends the machine's process. It sets the time in e.
func (f *Fake) Exit(id string, e machine.Exit) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.exit(f.mustRun(id), e)
}

// GuestReset makes the guest reboot.
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
	if m.described.OnPanic == machine.PanicPause {
		m.state.Phase, m.state.RunState = machine.PhasePaused, "guest-panicked"
	}
	f.publish(id, machine.EventGuestPanicked, "")
}

// SetRunState sets the machine's phase and QEMU's run state, such as
// PhaseInternalError and "internal-error".
func (f *Fake) SetRunState(id string, p machine.Phase, runState string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.mustRun(id)
	m.state.Phase, m.state.RunState = p, runState
	f.publish(id, machine.EventChanged, runState)
}

// StallDisk stops the guest as a failed write does; nil resumes it.
func (f *Fake) StallDisk(id string, s *machine.Stall) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.mustRun(id)
	m.state.Phase, m.state.RunState, m.state.Stall = machine.PhaseRunning, "running", nil
	if s != nil {
		stall := *s
		m.state.Phase, m.state.RunState, m.state.Stall = machine.PhasePaused, "io-error", &stall
	}
	f.publish(id, machine.EventChanged, m.state.RunState)
}

// IgnorePowerButton makes the machine's guest ignore PowerDown, including after
// later starts.
func (f *Fake) IgnorePowerButton(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mustRun(id).ignoresPower = true
}

// Fail makes every call of the named method, such as "Start", return err until
// Fail is called with nil.
func (f *Fake) Fail(method string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failures[method] = err
}

// FailStart makes every start of the machine end with an exit that has this output,
// until FailStart is called with "". Fail makes Start itself return an error.
func (f *Fake) FailStart(id, output string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failing[id] = output
}

// HoldStarts leaves machines that are started from now on in PhaseStarting, until
// Release is called for each.
func (f *Fake) HoldStarts(hold bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holding = hold
}

// Release lets a machine that HoldStarts has held run.
func (f *Fake) Release(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started(f.mustRun(id))
}

func (f *Fake) mustRun(id string) *fakeMachine {
	m := f.machines[id]
	if m == nil || !m.state.Phase.Alive() {
		panic("qemutest: machine " + id + " does not run")
	}
	return m
}
