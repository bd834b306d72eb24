// SPDX-License-Identifier: Apache-2.0

package qemu_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/qemu"
)

func start(t *testing.T, l *qemu.Local, m qemu.Machine) qemu.State {
	t.Helper()
	if err := l.Start(within(t), m); err != nil {
		t.Fatal(err)
	}
	return observe(t, l, m.ID)
}

func observe(t *testing.T, l *qemu.Local, id string) qemu.State {
	t.Helper()
	s, err := l.Observe(within(t), id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeLocal(t *testing.T, l *qemu.Local) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// awaitEnd waits until the process is gone, without a Runner.
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
	o, m := options(t), bare(qemu.X8664)
	stopAll(t, o)
	l := open(t, o)
	before := start(t, l, m)
	if _, err := qemu.New(o); err == nil || !strings.Contains(err.Error(), "another pxelab manager") {
		t.Errorf("a second Local on one data directory: %v", err)
	}
	if err := l.SetBootOrder(within(t), m.ID, []string{"net1"}); err != nil {
		t.Fatal(err)
	}
	closeLocal(t, l)

	l = open(t, o)
	after := observe(t, l, m.ID)
	before.BootOrder = []string{"net1"}
	if diff := cmp.Diff(before, after, cmp.Transformer("round", func(t time.Time) int64 { return t.Unix() })); diff != "" {
		t.Error(diff)
	}
	if err := l.Start(within(t), m); err != nil {
		t.Error(err)
	}
	if got := observe(t, l, m.ID).PID; got != before.PID {
		t.Errorf("started process %d although %d ran", got, before.PID)
	}
	if err := l.Reset(within(t), m.ID); err != nil {
		t.Error(err)
	}
}

// TestEndedUnseen ends machines while no Local is there.
func TestEndedUnseen(t *testing.T) {
	for _, tc := range []struct {
		name string
		// end is called with the process running and no Local.
		end  func(t *testing.T, s qemu.State)
		want qemu.ExitReason
	}{
		{"killed", func(t *testing.T, s qemu.State) {
			if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			awaitEnd(t, s.PID)
		}, qemu.ExitUnknown},
		{"host restarted", func(t *testing.T, s qemu.State) {
			if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			awaitEnd(t, s.PID)
			editRecord(t, s.Paths.Record, func(r map[string]any) {
				r["process"].(map[string]any)["boot"] = "an earlier one"
			})
		}, qemu.ExitHostReboot},
		{"PID recycled", func(t *testing.T, s qemu.State) {
			if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			awaitEnd(t, s.PID)
			// Now the PID is this test's: a Runner that trusts it ends us.
			editRecord(t, s.Paths.Record, func(r map[string]any) {
				r["process"].(map[string]any)["pid"] = os.Getpid()
			})
		}, qemu.ExitUnknown},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o, m := options(t), bare(qemu.X8664)
			stopAll(t, o)
			l := open(t, o)
			s := start(t, l, m)
			closeLocal(t, l)
			tc.end(t, s)

			l = open(t, o)
			got := observe(t, l, m.ID)
			if got.Phase != qemu.PhaseStopped || got.Exit == nil || got.Exit.Reason != tc.want {
				t.Fatalf("state %+v, exit %+v", got, got.Exit)
			}
			if how, err := l.Stop(within(t), m.ID, qemu.StopOptions{}); err != nil || how != qemu.StoppedAlready {
				t.Errorf("Stop: %s, %v", how, err)
			}
			// Stale sockets are in the way of nothing.
			if again := start(t, l, m); again.Phase != qemu.PhaseRunning || again.PID == s.PID {
				t.Errorf("started again: %+v", again)
			}
		})
	}
}

// TestShutDownUnseen has the guest power off while no Local is there: what it
// did is still known afterwards.
func TestShutDownUnseen(t *testing.T) {
	o, m := options(t), bare(qemu.X8664)
	stopAll(t, o)
	l := open(t, o)
	s := start(t, l, m)
	awaitSerial(t, l, m.ID)
	closeLocal(t, l)
	other := dialQMP(t, s.Paths.QMP)
	if err := other.Execute(within(t), "human-monitor-command", map[string]string{"command-line": "o /w 0x604 0x2000"}, nil); err != nil {
		t.Fatal(err)
	}
	other.Close()

	l = open(t, o)
	events := l.Watch(within(t))
	for {
		got := observe(t, l, m.ID)
		if got.Phase == qemu.PhaseStopped {
			if got.Exit == nil || got.Exit.Reason != qemu.ExitGuestShutdown {
				t.Errorf("exit %+v", got.Exit)
			}
			return
		}
		if _, ok := <-events; !ok {
			t.Fatalf("still %+v", got)
		}
	}
}

