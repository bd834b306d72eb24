// SPDX-License-Identifier: Apache-2.0

package simulator_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/paths/pathstest"
	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/qemu/qemutest"
	"github.com/pxelab/pxelab/internal/simulator"
	"github.com/pxelab/pxelab/internal/simulator/internal/control"
)

// limit bounds every operation of a test.
const limit = 2 * time.Minute

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// program makes the test binary a simulator under the given name.
func program(t *testing.T, name string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// options returns the options of a separate lab per test. Its machines are stopped at
// the end of the test.
func options(t *testing.T) simulator.Options {
	t.Helper()
	o := simulator.Options{
		Program: program(t, programName), // removed last, so that the program runs until then
		DataDir: t.TempDir(), RuntimeDir: pathstest.Short(t),
		Log: testr.NewWithOptions(t, testr.Options{Verbosity: 1}),
	}
	t.Cleanup(func() {
		r, err := simulator.New(o)
		if err != nil {
			t.Error(err)
			return
		}
		defer r.Close()
		all, err := r.List(context.Background())
		if err != nil {
			t.Error(err)
		}
		for _, s := range all {
			if _, err := r.Stop(context.Background(), s.ID, machine.StopOptions{}); err != nil {
				t.Error(err)
			}
		}
		if err := r.Retire(within(t)); err != nil {
			t.Error(err)
		}
		log, err := os.ReadFile(control.NewFiles(o.DataDir, o.RuntimeDir).Log)
		if err != nil && !errors.Is(err, os.ErrNotExist) || strings.Contains(string(log), "DATA RACE") {
			t.Errorf("error %v; the simulator's log:\n%s", err, log)
		}
	})
	return o
}

func open(t *testing.T, o simulator.Options) *simulator.Runner {
	t.Helper()
	r, err := simulator.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// described returns a machine with a blank disk and two NICs.
func described(t *testing.T, o simulator.Options) machine.Machine {
	t.Helper()
	id := uuid.NewString()
	p := machine.NewSimulatedPaths(o.DataDir, o.RuntimeDir, id)
	nic := func(n, boot int) machine.NIC {
		return machine.NIC{
			ID: fmt.Sprintf("net%d", n), MAC: fmt.Sprintf("52:54:00:00:00:%02x", n), BootIndex: boot, MTU: 1500,
			Backend: machine.Backend{Dgram: &machine.Dgram{
				Local: filepath.Join(p.Sockets, fmt.Sprintf("net%d", n)), Remote: filepath.Join(p.Sockets, fmt.Sprintf("sw%d", n)),
			}},
		}
	}
	m := machine.Machine{
		ID: id, Name: "machine", Architecture: machine.X8664, CPUs: 1, MemoryMiB: 256, Kind: machine.KindSimulated,
		NICs:       []machine.NIC{nic(0, 1), nic(1, 0)},
		Disks:      []machine.Disk{{ID: "disk0", Path: filepath.Join(p.Dir, "disk", "disk0.raw"), Format: "raw"}},
		Simulation: &machine.Simulation{LinkRate: 8000, Faults: []machine.SimulatedFault{{Type: "NoSSH", Probability: 1}}},
	}
	blank(t, m.Disks[0].Path)
	return m
}

// blank creates a blank disk.
func blank(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 1<<30); err != nil {
		t.Fatal(err)
	}
}

func observe(t *testing.T, r *simulator.Runner, id string) machine.State {
	t.Helper()
	s, err := r.Observe(within(t), id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// await observes a machine after each of its events until ok returns true.
func await(t *testing.T, r *simulator.Runner, id, what string, ok func(machine.State) bool) machine.State {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	events := r.Watch(ctx)
	defer func() {
		cancel()
		for range events {
		}
	}()
	for {
		s := observe(t, r, id)
		if ok(s) {
			return s
		}
		if _, open := <-events; !open {
			t.Fatalf("timed out waiting for %s; last state %+v, exit %+v", what, s, s.Exit)
		}
	}
}

func running(s machine.State) bool { return s.Phase == machine.PhaseRunning }

func stopped(s machine.State) bool { return s.Phase == machine.PhaseStopped }

func start(t *testing.T, r *simulator.Runner, m machine.Machine) machine.State {
	t.Helper()
	if err := r.Start(within(t), m); err != nil {
		t.Fatal(err)
	}
	s := await(t, r, m.ID, "the start", func(s machine.State) bool { return s.Phase != machine.PhaseStarting })
	if s.Phase != machine.PhaseRunning {
		t.Fatalf("after Start: got state %+v, exit %+v; want phase %s", s, s.Exit, machine.PhaseRunning)
	}
	return s
}

func stop(t *testing.T, r *simulator.Runner, id string, o machine.StopOptions, want machine.StopMethod) {
	t.Helper()
	how, err := r.Stop(within(t), id, o)
	if err != nil || how != want {
		t.Fatalf("Stop: got %s, error %v; want %s", how, err, want)
	}
}

// awaitEnd waits until a process has ended that a Runner has waited for.
func awaitEnd(t *testing.T, pid int) {
	t.Helper()
	p, err := process.Find(pid)
	if errors.Is(err, process.ErrGone) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := process.Wait(within(t), p); err != nil {
		t.Fatal(err)
	}
}

// awaitLog waits until the serial log of a machine contains text, and returns it: a
// guest prints after its start was reported.
func awaitLog(t *testing.T, s machine.State, text string) string {
	t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		log, err := os.ReadFile(s.Paths.SerialLog)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(log), text) {
			return string(log)
		}
	}
	t.Fatalf("timed out waiting for %q in the serial log", text)
	return ""
}

func TestConforms(t *testing.T) {
	qemutest.Conformance(t, func(t *testing.T) qemutest.Harness {
		o := options(t)
		r, m := open(t, o), described(t, o)
		const cause = "no such accelerator"
		path := m.Disks[0].Path
		moved := filepath.Join(filepath.Dir(path), cause)
		// A start fails with the path of a disk that cannot be opened.
		m.Disks[0].Path = filepath.Join(moved, filepath.Base(path))
		blank(t, m.Disks[0].Path)
		return qemutest.Harness{
			Runner: r, Machine: m,
			Crash:    func(t *testing.T, id string) { kill(t, observe(t, r, id).PID, syscall.SIGSEGV) },
			Shutdown: func(t *testing.T, _ string) { order(t, m.NICs[0].Backend.Dgram.Local, "poweroff") },
			FailStart: func(t *testing.T, _, text string) {
				from, to := moved, moved+".away"
				if text == "" {
					from, to = to, from
				}
				if err := os.Rename(from, to); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

// TestConformsWithGuests runs the suite with the guests of package guest, which find no
// server.
func TestConformsWithGuests(t *testing.T) {
	qemutest.Conformance(t, func(t *testing.T) qemutest.Harness {
		o := options(t)
		o.Program = program(t, guestsName)
		r := open(t, o)
		return qemutest.Harness{
			Runner: r, Machine: described(t, o),
			Crash: func(t *testing.T, id string) { kill(t, observe(t, r, id).PID, syscall.SIGSEGV) },
		}
	})
}

func TestAdopt(t *testing.T) {
	o := options(t)
	r, m := open(t, o), described(t, o)
	before := start(t, r, m)
	if err := r.SetBootOrder(within(t), m.ID, []string{"net1"}); err != nil {
		t.Fatal(err)
	}
	order(t, m.NICs[0].Backend.Dgram.Local, "reset")
	before = await(t, r, m.ID, "the boot order and the reset", func(s machine.State) bool {
		return slices.Equal(s.BootOrder, []string{"net1"}) && s.Resets == 1
	})
	r.Close()
	// While no Runner is connected.
	order(t, m.NICs[0].Backend.Dgram.Local, "reset")

	r = open(t, o)
	after := await(t, r, m.ID, "the second reset", func(s machine.State) bool { return s.Resets == 2 })
	before.Resets, after.SerialOffset = 2, before.SerialOffset
	if diff := cmp.Diff(before, after, cmp.Transformer("round", time.Time.Unix)); diff != "" {
		t.Errorf("adopted machine (-want +got):\n%s", diff)
	}
	if err := r.Start(within(t), m); err != nil {
		t.Error(err)
	}
	if got := observe(t, r, m.ID); got.PID != before.PID || !got.StartedAt.Equal(after.StartedAt) {
		t.Errorf("Start of an adopted machine: got %+v, want %+v", got, after)
	}
	if err := r.Reset(within(t), m.ID); err != nil {
		t.Error(err)
	}
	await(t, r, m.ID, "the reset button", func(s machine.State) bool { return s.Resets == 3 })
}

// TestEndedWhileClosed ends machines while no Runner is open.
func TestEndedWhileClosed(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(t *testing.T, m machine.Machine, s machine.State)
		want machine.ExitReason
	}{
		{"power off", func(t *testing.T, m machine.Machine, s machine.State) {
			order(t, m.NICs[0].Backend.Dgram.Local, "poweroff")
			for { // without a Runner there is no event
				r, err := control.Load(s.Paths.Record, m.ID)
				if err != nil {
					t.Fatal(err)
				}
				if r.Exit != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}, machine.ExitGuestShutdown},
		{"simulator killed", func(t *testing.T, _ machine.Machine, s machine.State) {
			kill(t, s.PID, syscall.SIGKILL)
			awaitEnd(t, s.PID)
		}, machine.ExitUnknown},
		{"simulator terminated", func(t *testing.T, _ machine.Machine, s machine.State) {
			kill(t, s.PID, syscall.SIGTERM)
			awaitEnd(t, s.PID)
		}, machine.ExitFailed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := options(t)
			r, m := open(t, o), described(t, o)
			s := start(t, r, m)
			r.Close()
			tc.end(t, m, s)
			r = open(t, o)
			got := await(t, r, m.ID, "its end", stopped)
			if got.Phase != machine.PhaseStopped || got.Exit == nil || got.Exit.Reason != tc.want || got.Digest != s.Digest {
				t.Fatalf("got state %+v, exit %+v; want phase %s, reason %s", got, got.Exit, machine.PhaseStopped, tc.want)
			}
			start(t, r, m)
		})
	}
}

func TestSimulatorKilled(t *testing.T) {
	o := options(t)
	r := open(t, o)
	var all []machine.Machine
	pid := 0
	for range 3 {
		m := described(t, o)
		all = append(all, m)
		pid = start(t, r, m).PID
	}
	kill(t, pid, syscall.SIGKILL)
	for _, m := range all {
		s := await(t, r, m.ID, "its end", stopped)
		if s.Exit.Reason != machine.ExitFailed || s.Exit.Requested || s.Exit.Signal != syscall.SIGKILL.String() || s.PID != 0 {
			t.Errorf("got state %+v, exit %+v; want a failure by %s", s, s.Exit, syscall.SIGKILL)
		}
		if record, err := control.Load(s.Paths.Record, m.ID); err != nil || record.Exit == nil || record.Exit.Reason != machine.ExitFailed {
			t.Errorf("got record %+v, error %v; want its exit", record, err)
		}
		if err := r.Reset(within(t), m.ID); !errors.Is(err, machine.ErrNotRunning) {
			t.Errorf("Reset: got error %v, want %v", err, machine.ErrNotRunning)
		}
	}
	for _, m := range all {
		if s := start(t, r, m); s.PID == pid {
			t.Errorf("got process %d again, want another one", pid)
		}
	}
}

// TestHang stops a machine of a simulator that does not respond.
func TestHang(t *testing.T) {
	o := options(t)
	r, m, other := open(t, o), described(t, o), described(t, o)
	pid := start(t, r, m).PID
	start(t, r, other)
	kill(t, pid, syscall.SIGSTOP)
	await(t, r, m.ID, "its silence to be noticed", func(s machine.State) bool { return s.Phase == machine.PhaseUnresponsive })
	kill(t, pid, syscall.SIGCONT)
	await(t, r, m.ID, "its return", running)
	kill(t, pid, syscall.SIGSTOP)
	stop(t, r, m.ID, machine.StopOptions{QuitTimeout: 100 * time.Millisecond}, machine.StoppedByKill)
	if s := observe(t, r, m.ID); s.Phase != machine.PhaseStopped {
		t.Errorf("got state %+v, want it stopped", s)
	}
	await(t, r, other.ID, "the end of the other machine", stopped)
}

// TestTwoRunners has two Runners on one data directory, which its lock excludes.
func TestTwoRunners(t *testing.T) {
	o := options(t)
	a, b, m := open(t, o), open(t, o), described(t, o)
	for _, r := range []*simulator.Runner{a, b} {
		if err := r.Start(within(t), m); err != nil {
			t.Fatal(err)
		}
	}
	one, two := await(t, a, m.ID, "the start", running), await(t, b, m.ID, "the start", running)
	if one.PID != two.PID || !one.StartedAt.Equal(two.StartedAt) {
		t.Errorf("got states %+v and %+v, want the same machine", one, two)
	}
	if log := awaitLog(t, one, "boots"); strings.Count(log, "boots") != 1 {
		t.Errorf("got serial log %q, want one boot", log)
	}
	stop(t, b, m.ID, machine.StopOptions{}, machine.StoppedByQuit)
	if s := await(t, a, m.ID, "the stop", stopped); s.Exit.Reason != machine.ExitStopped {
		t.Errorf("got exit %+v, want reason %s", s.Exit, machine.ExitStopped)
	}
	start(t, a, m)
	await(t, b, m.ID, "the second start", running)
	kill(t, observe(t, a, m.ID).PID, syscall.SIGKILL)
	await(t, a, m.ID, "the end", stopped)
	await(t, b, m.ID, "the end", stopped)
}

// TestOtherBuild replaces the program while a machine runs.
func TestOtherBuild(t *testing.T) {
	o := options(t)
	r, m := open(t, o), described(t, o)
	before := start(t, r, m)
	r.Close()

	next := o
	next.Program = filepath.Join(t.TempDir(), programName)
	text, err := os.ReadFile(o.Program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(next.Program, append(text, "another build"...), 0o700); err != nil {
		t.Fatal(err)
	}
	r = open(t, next)
	if s := observe(t, r, m.ID); s.Phase != machine.PhaseRunning || s.PID != before.PID {
		t.Fatalf("got state %+v, want it left in process %d", s, before.PID)
	}
	other := described(t, o)
	if s := start(t, r, other); s.PID != before.PID {
		t.Errorf("another machine: got process %d, want %d, because a machine runs in it", s.PID, before.PID)
	}
	stop(t, r, m.ID, machine.StopOptions{}, machine.StoppedByQuit)
	stop(t, r, other.ID, machine.StopOptions{}, machine.StoppedByQuit)
	if s := start(t, r, m); s.PID == before.PID {
		t.Errorf("after the last machine has ended: got process %d, want one of the other build", s.PID)
	}
	awaitEnd(t, before.PID)
	stop(t, r, m.ID, machine.StopOptions{}, machine.StoppedByQuit)
	if err := r.Retire(within(t)); err != nil { // before its executable is removed
		t.Error(err)
	}
}

// TestOtherProtocol starts a machine while a program of another version runs.
func TestOtherProtocol(t *testing.T) {
	o := options(t)
	r, m := open(t, o), described(t, o)
	old, err := process.Start(process.Command{
		Path: program(t, otherName), Args: []string{"--data-dir", o.DataDir, "--runtime-dir", o.RuntimeDir},
		Log: filepath.Join(o.DataDir, "logs", "other.log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	files := control.NewFiles(o.DataDir, o.RuntimeDir)
	for {
		if _, err := control.LoadProgram(files.Record); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if s := start(t, r, m); s.PID == old.PID {
		t.Errorf("got process %d, want another one", s.PID)
	}
	if _, err := process.Wait(within(t), old); err != nil {
		t.Errorf("waiting for the old program: %v", err)
	}
}

func TestProgramIsMissing(t *testing.T) {
	o := options(t)
	m := described(t, o)
	found := o.Program
	o.Program = filepath.Join(t.TempDir(), "missing")
	r := open(t, o)
	if err := r.Start(within(t), m); err != nil {
		t.Fatal(err)
	}
	s := await(t, r, m.ID, "the failure", stopped)
	if s.Exit.Reason != machine.ExitNotStarted || !strings.Contains(s.Exit.Output, o.Program) || !strings.Contains(s.Exit.Output, "make build") {
		t.Errorf("got exit %+v, want one that names %s and how to build it", s.Exit, o.Program)
	}
	if err := os.Symlink(found, o.Program); err != nil {
		t.Fatal(err)
	}
	r.Close()
	o.Program = found
	start(t, open(t, o), m)
}

// TestStopInterruptsStart stops a machine whose program never serves its socket.
func TestStopInterruptsStart(t *testing.T) {
	o := options(t)
	o.Program = program(t, silentName)
	r, m := open(t, o), described(t, o)
	if err := r.Start(within(t), m); err != nil {
		t.Fatal(err)
	}
	if s := observe(t, r, m.ID); s.Phase != machine.PhaseStarting {
		t.Errorf("got state %+v, want it starting", s)
	}
	if err := r.Remove(within(t), m.ID); !errors.Is(err, machine.ErrRunning) {
		t.Errorf("Remove: got error %v, want %v", err, machine.ErrRunning)
	}
	stop(t, r, m.ID, machine.StopOptions{}, machine.StoppedAlready)
	if s := observe(t, r, m.ID); s.Phase != machine.PhaseNotFound {
		t.Errorf("after Stop: got state %+v, want none", s)
	}
}

func TestInvalid(t *testing.T) {
	o := options(t)
	r, valid := open(t, o), described(t, o)
	for name, change := range map[string]func(m *machine.Machine){
		"virtual":     func(m *machine.Machine) { m.Kind, m.Simulation = machine.KindQEMU, nil },
		"user NIC":    func(m *machine.Machine) { m.NICs[0].Backend = machine.Backend{User: &machine.User{}} },
		"probability": func(m *machine.Machine) { m.Simulation.Faults[0].Probability = 2 },
		"delay":       func(m *machine.Machine) { m.Simulation.BootDelay = -1 },
		"twice": func(m *machine.Machine) {
			m.Simulation.Faults = append(m.Simulation.Faults, m.Simulation.Faults[0])
		},
	} {
		m := valid
		m.NICs = slices.Clone(valid.NICs)
		simulation := *valid.Simulation
		simulation.Faults = slices.Clone(valid.Simulation.Faults)
		m.Simulation = &simulation
		change(&m)
		if err := r.Start(within(t), m); !errors.Is(err, machine.ErrInvalid) {
			t.Errorf("%s: got error %v, want %v", name, err, machine.ErrInvalid)
		}
	}
	if got := r.Known(); got != 0 {
		t.Errorf("got %d known machines, want none", got)
	}
}

func TestRemove(t *testing.T) {
	o := options(t)
	r, m := open(t, o), described(t, o)
	s := start(t, r, m)
	stop(t, r, m.ID, machine.StopOptions{}, machine.StoppedByQuit)
	// The former log, and what a simulator leaves that is killed while it writes a record.
	for _, path := range []string{s.Paths.SerialLog + ".1", filepath.Join(s.Paths.Dir, "."+filepath.Base(s.Paths.Record)+"123")} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Remove(within(t), m.ID); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, dir := range []string{s.Paths.Dir, s.Paths.Sockets} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range entries {
			left = append(left, e.Name())
		}
	}
	if !slices.Equal(left, []string{"disk"}) {
		t.Errorf("got the files %q, want only the disk", left)
	}
	if got := r.Known(); got != 0 {
		t.Errorf("got %d known machines, want none", got)
	}
	// Another Runner's machine is left alone.
	foreign := uuid.NewString()
	p := machine.NewPaths(o.DataDir, o.RuntimeDir, foreign)
	if err := errors.Join(os.MkdirAll(p.Dir, 0o700), os.WriteFile(p.SerialLog, []byte("log"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := r.Remove(within(t), foreign); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.SerialLog); err != nil {
		t.Errorf("the log of another Runner's machine: %v", err)
	}
}

func TestRetire(t *testing.T) {
	o := options(t)
	r, m := open(t, o), described(t, o)
	if err := r.Retire(within(t)); err != nil {
		t.Errorf("without a program: got error %v, want none", err)
	}
	pid := start(t, r, m).PID
	if err := r.Retire(within(t)); !errors.Is(err, machine.ErrRunning) {
		t.Errorf("while a machine runs: got error %v, want %v", err, machine.ErrRunning)
	}
	if s := observe(t, r, m.ID); s.Phase != machine.PhaseRunning {
		t.Errorf("got state %+v, want it running", s)
	}
	stop(t, r, m.ID, machine.StopOptions{}, machine.StoppedByQuit)
	if err := r.Retire(within(t)); err != nil {
		t.Errorf("got error %v, want none", err)
	}
	if _, err := process.Find(pid); !errors.Is(err, process.ErrGone) {
		t.Errorf("process %d: got error %v, want %v", pid, err, process.ErrGone)
	}
	start(t, r, m)
}

// TestUnusableRecord opens a data directory with a damaged record.
func TestUnusableRecord(t *testing.T) {
	o := options(t)
	r, m := open(t, o), described(t, o)
	s := start(t, r, m)
	stop(t, r, m.ID, machine.StopOptions{}, machine.StoppedByQuit)
	r.Close()
	if err := os.WriteFile(s.Paths.Record, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	r = open(t, o)
	if s := observe(t, r, m.ID); s.Phase != machine.PhaseNotFound {
		t.Errorf("got state %+v, want none", s)
	}
	start(t, r, m)
	stop(t, r, m.ID, machine.StopOptions{}, machine.StoppedByQuit)
	if err := r.Remove(within(t), m.ID); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.Paths.Record + ".unusable"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the damaged record: got error %v, want it removed", err)
	}
}
