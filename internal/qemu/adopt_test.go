// SPDX-License-Identifier: Apache-2.0

package qemu_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/qemu"
)

// start starts a machine and waits until its guest executes.
func start(t *testing.T, l *qemu.Local, m machine.Machine) machine.State {
	t.Helper()
	if err := l.Start(within(t), m); err != nil {
		t.Fatal(err)
	}
	s := awaitState(t, l, m.ID, "the start", func(s machine.State) bool { return s.Phase != machine.PhaseStarting })
	if s.Phase != machine.PhaseRunning {
		t.Fatalf("after Start: got state %+v, exit %+v; want phase %s", s, s.Exit, machine.PhaseRunning)
	}
	return s
}

func awaitState(t *testing.T, l *qemu.Local, id, what string, ok func(machine.State) bool) machine.State {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	events := l.Watch(ctx)
	tick := time.NewTicker(100 * time.Millisecond) // changes of Stall's sizes cause no event
	defer tick.Stop()
	for {
		s := observe(t, l, id)
		if ok(s) {
			return s
		}
		select {
		case <-events:
		case <-tick.C:
		}
		if ctx.Err() != nil {
			t.Fatalf("timed out waiting for %s; last state %+v, stall %+v", what, s, s.Stall)
		}
	}
}

func observe(t *testing.T, l *qemu.Local, id string) machine.State {
	t.Helper()
	s, err := l.Observe(within(t), id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// awaitEnd waits until the process has ended, without a Runner.
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

// editRecord changes fields of a machine's record on disk.
func editRecord(t *testing.T, path string, edit func(map[string]any)) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r map[string]any
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.UseNumber()
	if err := d.Decode(&r); err != nil {
		t.Fatal(err)
	}
	edit(r)
	if text, err = json.Marshal(r); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAdopt(t *testing.T) {
	o, m := options(t), bare(machine.X8664)
	stopAll(t, o)
	l := open(t, o)
	before := start(t, l, m)
	if err := l.SetBootOrder(within(t), m.ID, []string{"net1"}); err != nil {
		t.Fatal(err)
	}
	awaitState(t, l, m.ID, "the boot order", func(s machine.State) bool { return slices.Equal(s.BootOrder, []string{"net1"}) })
	l.Close()

	l = open(t, o)
	after := observe(t, l, m.ID)
	before.BootOrder = []string{"net1"}
	if diff := cmp.Diff(before, after, cmp.Transformer("round", time.Time.Unix)); diff != "" {
		t.Errorf("adopted machine (-want +got):\n%s", diff)
	}
	if err := l.Start(within(t), m); err != nil {
		t.Error(err)
	}
	if got := observe(t, l, m.ID).PID; got != before.PID {
		t.Errorf("Start of an adopted machine: got process %d, want %d", got, before.PID)
	}
	if err := l.Reset(within(t), m.ID); err != nil {
		t.Error(err)
	}
	awaitState(t, l, m.ID, "the reset", func(s machine.State) bool { return s.Resets == 1 })
}

// TestEndedWhileClosed ends machines while no Local is open.
func TestEndedWhileClosed(t *testing.T) {
	for _, tc := range []struct {
		name string
		// end is called with the process running and no open Local.
		end  func(t *testing.T, s machine.State)
		want machine.ExitReason
	}{
		{"killed", func(t *testing.T, s machine.State) {
			if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			awaitEnd(t, s.PID)
		}, machine.ExitUnknown},
		{"host restarted", func(t *testing.T, s machine.State) {
			if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			awaitEnd(t, s.PID)
			editRecord(t, s.Paths.Record, func(r map[string]any) {
				r["process"].(map[string]any)["boot"] = "an earlier one"
			})
		}, machine.ExitHostReboot},
		{"PID recycled", func(t *testing.T, s machine.State) {
			if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			awaitEnd(t, s.PID)
			// The recorded PID is now this test's: a Runner that trusts it kills the
			// test.
			editRecord(t, s.Paths.Record, func(r map[string]any) {
				r["process"].(map[string]any)["pid"] = os.Getpid()
			})
		}, machine.ExitUnknown},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o, m := options(t), bare(machine.X8664)
			stopAll(t, o)
			l := open(t, o)
			s := start(t, l, m)
			l.Close()
			tc.end(t, s)

			l = open(t, o)
			got := observe(t, l, m.ID)
			if got.Phase != machine.PhaseStopped || got.Exit == nil || got.Exit.Reason != tc.want {
				t.Fatalf("got state %+v, exit %+v; want reason %s", got, got.Exit, tc.want)
			}
			if how, err := l.Stop(within(t), m.ID, machine.StopOptions{}); err != nil || how != machine.StoppedAlready {
				t.Errorf("Stop: got %s, %v; want %s", how, err, machine.StoppedAlready)
			}
			// Stale sockets do not prevent another start.
			if again := start(t, l, m); again.Phase != machine.PhaseRunning || again.PID == s.PID {
				t.Errorf("after another Start: got %+v, want a new process", again)
			}
		})
	}
}

