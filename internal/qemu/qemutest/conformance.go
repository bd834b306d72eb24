// SPDX-License-Identifier: Apache-2.0

package qemutest

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/machine"
)

// Harness is a Runner under test and the functions that simulate its guests.
type Harness struct {
	Runner machine.Runner
	// Machine is a valid description with the NICs "net0" (boot index 1) and "net1"
	// (no boot index). Its guest ignores the power button after a call of Deaf;
	// Deaf may be nil when the guest always ignores it.
	Machine machine.Machine
	Deaf    func(id string)
	// Crash ends the process as a bug in QEMU would.
	Crash func(t *testing.T, id string)
	// Shutdown and Panic make the guest power off and panic; nil skips their cases.
	Shutdown, Panic func(t *testing.T, id string)
	// FailStart makes starts fail with an output that contains the text, until it is
	// called with ""; nil skips its case.
	FailStart func(t *testing.T, id, text string)
}

// Conformance tests the contract of [machine.Runner]. harness is called once per
// case.
func Conformance(t *testing.T, harness func(t *testing.T) Harness) {
	for _, c := range []struct {
		name string
		run  func(*suite)
	}{
		{"NeverStarted", (*suite).neverStarted},
		{"Invalid", (*suite).invalid},
		{"Lifecycle", (*suite).lifecycle},
		{"BootOrder", (*suite).bootOrder},
		{"Reset", (*suite).reset},
		{"PowerButton", (*suite).powerButton},
		{"Crash", (*suite).crash},
		{"FailedStart", (*suite).failedStart},
		{"GuestShutdown", (*suite).guestShutdown},
		{"GuestPanic", (*suite).guestPanic},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			s := &suite{T: t, Harness: harness(t), ctx: ctx}
			s.id = s.Machine.ID
			s.events = s.Runner.Watch(ctx)
			defer func() {
				// The machine is stopped even when the case has failed.
				if _, err := s.Runner.Stop(context.Background(), s.id, machine.StopOptions{}); err != nil {
					t.Error("cleaning up:", err)
				}
				cancel()
				for range s.events {
				}
			}()
			c.run(s)
		})
	}
}

func (s *suite) neverStarted() {
	if state := s.observe(); state.Phase != machine.PhaseNotFound || state.ID != s.id {
		s.Errorf("got state %+v, want phase %s of %s", state, machine.PhaseNotFound, s.id)
	}
	all, err := s.Runner.List(s.ctx)
	s.must(err)
	if len(all) != 0 {
		s.Errorf("got list %+v, want none", all)
	}
	how, err := s.Runner.Stop(s.ctx, s.id, machine.StopOptions{ACPITimeout: time.Hour})
	s.must(err)
	if how != machine.StoppedAlready {
		s.Errorf("Stop: got %s, want %s", how, machine.StoppedAlready)
	}
	s.wantErr(s.Runner.PowerDown(s.ctx, s.id), machine.ErrNotRunning)
	s.wantErr(s.Runner.Reset(s.ctx, s.id), machine.ErrNotRunning)
	s.wantErr(s.Runner.SetBootOrder(s.ctx, s.id, nil), machine.ErrNotRunning)
	s.must(s.Runner.Remove(s.ctx, s.id))
}

func (s *suite) invalid() {
	m := s.Machine
	m.CPUs = 0
	s.wantErr(s.Runner.Start(s.ctx, m), machine.ErrInvalid)
	if state := s.observe(); state.Phase != machine.PhaseNotFound {
		s.Errorf("got phase %s, want %s", state.Phase, machine.PhaseNotFound)
	}
}

