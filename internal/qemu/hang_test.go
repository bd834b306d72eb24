// SPDX-License-Identifier: Apache-2.0

package qemu_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/qemu/qemutest"
)

// everything makes a fake QEMU answer nothing.
var everything = qemutest.Faults{Hang: []string{"*"}}

// TestHungQEMU hangs a QEMU that runs, and one from its start. No method but Stop
// waits for them, and other machines run.
func TestHungQEMU(t *testing.T) {
	p, o := fakeProgram(t)
	stopAll(t, o)
	l := open(t, o)
	ran, never, other := bare(machine.X8664), bare(machine.X8664), bare(machine.AArch64)
	start(t, l, ran)
	p.Set(t, ran.ID, everything)
	p.Set(t, never.ID, everything)
	if err := l.Start(within(t), never); err != nil {
		t.Fatal(err)
	}
	for _, m := range []machine.Machine{ran, never} {
		awaitState(t, l, m.ID, "a process", func(s machine.State) bool { return s.PID != 0 })
		for range 3 {
			callAll(t, l, m)
		}
	}
	start(t, l, other)
	if s := awaitState(t, l, ran.ID, "the silence of QEMU", func(s machine.State) bool { return s.Phase != machine.PhaseRunning }); s.Phase != machine.PhaseUnresponsive {
		t.Errorf("got state %+v, want phase %s", s, machine.PhaseUnresponsive)
	}
	if s := observe(t, l, never.ID); s.Phase != machine.PhaseStarting {
		t.Errorf("got state %+v, want phase %s", s, machine.PhaseStarting)
	}

	// What was requested is not lost when QEMU answers again.
	p.Set(t, ran.ID, qemutest.Faults{})
	awaitState(t, l, ran.ID, "QEMU's answers", func(s machine.State) bool {
		return s.Phase == machine.PhaseRunning && s.Resets > 0 && slices.Equal(s.BootOrder, []string{"net1"}) && !s.PowerDownRequestedAt.IsZero()
	})
	for _, m := range []machine.Machine{ran, never, other} {
		o, want := machine.StopOptions{}, machine.StoppedByQuit
		if m.ID == never.ID {
			o.QuitTimeout, want = 100*time.Millisecond, machine.StoppedByKill
		}
		if how, err := l.Stop(within(t), m.ID, o); err != nil || how != want {
			t.Errorf("Stop: got %s, %v; want %s", how, err, want)
		}
	}
}

// callAll calls the methods that must not wait for the machine.
func callAll(t *testing.T, l *qemu.Local, m machine.Machine) {
	t.Helper()
	for name, call := range map[string]func() error{
		"Start":        func() error { return l.Start(t.Context(), m) },
		"Observe":      func() error { _, err := l.Observe(t.Context(), m.ID); return err },
		"List":         func() error { _, err := l.List(t.Context()); return err },
		"SetBootOrder": func() error { return l.SetBootOrder(t.Context(), m.ID, []string{"net1"}) },
		"Reset":        func() error { return l.Reset(t.Context(), m.ID) },
		"PowerDown":    func() error { return l.PowerDown(t.Context(), m.ID) },
		"Remove": func() error {
			if err := l.Remove(t.Context(), m.ID); !errors.Is(err, machine.ErrRunning) {
				t.Errorf("Remove: got %v, want %v", err, machine.ErrRunning)
			}
			return nil
		},
	} {
		began := time.Now()
		if err := call(); err != nil {
			t.Errorf("%s of a QEMU that hangs: %v", name, err)
		}
		// The shortest wait for QEMU takes longer.
		if took := time.Since(began); took > time.Second {
			t.Errorf("%s of a QEMU that hangs took %s", name, took)
		}
	}
}

