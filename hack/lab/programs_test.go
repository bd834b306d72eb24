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

	"github.com/pxelab/pxelab/internal/paths"
	"github.com/pxelab/pxelab/internal/paths/pathstest"
	"github.com/pxelab/pxelab/internal/process"
)

// testLab is a lab in a temporary directory whose programs are shell scripts.
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
		root: base, bin: base, say: newPrinter(out),
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

func TestProgram(t *testing.T) {
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
			t.Fatal("the program does not run")
		}
		started[r.Identity] = true
		return r
	}
	t.Cleanup(func() {
		for id := range started {
			if err := endProcess(context.Background(), id, time.Minute); err != nil {
				t.Error(err)
			}
		}
	})

	first := ensure("a")
	if again := ensure("a"); again.Identity != first.Identity {
		t.Error("a second run started another")
	}
	other := ensure("b")
	if other.Identity == first.Identity || process.Alive(first.Identity) {
		t.Error("other arguments did not start it anew")
	}
	script(t, l, "exec sleep 601\n")
	rebuilt := ensure("b")
	if rebuilt.Identity == other.Identity || process.Alive(other.Identity) {
		t.Error("a new build did not start it anew")
	}
	for range 2 {
		if err := l.stopProgram(t.Context(), manager); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := l.running(manager); r != nil || err != nil || process.Alive(rebuilt.Identity) {
		t.Errorf("after the stop: record %v, error %v", r, err)
	}
	if left, err := os.ReadDir(l.dirs.Records()); err != nil || len(left) > 0 {
		t.Errorf("records left: %v, error %v", left, err)
	}
}

func TestProgramThatIgnoresTheRequestIsKilled(t *testing.T) {
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
	if err := endProcess(t.Context(), r.Identity, 500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if process.Alive(r.Identity) {
		t.Error("it still runs")
	}
}

func TestProgramThatDiesIsReportedWithItsLastWords(t *testing.T) {
	l := testLab(t)
	if err := os.WriteFile(filepath.Join(l.dirs.Logs(), "manager.log"), []byte("an earlier complaint\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := script(t, l, "echo cannot open the frobnicator >&2\nexit 1\n")
	r, err := l.ensureProgram(t.Context(), manager, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = l.until(t.Context(), manager, r, time.Minute, func(context.Context) (bool, error) { return false, nil })
	if err == nil || !strings.Contains(err.Error(), "cannot open the frobnicator") || strings.Contains(err.Error(), "earlier") {
		t.Errorf("error %v, want the program's last words and no earlier ones", err)
	}
}

func TestDamagedRecordIsNotTrusted(t *testing.T) {
	l := testLab(t)
	if err := os.WriteFile(l.recordPath(manager), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.ensureProgram(t.Context(), manager, script(t, l, "exit 0\n"), nil); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("error %v, want one about the damaged record", err)
	}
}

func TestLock(t *testing.T) {
	l := testLab(t)
	unlock, err := l.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.lock(); err == nil || !strings.Contains(err.Error(), "at work") {
		t.Errorf("error %v, want that another is at work", err)
	}
	unlock()
	unlock, err = l.lock()
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

func TestCleanLeavesWhatIsNotTheLabs(t *testing.T) {
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
		t.Errorf("left: %v, error %v; want only the user's own file", left, err)
	}
}

// TestStrangersAreNotStopped has records of programs whose PIDs belong to others
// by now.
func TestStrangersAreNotStopped(t *testing.T) {
	l := testLab(t)
	path := script(t, l, "exec sleep 600\n")
	r, err := l.ensureProgram(t.Context(), manager, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = endProcess(context.Background(), r.Identity, time.Minute) })
	for name, stranger := range map[string]func(*record){
		"recycled PID":       func(r *record) { r.Start++ },
		"before a reboot":    func(r *record) { r.Boot = "0f3d1c2e-before" },
		"both":               func(r *record) { r.Start, r.Boot = r.Start+1, "0f3d1c2e-before" },
		"a group of them":    func(r *record) { r.PID = -r.PID },
		"everybody":          func(r *record) { r.PID = -1 },
		"the very first one": func(r *record) { r.PID = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			old := *r
			stranger(&old)
			l.writeRecord(t, manager, &old)
			if now, err := l.running(manager); now != nil || err != nil {
				t.Errorf("taken for the manager: %+v, %v", now, err)
			}
			if err := l.stopProgram(t.Context(), manager); err != nil {
				t.Error(err)
			}
			if left, err := os.ReadFile(l.recordPath(manager)); err == nil {
				t.Errorf("the stale record stays: %s", left)
			}
			live(t, r)
		})
	}
	// And a new one is started beside the stranger.
	old := *r
	old.Start++
	l.writeRecord(t, manager, &old)
	fresh, err := l.ensureProgram(t.Context(), manager, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if fresh.Identity == r.Identity {
		t.Error("the stranger was adopted")
	}
	live(t, r)
	if err := l.stopProgram(t.Context(), manager); err != nil {
		t.Fatal(err)
	}
	live(t, r)
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

func live(t *testing.T, r *record) {
	t.Helper()
	if !process.Alive(r.Identity) {
		t.Fatal("a stranger was ended")
	}
}