func (s *suite) lifecycle() {
	first := s.start()
	if first.PID == 0 || first.StartedAt.IsZero() || first.Digest != s.Machine.Digest() ||
		first.RunState != "running" || first.Exit != nil || first.Name != s.Machine.Name || first.Accelerator == "" {
		s.Errorf("got state %+v, want that of the running %+v", first, s.Machine)
	}
	if first.HostMemory <= 0 {
		s.Errorf("got %d bytes of the host's memory for a running machine, want more", first.HostMemory)
	}
	all, err := s.Runner.List(s.ctx)
	s.must(err)
	if len(all) != 1 || all[0].ID != s.id || all[0].Phase != machine.PhaseRunning {
		s.Errorf("got list %+v, want only %s, running", all, s.id)
	}

	other := s.Machine
	other.MemoryMiB++
	s.must(s.Runner.Start(s.ctx, other))
	if again := s.observe(); again.PID != first.PID || again.Digest != first.Digest {
		s.Errorf("after a second Start: got %+v, want %+v", again, first)
	}
	s.wantErr(s.Runner.Remove(s.ctx, s.id), machine.ErrRunning)

	how, err := s.Runner.Stop(s.ctx, s.id, machine.StopOptions{})
	s.must(err)
	if how != machine.StoppedByQuit {
		s.Errorf("Stop: got %s, want %s", how, machine.StoppedByQuit)
	}
	s.wantEvent(machine.EventExited)
	stopped := s.observe()
	if stopped.Phase != machine.PhaseStopped || stopped.PID != 0 || stopped.Exit == nil ||
		stopped.Exit.Reason != machine.ExitStopped || !stopped.Exit.Requested || stopped.Digest != first.Digest || !stopped.StartedAt.IsZero() {
		s.Errorf("after Stop: got state %+v, exit %+v", stopped, stopped.Exit)
	}
	if stopped.HostMemory != 0 {
		s.Errorf("after Stop: got %d bytes of the host's memory, want 0", stopped.HostMemory)
	}
	s.wantErr(s.Runner.Reset(s.ctx, s.id), machine.ErrNotRunning)

	s.must(s.Runner.Start(s.ctx, other))
	s.wantEvent(machine.EventStarted)
	// Simulated machines share a process, so that the PID may be the same.
	if second := s.observe(); !second.StartedAt.After(first.StartedAt) || second.Digest != other.Digest() || second.Exit != nil {
		s.Errorf("after another Start: got %+v, want a later start than %+v", second, first)
	}
	_, err = s.Runner.Stop(s.ctx, s.id, machine.StopOptions{})
	s.must(err)
	for range 2 {
		s.must(s.Runner.Remove(s.ctx, s.id))
		if state := s.observe(); state.Phase != machine.PhaseNotFound {
			s.Errorf("after Remove: got phase %s, want %s", state.Phase, machine.PhaseNotFound)
		}
	}
	all, err = s.Runner.List(s.ctx)
	s.must(err)
	if len(all) != 0 {
		s.Errorf("after Remove: got list %+v, want none", all)
	}
}

func (s *suite) bootOrder() {
	want := func(order ...string) {
		s.Helper()
		s.eventually("boot order "+strings.Join(order, ","), func(st machine.State) bool { return slices.Equal(st.BootOrder, order) })
	}
	s.start()
	want("net0")
	for _, order := range [][]string{{"net1", "net0"}, {"net0", "net1"}, {"net1"}, {"net1"}, nil} {
		s.must(s.Runner.SetBootOrder(s.ctx, s.id, order))
		want(order...)
	}
	s.must(s.Runner.SetBootOrder(s.ctx, s.id, []string{"net1"}))
	want("net1")
	s.wantErr(s.Runner.SetBootOrder(s.ctx, s.id, []string{"net0", "none"}), machine.ErrNoDevice)
	s.wantErr(s.Runner.SetBootOrder(s.ctx, s.id, []string{"net0", "net0"}), machine.ErrInvalid)
	want("net1")

	_, err := s.Runner.Stop(s.ctx, s.id, machine.StopOptions{})
	s.must(err)
	s.start()
	want("net0")
}

