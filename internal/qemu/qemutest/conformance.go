// SPDX-License-Identifier: Apache-2.0

package qemutest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/qemu"
)

// Harness is a Runner under test and what plays its guests.
type Harness struct {
	Runner qemu.Runner
	// Machine is a valid description with network cards "net0" (boot index 1) and
	// "net1" (none). Its guest does not obey the power button once Deaf was
	// called; Deaf may be nil when it never does.
	Machine qemu.Machine
	Deaf    func(id string)
	// Crash ends the process as a bug in it would.
	Crash func(t *testing.T, id string)
	// Shutdown and Panic do what the guest would; nil where a test cannot.
	Shutdown, Panic func(t *testing.T, id string)
}

// limit is how long anything may take before the suite calls it broken.
const limit = 2 * time.Minute

// Conformance is what every [qemu.Runner] does. Each case gets a Harness of its
// own.
func Conformance(t *testing.T, harness func(t *testing.T) Harness) {
	for _, c := range []struct {
		name string
		run  func(*suite)
	}{
		{"NeverStarted", (*suite).neverStarted},
		{"Invalid", (*suite).invalid},
		{"Life", (*suite).life},
		{"BootOrder", (*suite).bootOrder},
		{"Reset", (*suite).reset},
		{"PowerButton", (*suite).powerButton},
		{"Crash", (*suite).crash},
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
				// Also when the case has failed: nothing may be left running.
				if _, err := s.Runner.Stop(context.Background(), s.id, qemu.StopOptions{}); err != nil {
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

type suite struct {
	*testing.T
	Harness
	ctx    context.Context
	id     string
	events <-chan qemu.Event
}

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) wantErr(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Errorf("error %v, want %v", err, want)
	}
}

func (s *suite) observe() qemu.State {
	s.Helper()
	state, err := s.Runner.Observe(s.ctx, s.id)
	s.must(err)
	return state
}

func (s *suite) start() qemu.State {
	s.Helper()
	s.must(s.Runner.Start(s.ctx, s.Machine))
	state := s.observe()
	if state.Phase != qemu.PhaseRunning {
		s.Fatalf("phase %s (%s) after Start", state.Phase, state.RunState)
	}
	if s.Deaf != nil {
		s.Deaf(s.id)
	}
	return state
}

func (s *suite) wantEvent(types ...qemu.EventType) {
	s.Helper()
	for e := range s.events {
		if slices.Contains(types, e.Type) {
			if e.ID != s.id || e.At.IsZero() {
				s.Errorf("event %+v", e)
			}
			return
		}
	}
	s.Fatalf("no event of %v", types)
}

// eventually observes until ok; woken by events.
func (s *suite) eventually(what string, ok func(qemu.State) bool) qemu.State {
	s.Helper()
	for {
		state := s.observe()
		if ok(state) {
			return state
		}
		if _, open := <-s.events; !open {
			s.Fatalf("never became %s: %+v", what, state)
		}
	}
}

func (s *suite) neverStarted() {
	if state := s.observe(); state.Phase != qemu.PhaseNotFound || state.ID != s.id {
		s.Errorf("state %+v", state)
	}
	all, err := s.Runner.List(s.ctx)
	s.must(err)
	if len(all) != 0 {
		s.Errorf("list %+v", all)
	}
	how, err := s.Runner.Stop(s.ctx, s.id, qemu.StopOptions{ACPITimeout: time.Hour})
	s.must(err)
	if how != qemu.StoppedAlready {
		s.Errorf("stopped by %s", how)
	}
	s.wantErr(s.Runner.PowerDown(s.ctx, s.id), qemu.ErrNotRunning)
	s.wantErr(s.Runner.Reset(s.ctx, s.id), qemu.ErrNotRunning)
	s.wantErr(s.Runner.SetBootOrder(s.ctx, s.id, nil), qemu.ErrNotRunning)
	s.must(s.Runner.Remove(s.ctx, s.id))
}

func (s *suite) invalid() {
	m := s.Machine
	m.CPUs = 0
	s.wantErr(s.Runner.Start(s.ctx, m), qemu.ErrInvalid)
	if state := s.observe(); state.Phase != qemu.PhaseNotFound {
		s.Errorf("phase %s", state.Phase)
	}
}

func (s *suite) life() {
	first := s.start()
	s.wantEvent(qemu.EventStarted)
	if first.PID == 0 || first.StartedAt.IsZero() || first.Digest != s.Machine.Digest() ||
		first.RunState != "running" || first.Exit != nil || first.Name != s.Machine.Name || first.Accelerator == "" {
		s.Errorf("state %+v", first)
	}
	all, err := s.Runner.List(s.ctx)
	s.must(err)
	if len(all) != 1 || all[0].ID != s.id || all[0].Phase != qemu.PhaseRunning {
		s.Errorf("list %+v", all)
	}

	other := s.Machine
	other.MemoryMiB++
	s.must(s.Runner.Start(s.ctx, other))
	if again := s.observe(); again.PID != first.PID || again.Digest != first.Digest {
		s.Errorf("a second Start made %+v of %+v", again, first)
	}
	s.wantErr(s.Runner.Remove(s.ctx, s.id), qemu.ErrRunning)

	how, err := s.Runner.Stop(s.ctx, s.id, qemu.StopOptions{})
	s.must(err)
	if how != qemu.StoppedByQuit {
		s.Errorf("stopped by %s", how)
	}
	s.wantEvent(qemu.EventExited)
	stopped := s.observe()
	if stopped.Phase != qemu.PhaseStopped || stopped.PID != 0 || stopped.Exit == nil ||
		stopped.Exit.Reason != qemu.ExitStopped || stopped.Digest != first.Digest || !stopped.StartedAt.IsZero() {
		s.Errorf("state %+v, exit %+v", stopped, stopped.Exit)
	}
	s.wantErr(s.Runner.Reset(s.ctx, s.id), qemu.ErrNotRunning)

	s.must(s.Runner.Start(s.ctx, other))
	if second := s.observe(); second.PID == first.PID || second.Digest != other.Digest() || second.Exit != nil {
		s.Errorf("started again: %+v", second)
	}
	_, err = s.Runner.Stop(s.ctx, s.id, qemu.StopOptions{})
	s.must(err)
	for range 2 {
		s.must(s.Runner.Remove(s.ctx, s.id))
		if state := s.observe(); state.Phase != qemu.PhaseNotFound {
			s.Errorf("phase %s after removal", state.Phase)
		}
	}
	all, err = s.Runner.List(s.ctx)
	s.must(err)
	if len(all) != 0 {
		s.Errorf("list %+v after removal", all)
	}
}

func (s *suite) bootOrder() {
	want := func(order ...string) {
		s.Helper()
		if diff := cmp.Diff(order, s.observe().BootOrder); diff != "" && len(order)+len(s.observe().BootOrder) > 0 {
			s.Error(diff)
		}
	}
	s.start()
	want("net0")
	for _, order := range [][]string{{"net1", "net0"}, {"net0", "net1"}, {"net1"}, {"net1"}, nil} {
		s.must(s.Runner.SetBootOrder(s.ctx, s.id, order))
		want(order...)
	}
	s.must(s.Runner.SetBootOrder(s.ctx, s.id, []string{"net1"}))
	s.wantErr(s.Runner.SetBootOrder(s.ctx, s.id, []string{"net0", "none"}), qemu.ErrNoDevice)
	s.wantErr(s.Runner.SetBootOrder(s.ctx, s.id, []string{"net0", "net0"}), qemu.ErrInvalid)
	want("net1")

	_, err := s.Runner.Stop(s.ctx, s.id, qemu.StopOptions{})
	s.must(err)
	s.start()
	want("net0")
}

func (s *suite) reset() {
	first := s.start()
	s.must(s.Runner.Reset(s.ctx, s.id))
	s.wantEvent(qemu.EventReset)
	state := s.eventually("reset", func(st qemu.State) bool { return st.Resets == 1 })
	if state.PID != first.PID || state.Phase != qemu.PhaseRunning {
		s.Errorf("state %+v after a reset", state)
	}
}

func (s *suite) powerButton() {
	s.start()
	s.must(s.Runner.PowerDown(s.ctx, s.id))
	if s.observe().PowerDownRequestedAt.IsZero() {
		s.Error("the power button was pressed and nobody noticed")
	}
	how, err := s.Runner.Stop(s.ctx, s.id, qemu.StopOptions{ACPITimeout: time.Millisecond})
	s.must(err)
	if how != qemu.StoppedByQuit {
		s.Errorf("a deaf guest was stopped by %s", how)
	}
}

func (s *suite) crash() {
	s.start()
	s.Crash(s.T, s.id)
	state := s.eventually("stopped", func(st qemu.State) bool { return st.Phase == qemu.PhaseStopped })
	if state.Exit == nil || state.Exit.Reason != qemu.ExitFailed {
		s.Errorf("exit %+v", state.Exit)
	}
	s.start()
}

func (s *suite) guestShutdown() {
	if s.Shutdown == nil {
		return
	}
	s.start()
	s.Shutdown(s.T, s.id)
	s.wantEvent(qemu.EventShutdown)
	state := s.eventually("stopped", func(st qemu.State) bool { return st.Phase == qemu.PhaseStopped })
	if state.Exit == nil || state.Exit.Reason != qemu.ExitGuestShutdown {
		s.Errorf("exit %+v", state.Exit)
	}
}

func (s *suite) guestPanic() {
	if s.Panic == nil {
		return
	}
	s.start()
	s.Panic(s.T, s.id)
	s.wantEvent(qemu.EventGuestPanicked)
	state := s.eventually("panicked", func(st qemu.State) bool { return st.GuestPanicked })
	if state.Phase != qemu.PhaseRunning {
		s.Errorf("phase %s of a guest that may go on", state.Phase)
	}
	s.must(s.Runner.Reset(s.ctx, s.id))
	s.eventually("reset", func(st qemu.State) bool { return st.Resets == 1 && !st.GuestPanicked })
	_, err := s.Runner.Stop(s.ctx, s.id, qemu.StopOptions{})
	s.must(err)

	s.Machine.OnPanic = qemu.PanicPause
	s.start()
	s.Panic(s.T, s.id)
	state = s.eventually("paused", func(st qemu.State) bool { return st.Phase == qemu.PhasePaused })
	if !state.GuestPanicked || state.RunState != "guest-panicked" {
		s.Errorf("state %+v", state)
	}
	s.must(s.Runner.Reset(s.ctx, s.id))
	s.eventually("running", func(st qemu.State) bool {
		return st.Phase == qemu.PhaseRunning && !st.GuestPanicked && st.Resets == 1
	})
}