// TestStopInterruptsStart stops a machine while its start waits for the end of a process
// that holds the machine's log and has no socket.
func TestStopInterruptsStart(t *testing.T) {
	_, o := fakeProgram(t)
	stopAll(t, o)
	l := open(t, o)
	m := bare(machine.X8664)
	log := machine.NewPaths(o.DataDir, o.RuntimeDir, m.ID).Log
	if err := os.MkdirAll(filepath.Dir(log), 0o700); err != nil {
		t.Fatal(err)
	}
	holder, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	if err := syscall.Flock(int(holder.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}

	if err := l.Start(within(t), m); err != nil {
		t.Fatal(err)
	}
	if s := observe(t, l, m.ID); s.Phase != machine.PhaseStarting || s.StartedAt.IsZero() || s.Digest != m.Digest() {
		t.Errorf("got state %+v, want phase %s", s, machine.PhaseStarting)
	}
	if how, err := l.Stop(within(t), m.ID, machine.StopOptions{}); err != nil || how != machine.StoppedAlready {
		t.Errorf("Stop: got %s, %v; want %s", how, err, machine.StoppedAlready)
	}
	if s := observe(t, l, m.ID); s.Phase != machine.PhaseNotFound {
		t.Errorf("got state %+v, want phase %s", s, machine.PhaseNotFound)
	}
	if err := holder.Close(); err != nil {
		t.Fatal(err)
	}
	start(t, l, m)
}

// TestLostRecordOfHungQEMU loses the record of a machine whose QEMU does not answer: the
// machine cannot be started, stopped or removed until it answers, and is then adopted.
func TestLostRecordOfHungQEMU(t *testing.T) {
	p, o := fakeProgram(t)
	stopAll(t, o)
	l := open(t, o)
	m := bare(machine.X8664)
	s := start(t, l, m)
	l.Close()
	if err := os.Remove(s.Paths.Record); err != nil {
		t.Fatal(err)
	}
	p.Set(t, m.ID, everything)

	l = open(t, o)
	if got := observe(t, l, m.ID); got.Phase != machine.PhaseUnresponsive || got.Problem == "" {
		t.Errorf("got state %+v, want phase %s and the problem", got, machine.PhaseUnresponsive)
	}
	if err := l.Start(within(t), m); err == nil {
		t.Error("Start: got no error, want one: the process is not known")
	}
	if how, err := l.Stop(within(t), m.ID, machine.StopOptions{}); err == nil {
		t.Errorf("Stop: got %s, want an error: the process is not known", how)
	}
	p.Set(t, m.ID, qemutest.Faults{})
	if got := awaitState(t, l, m.ID, "its process", func(s machine.State) bool { return s.Phase == machine.PhaseRunning }); got.PID != s.PID {
		t.Errorf("got state %+v, want process %d", got, s.PID)
	}
}

// TestGuestPowersOff starts a guest that powers itself off after it was run, and again
// after its restart.
func TestGuestPowersOff(t *testing.T) {
	p, o := fakeProgram(t)
	stopAll(t, o)
	l := open(t, o)
	m := bare(machine.X8664)
	p.Set(t, m.ID, qemutest.Faults{PowerOffAfter: 10 * time.Millisecond})
	for range 3 {
		if err := l.Start(within(t), m); err != nil {
			t.Fatal(err)
		}
		s := awaitState(t, l, m.ID, "the power-off", func(s machine.State) bool { return !s.Phase.Alive() })
		if e := s.Exit; e == nil || e.Reason != machine.ExitGuestShutdown || e.Requested || e.StartedAt.IsZero() {
			t.Errorf("got exit %+v, want reason %s, not requested", e, machine.ExitGuestShutdown)
		}
	}
}

// TestStartsAreIndependent starts many machines of which every second one fails.
func TestStartsAreIndependent(t *testing.T) {
	p, o := fakeProgram(t)
	stopAll(t, o)
	l := open(t, o)
	var all []machine.Machine
	for i := range 8 {
		m := bare(machine.X8664)
		if i%2 == 1 {
			p.Set(t, m.ID, qemutest.Faults{FailStart: "out of luck"})
		}
		all = append(all, m)
		if err := l.Start(within(t), m); err != nil {
			t.Fatal(err)
		}
	}
	got, want := map[string]machine.Phase{}, map[string]machine.Phase{}
	for i, m := range all {
		want[m.ID] = []machine.Phase{machine.PhaseRunning, machine.PhaseStopped}[i%2]
		got[m.ID] = awaitState(t, l, m.ID, "the start", func(s machine.State) bool { return s.Phase != machine.PhaseStarting }).Phase
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("phases (-want +got):\n%s", diff)
	}
}