func (s *suite) reset() {
	first := s.start()
	s.must(s.Runner.Reset(s.ctx, s.id))
	s.wantEvent(machine.EventReset)
	state := s.eventually("reset", func(st machine.State) bool { return st.Resets == 1 })
	if state.PID != first.PID || state.Phase != machine.PhaseRunning {
		s.Errorf("after Reset: got state %+v, want process %d running", state, first.PID)
	}
}

func (s *suite) powerButton() {
	s.start()
	s.must(s.Runner.PowerDown(s.ctx, s.id))
	s.eventually("pressed power button", func(st machine.State) bool { return !st.PowerDownRequestedAt.IsZero() })
	how, err := s.Runner.Stop(s.ctx, s.id, machine.StopOptions{ACPITimeout: time.Millisecond})
	s.must(err)
	if how != machine.StoppedByQuit {
		s.Errorf("Stop of a guest that ignores the power button: got %s, want %s", how, machine.StoppedByQuit)
	}
}

func (s *suite) crash() {
	s.start()
	s.Crash(s.T, s.id)
	state := s.eventually("stopped", func(st machine.State) bool { return st.Phase == machine.PhaseStopped })
	if state.Exit == nil || state.Exit.Reason != machine.ExitFailed {
		s.Errorf("got exit %+v, want reason %s", state.Exit, machine.ExitFailed)
	}
	s.start()
}

func (s *suite) failedStart() {
	if s.FailStart == nil {
		return
	}
	const cause = "no such accelerator"
	s.FailStart(s.T, s.id, cause)
	s.must(s.Runner.Start(s.ctx, s.Machine))
	state := s.eventually("stopped", func(st machine.State) bool { return st.Phase == machine.PhaseStopped })
	if e := state.Exit; e == nil || e.Reason != machine.ExitFailed && e.Reason != machine.ExitNotStarted ||
		!strings.Contains(e.Output, cause) || e.StartedAt.IsZero() || e.At.Before(e.StartedAt) {
		s.Errorf("got exit %+v, want a failure with %q", state.Exit, cause)
	}
	s.FailStart(s.T, s.id, "")
	s.start()
}

func (s *suite) guestShutdown() {
	if s.Shutdown == nil {
		return
	}
	s.start()
	s.Shutdown(s.T, s.id)
	s.wantEvent(machine.EventShutdown)
	state := s.eventually("stopped", func(st machine.State) bool { return st.Phase == machine.PhaseStopped })
	if state.Exit == nil || state.Exit.Reason != machine.ExitGuestShutdown || state.Exit.Requested {
		s.Errorf("got exit %+v, want reason %s, not requested", state.Exit, machine.ExitGuestShutdown)
	}
}

func (s *suite) guestPanic() {
	if s.Panic == nil {
		return
	}
	s.start()
	s.Panic(s.T, s.id)
	s.wantEvent(machine.EventGuestPanicked)
	state := s.eventually("panicked", func(st machine.State) bool { return st.GuestPanicked })
	if state.Phase != machine.PhaseRunning {
		s.Errorf("after a panic without PanicPause: got phase %s, want %s", state.Phase, machine.PhaseRunning)
	}
	s.must(s.Runner.Reset(s.ctx, s.id))
	s.eventually("reset", func(st machine.State) bool { return st.Resets == 1 && !st.GuestPanicked })
	_, err := s.Runner.Stop(s.ctx, s.id, machine.StopOptions{})
	s.must(err)

	s.Machine.OnPanic = machine.PanicPause
	s.start()
	s.Panic(s.T, s.id)
	state = s.eventually("paused", func(st machine.State) bool { return st.Phase == machine.PhasePaused })
	if !state.GuestPanicked || state.RunState != "guest-panicked" {
		s.Errorf("after a panic with PanicPause: got state %+v, want run state guest-panicked", state)
	}
	s.must(s.Runner.Reset(s.ctx, s.id))
	s.eventually("running", func(st machine.State) bool {
		return st.Phase == machine.PhaseRunning && !st.GuestPanicked && st.Resets == 1
	})
}