// TestShutDownWhileClosed powers the guest off while no Local is open; the next
// Local still reports the shutdown.
func TestShutDownWhileClosed(t *testing.T) {
	o, m := options(t), bare(machine.X8664)
	stopAll(t, o)
	l := open(t, o)
	s := start(t, l, m)
	awaitSerial(t, l, m.ID)
	l.Close()
	other := dialQMP(t, s.Paths.QMP)
	if err := other.Execute(within(t), "human-monitor-command", map[string]string{"command-line": "o /w 0x604 0x2000"}, nil); err != nil {
		t.Fatal(err)
	}
	other.Close()

	l = open(t, o)
	events := l.Watch(within(t))
	for {
		got := observe(t, l, m.ID)
		if got.Phase == machine.PhaseStopped {
			if got.Exit == nil || got.Exit.Reason != machine.ExitGuestShutdown {
				t.Errorf("got exit %+v, want reason %s", got.Exit, machine.ExitGuestShutdown)
			}
			return
		}
		if _, ok := <-events; !ok {
			t.Fatalf("got state %+v, want phase %s", got, machine.PhaseStopped)
		}
	}
}

// TestOrphan simulates a crash between the start of QEMU and the write of its PID.
func TestOrphan(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, record string){
		"process not recorded": func(t *testing.T, record string) {
			editRecord(t, record, func(r map[string]any) { delete(r, "process") })
		},
		"no record": func(t *testing.T, record string) {
			if err := os.Remove(record); err != nil {
				t.Fatal(err)
			}
		},
		"record unusable": func(t *testing.T, record string) {
			if err := os.WriteFile(record, []byte(`{"version": 1, "mach`), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			o, m := options(t), bare(machine.X8664)
			m.NICs[0].Backend.User.Forwards = []machine.Forward{{GuestPort: 22}}
			stopAll(t, o)
			l := open(t, o)
			s := start(t, l, m)
			l.Close()
			damage(t, s.Paths.Record)
			l = open(t, o)
			got := start(t, l, m)
			if got.PID != s.PID || got.Phase != machine.PhaseRunning {
				t.Errorf("got state %+v, want process %d adopted", got, s.PID)
			}
			if diff := cmp.Diff(s.Forwards, got.Forwards); diff != "" {
				t.Errorf("forwards (-want +got):\n%s", diff)
			}
		})
	}
}

