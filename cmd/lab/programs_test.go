// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/ownership"
	"github.com/pxelab/pxelab/internal/paths"
	"github.com/pxelab/pxelab/internal/paths/pathstest"
	"github.com/pxelab/pxelab/internal/process"
)

// testLab returns a lab in a temporary directory whose programs are shell scripts.
func testLab(t *testing.T) *lab {
	t.Helper()
	base := pathstest.Short(t)
	out, err := os.Create(filepath.Join(base, "out"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	l := &lab{
		dirs: paths.Dirs{Data: base + "/data", Cache: base + "/cache", Runtime: base + "/run"},
		root: base, bin: base, out: newPrinter(out),
	}
	if err := l.dirs.Ensure(); err != nil {
		t.Fatal(err)
	}
	return l
}

func script(t *testing.T, l *lab, text string) string {
	t.Helper()
	path := filepath.Join(l.bin, "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEnsureProgramRestartsOnChange(t *testing.T) {
	l := testLab(t)
	path := script(t, l, "exec sleep 600\n")
	started := map[process.Identity]bool{}
	ensure := func(args ...string) *record {
		t.Helper()
		r, err := l.ensureProgram(t.Context(), manager, path, args)
		if err != nil {
			t.Fatal(err)
		}
		if !process.Alive(r.Identity) {
			t.Fatal("program is not running")
		}
		started[r.Identity] = true
		return r
	}
	t.Cleanup(func() {
		for id := range started {
			if err := terminate(context.Background(), id, time.Minute); err != nil {
				t.Error(err)
			}
		}
	})

	first := ensure("a")
	if again := ensure("a"); again.Identity != first.Identity {
		t.Error("same arguments: got a new process, want the running one")
	}
	other := ensure("b")
	if other.Identity == first.Identity || process.Alive(first.Identity) {
		t.Error("other arguments: got the old process, want it restarted")
	}
	script(t, l, "exec sleep 601\n")
	rebuilt := ensure("b")
	if rebuilt.Identity == other.Identity || process.Alive(other.Identity) {
		t.Error("new build: got the old process, want it restarted")
	}
	for range 2 {
		if err := l.stopProgram(t.Context(), manager); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := l.running(manager); r != nil || err != nil || process.Alive(rebuilt.Identity) {
		t.Errorf("after stopProgram: got record %v, error %v, want none and the process gone", r, err)
	}
	if left, err := os.ReadDir(l.dirs.Records()); err != nil || len(left) > 0 {
		t.Errorf("got records %v, error %v, want none", left, err)
	}
}

func TestTerminateKillsAfterTimeout(t *testing.T) {
	l := testLab(t)
	ready := filepath.Join(l.dirs.Data, "ready")
	path := script(t, l, "trap '' TERM\necho > '"+ready+"'\nwhile :; do sleep 1; done\n")
	r, err := l.ensureProgram(t.Context(), manager, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = l.until(t.Context(), manager, r, time.Minute, func(context.Context) (bool, error) {
		_, err := os.Stat(ready)
		return err == nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := terminate(t.Context(), r.Identity, 500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if process.Alive(r.Identity) {
		t.Error("process is still running")
	}
}

func TestUntilReportsLogOfExitedProgram(t *testing.T) {
	l := testLab(t)
	if err := os.WriteFile(filepath.Join(l.dirs.Logs(), "manager.log"), []byte("an earlier error\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := script(t, l, "echo cannot open the frobnicator >&2\nexit 1\n")
	r, err := l.ensureProgram(t.Context(), manager, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = l.until(t.Context(), manager, r, time.Minute, func(context.Context) (bool, error) { return false, nil })
	if err == nil || !strings.Contains(err.Error(), "cannot open the frobnicator") || strings.Contains(err.Error(), "earlier") {
		t.Errorf("got error %v, want the log of this run only", err)
	}
}

func TestEnsureProgramRejectsDamagedRecord(t *testing.T) {
	l := testLab(t)
	if err := os.WriteFile(l.recordPath(manager), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := l.ensureProgram(t.Context(), manager, script(t, l, "exit 0\n"), nil)
	if err == nil || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("got error %v, want one that contains \"remove the file\"", err)
	}
}

func TestLock(t *testing.T) {
	l := testLab(t)
	unlock, err := l.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.lock(); err == nil || !strings.Contains(err.Error(), "is running") {
		t.Errorf("got error %v, want one that contains \"is running\"", err)
	}
	unlock()
	unlock, err = l.lock()
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

// TestDownRejectsManagerOfAnotherStarter covers a manager that was started by hand
// and of which the lab has no record.
func TestDownRejectsManagerOfAnotherStarter(t *testing.T) {
	l := testLab(t)
	held, err := ownership.AcquireDirectory(l.dirs.Data)
	if err != nil {
		t.Fatal(err)
	}
	for name, command := range map[string]func(context.Context) error{"down": l.down, "clean": l.clean, "status": l.status} {
		err := command(t.Context())
		for _, want := range []string{"another manager", l.dirs.Data} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s beside a manager: got error %v, want one that contains %q", name, err, want)
			}
		}
	}
	if err := held.Release(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the command itself releases the directory
		if err := l.down(t.Context()); err != nil {
			t.Errorf("down without a manager: got error %v, want nil", err)
		}
	}
}

// TestWithMachinesExcludesManagers starts no manager while the machines are in use.
func TestWithMachinesExcludesManagers(t *testing.T) {
	l := testLab(t)
	err := l.withMachines(func(labMachines) error {
		if d, err := ownership.AcquireDirectory(l.dirs.Data); err == nil {
			t.Error("a manager acquired the data directory, want it refused")
			return d.Release()
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestCleanKeepsForeignFiles(t *testing.T) {
	l := testLab(t)
	mine := filepath.Join(l.dirs.Data, "thesis.txt")
	if err := os.WriteFile(mine, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.clean(t.Context()); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(l.dirs.Data)
	if err != nil || len(left) != 1 || left[0].Name() != "thesis.txt" {
		t.Errorf("got files %v, error %v, want only the user's thesis.txt", left, err)
	}
}

// TestForeignProcessIsNotStopped uses records whose PIDs belong to other
// processes by now.
func TestForeignProcessIsNotStopped(t *testing.T) {
	l := testLab(t)
	path := script(t, l, "exec sleep 600\n")
	r, err := l.ensureProgram(t.Context(), manager, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = terminate(context.Background(), r.Identity, time.Minute) })
	for name, change := range map[string]func(*record){
		"recycled PID":  func(r *record) { r.Start++ },
		"previous boot": func(r *record) { r.Boot = "0f3d1c2e-before" },
		"both":          func(r *record) { r.Start, r.Boot = r.Start+1, "0f3d1c2e-before" },
		"process group": func(r *record) { r.PID = -r.PID },
		"all processes": func(r *record) { r.PID = -1 },
		"init process":  func(r *record) { r.PID = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			old := *r
			change(&old)
			l.writeRecord(t, manager, &old)
			if now, err := l.running(manager); now != nil || err != nil {
				t.Errorf("got record %+v, error %v, want none", now, err)
			}
			if err := l.stopProgram(t.Context(), manager); err != nil {
				t.Error(err)
			}
			if left, err := os.ReadFile(l.recordPath(manager)); err == nil {
				t.Errorf("got stale record %s, want it removed", left)
			}
			assertAlive(t, r)
		})
	}
	// A new process is started next to the foreign one.
	old := *r
	old.Start++
	l.writeRecord(t, manager, &old)
	fresh, err := l.ensureProgram(t.Context(), manager, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if fresh.Identity == r.Identity {
		t.Error("got the foreign process, want a new one")
	}
	assertAlive(t, r)
	if err := l.stopProgram(t.Context(), manager); err != nil {
		t.Fatal(err)
	}
	assertAlive(t, r)
}

func (l *lab) writeRecord(t *testing.T, name string, r *record) {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.recordPath(name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func assertAlive(t *testing.T, r *record) {
	t.Helper()
	if !process.Alive(r.Identity) {
		t.Fatal("a foreign process was stopped")
	}
}