// TestOrphan has the program die after it started QEMU and before it wrote so.
func TestOrphan(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, record string){
		"process not noted": func(t *testing.T, record string) {
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
			o, m := options(t), bare(qemu.X8664)
			stopAll(t, o)
			l := open(t, o)
			s := start(t, l, m)
			closeLocal(t, l)
			damage(t, s.Paths.Record)
			l = open(t, o)
			if got := start(t, l, m); got.PID != s.PID || got.Phase != qemu.PhaseRunning {
				t.Errorf("state %+v, want process %d adopted", got, s.PID)
			}
		})
	}
}

// TestUnresponsive stops QEMU itself, so that neither QMP nor SIGTERM helps.
func TestUnresponsive(t *testing.T) {
	o, m := options(t), bare(qemu.X8664)
	stopAll(t, o)
	l := open(t, o)
	s := start(t, l, m)
	if err := syscall.Kill(s.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if got := observe(t, l, m.ID); got.Phase != qemu.PhaseUnresponsive || got.PID != s.PID {
		t.Errorf("state %+v", got)
	}
	how, err := l.Stop(within(t), m.ID, qemu.StopOptions{QuitTimeout: 100 * time.Millisecond})
	if err != nil || how != qemu.StoppedByKill {
		t.Errorf("Stop: %s, %v", how, err)
	}
	if got := observe(t, l, m.ID); got.Phase != qemu.PhaseStopped || got.Exit.Reason != qemu.ExitStopped || got.Exit.Signal == "" {
		t.Errorf("state %+v, exit %+v", got, got.Exit)
	}
}

// TestStartFails gives QEMU what it must refuse.
func TestStartFails(t *testing.T) {
	o := options(t)
	stopAll(t, o)
	l := open(t, o)
	m := bare(qemu.X8664)
	m.Disks = []qemu.Disk{{ID: "disk0", Path: filepath.Join(o.DataDir, "none.qcow2"), Format: "qcow2"}}
	err := l.Start(within(t), m)
	if err == nil || !strings.Contains(err.Error(), "none.qcow2") || !strings.Contains(err.Error(), "No such file") {
		t.Errorf("Start: %v, want QEMU's own words", err)
	}
	s := observe(t, l, m.ID)
	if s.Phase != qemu.PhaseStopped || s.Exit == nil || s.Exit.Reason != qemu.ExitFailed || s.Exit.Code != 1 {
		t.Errorf("state %+v, exit %+v", s, s.Exit)
	}
	// Corrected, it runs.
	m.Disks = nil
	if s := start(t, l, m); s.Phase != qemu.PhaseRunning {
		t.Errorf("state %+v", s)
	}
}

// TestFilesArePrivate looks at all that a running machine has made.
func TestFilesArePrivate(t *testing.T) {
	o := options(t)
	stopAll(t, o)
	l := open(t, o)
	s := start(t, l, bare(qemu.X8664))
	for _, path := range []string{s.Paths.Record, s.Paths.Vars, s.Paths.Log, s.Paths.SerialLog} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
	for _, dir := range []string{s.Paths.Dir, s.Paths.Sockets} {
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v", dir, info.Mode())
		}
	}
	for _, socket := range []string{s.Paths.QMP, s.Paths.Serial, s.Paths.VNC} {
		if info, err := os.Stat(socket); err != nil || info.Mode() != os.ModeSocket|0o600 {
			t.Errorf("%s: %v, %v", socket, info, err)
		}
	}
	if _, err := l.Stop(within(t), s.ID, qemu.StopOptions{}); err != nil {
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
		t.Error("removal left or took what it should not:", diff)
	}
	if _, err := os.Stat(s.Paths.Sockets); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there", s.Paths.Sockets)
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
		"symlink":  {link, "no directory"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := qemu.New(tc.o)
			if err == nil {
				l.Close()
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), tc.why) {
				t.Errorf("%v does not say %q", err, tc.why)
			}
		})
	}
}

func TestCutLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "serial.log")
	if err := qemu.CutLog(path, 10); err != nil {
		t.Errorf("of no file: %v", err)
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
			t.Errorf("%s holds %q, %v; want %q", filepath.Base(path), got, err, want)
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
	err := l.Start(within(t), bare(qemu.AArch64))
	if err == nil || !strings.Contains(err.Error(), "install qemu-system-arm") {
		t.Errorf("Start: %v, want what to install", err)
	}
}