// TestUnresponsive stops QEMU with SIGSTOP, so that it reacts to neither QMP nor
// SIGTERM.
func TestUnresponsive(t *testing.T) {
	o, m := options(t), bare(machine.X8664)
	stopAll(t, o)
	l := open(t, o)
	s := start(t, l, m)
	if err := syscall.Kill(s.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	got := awaitState(t, l, m.ID, "the silence of QEMU", func(s machine.State) bool { return s.Phase != machine.PhaseRunning })
	if got.Phase != machine.PhaseUnresponsive || got.PID != s.PID {
		t.Errorf("got state %+v, want process %d in phase %s", got, s.PID, machine.PhaseUnresponsive)
	}
	how, err := l.Stop(within(t), m.ID, machine.StopOptions{QuitTimeout: 100 * time.Millisecond})
	if err != nil || how != machine.StoppedByKill {
		t.Errorf("Stop: got %s, %v; want %s", how, err, machine.StoppedByKill)
	}
	if got := observe(t, l, m.ID); got.Phase != machine.PhaseStopped || got.Exit.Reason != machine.ExitStopped || got.Exit.Signal == "" {
		t.Errorf("got state %+v, exit %+v; want it stopped by a signal", got, got.Exit)
	}
}

// TestStartFails starts a machine with a missing disk file.
func TestStartFails(t *testing.T) {
	o := options(t)
	stopAll(t, o)
	l := open(t, o)
	m := bare(machine.X8664)
	m.Disks = []machine.Disk{{ID: "disk0", Path: filepath.Join(o.DataDir, "none.qcow2"), Format: "qcow2"}}
	if err := l.Start(within(t), m); err != nil {
		t.Fatal(err)
	}
	s := awaitState(t, l, m.ID, "the end of QEMU", func(s machine.State) bool { return s.Phase != machine.PhaseStarting })
	if s.Phase != machine.PhaseStopped || s.Exit == nil || s.Exit.Reason != machine.ExitFailed || s.Exit.Code != 1 {
		t.Fatalf("got state %+v, exit %+v; want it failed with code 1", s, s.Exit)
	}
	if out := s.Exit.Output; !strings.Contains(out, "none.qcow2") || !strings.Contains(out, "No such file") {
		t.Errorf("got output %q, want QEMU's error message", out)
	}
	// The corrected machine runs.
	m.Disks = nil
	if s := start(t, l, m); s.Phase != machine.PhaseRunning {
		t.Errorf("corrected: got state %+v, want phase %s", s, machine.PhaseRunning)
	}
}

// TestFilesArePrivate checks the modes of a machine's files, and which of them
// Remove deletes.
func TestFilesArePrivate(t *testing.T) {
	o := options(t)
	stopAll(t, o)
	l := open(t, o)
	s := start(t, l, bare(machine.X8664))
	for _, path := range []string{s.Paths.Record, s.Paths.Vars, s.Paths.Log, s.Paths.SerialLog} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got mode %v, want 0600", path, info.Mode())
		}
	}
	for _, dir := range []string{s.Paths.Dir, s.Paths.Sockets} {
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o700 {
			t.Errorf("%s: got mode %v, want 0700", dir, info.Mode())
		}
	}
	for _, socket := range []string{s.Paths.QMP, s.Paths.Serial, s.Paths.VNC} {
		if info, err := os.Stat(socket); err != nil || info.Mode() != os.ModeSocket|0o600 {
			t.Errorf("%s: got %v, %v; want a socket with mode 0600", socket, info, err)
		}
	}
	if _, err := l.Stop(within(t), s.ID, machine.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(s.Paths.Dir, "disk.qcow2")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Remove(within(t), s.ID); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(s.Paths.Dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{disk}, left); diff != "" {
		t.Errorf("files after Remove (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(s.Paths.Sockets); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: got %v after Remove, want ErrNotExist", s.Paths.Sockets, err)
	}
}

func TestNewRefuses(t *testing.T) {
	o := options(t)
	relative := o
	relative.DataDir = "data"
	long := o
	long.RuntimeDir = filepath.Join(o.RuntimeDir, strings.Repeat("long", 25))
	file := o
	file.RuntimeDir = filepath.Join(o.RuntimeDir, "file")
	if err := os.WriteFile(file.RuntimeDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := o
	link.RuntimeDir = filepath.Join(o.RuntimeDir, "link")
	if err := os.Symlink("/tmp", link.RuntimeDir); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		o   qemu.Options
		why string
	}{
		"relative": {relative, "absolute"},
		"too long": {long, "shorter runtime directory"},
		"file":     {file, "not a directory"},
		"symlink":  {link, hostfs.ErrNotPrivate.Error() + ": " + link.RuntimeDir},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := qemu.New(tc.o)
			if err == nil {
				l.Close()
				t.Fatal("New: got no error")
			}
			if !strings.Contains(err.Error(), tc.why) {
				t.Errorf("got error %v, want it to contain %q", err, tc.why)
			}
		})
	}
}

func TestCutLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "serial.log")
	if err := qemu.CutLog(path, 10); err != nil {
		t.Errorf("missing file: got %v, want no error", err)
	}
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	write := func(s string) {
		if _, err := log.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	want := func(path, want string) {
		t.Helper()
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v; want %q", filepath.Base(path), got, err, want)
		}
	}
	write("0123456789")
	if err := qemu.CutLog(path, 10); err != nil {
		t.Fatal(err)
	}
	want(path, "0123456789")
	write("x")
	if err := qemu.CutLog(path, 10); err != nil {
		t.Fatal(err)
	}
	write("on")
	want(path, "on")
	want(path+".1", "0123456789x")
}

func TestNoQEMU(t *testing.T) {
	l := open(t, options(t))
	t.Setenv("PATH", t.TempDir())
	m := bare(machine.AArch64)
	if err := l.Start(within(t), m); err != nil {
		t.Fatal(err)
	}
	s := awaitState(t, l, m.ID, "the failure", func(s machine.State) bool { return s.Phase != machine.PhaseStarting })
	if s.Exit == nil || s.Exit.Reason != machine.ExitNotStarted || !strings.Contains(s.Exit.Output, "install qemu-system-arm") {
		t.Errorf("got state %+v, exit %+v; want the package to install", s, s.Exit)
	}
}
