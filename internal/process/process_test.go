// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// limit is how long anything here may take before a test calls it broken.
const limit = time.Minute

func start(t *testing.T, script string) (Identity, string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	id, err := Start(Command{Path: "/bin/sh", Args: []string{"-c", script}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = Signal(id, syscall.SIGKILL)
		_, _ = Wait(context.Background(), id)
	})
	return id, log
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func TestStartDetaches(t *testing.T) {
	id, log := start(t, `echo out; echo err >&2; ps -o sid= -p $$ | tr -d ' '; pwd; exit 3`)
	exit, err := Wait(deadline(t), id)
	if err != nil {
		t.Fatal(err)
	}
	if !exit.Known || exit.Code != 3 {
		t.Errorf("exit %+v, want a known code 3", exit)
	}
	got := strings.Fields(Tail(log, 0, 1<<16))
	if len(got) != 4 || got[0] != "out" || got[1] != "err" || got[3] != "/" {
		t.Fatalf("log %q", got)
	}
	if runtime.GOOS == "linux" && got[2] != strconv.Itoa(id.PID) {
		t.Errorf("session %s, want one of its own, %d", got[2], id.PID)
	}
	info, err := os.Stat(log)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("log has mode %v, want 0600", info.Mode())
	}
}

func TestIdentity(t *testing.T) {
	id, _ := start(t, "exec sleep 600")
	if !Alive(id) {
		t.Fatal("not alive after start")
	}
	found, err := Find(id.PID)
	if err != nil || found != id {
		t.Fatalf("Find: %+v, %v; want %+v", found, err, id)
	}
	if !SameBoot(id) {
		t.Error("not of this boot")
	}
	for name, other := range map[string]Identity{
		"recycled PID": {PID: id.PID, Start: id.Start + 1, Boot: id.Boot},
		"earlier boot": {PID: id.PID, Start: id.Start, Boot: "0f3d1c2e-before"},
		"no process":   {},
		"a group":      {PID: -id.PID, Start: id.Start, Boot: id.Boot},
	} {
		t.Run(name, func(t *testing.T) {
			if Alive(other) {
				t.Error("alive")
			}
			if err := Signal(other, syscall.SIGKILL); !errors.Is(err, ErrGone) {
				t.Errorf("Signal: %v, want ErrGone", err)
			}
			if _, err := Wait(deadline(t), other); err != nil {
				t.Errorf("Wait: %v", err)
			}
		})
	}
	if !Alive(id) {
		t.Error("a signal meant for another process has ended this one")
	}
	if SameBoot(Identity{Boot: "another"}) {
		t.Error("another boot is taken for this one")
	}
}

func TestSignalAndReap(t *testing.T) {
	id, _ := start(t, "exec sleep 600")
	if err := Signal(id, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	exit, err := Wait(deadline(t), id)
	if err != nil {
		t.Fatal(err)
	}
	if !exit.Known || exit.Signal != syscall.SIGKILL || exit.Code != -1 {
		t.Errorf("exit %+v, want SIGKILL", exit)
	}
	if Alive(id) {
		t.Error("alive after its end")
	}
	if err := Signal(id, syscall.SIGTERM); !errors.Is(err, ErrGone) {
		t.Errorf("Signal: %v, want ErrGone", err)
	}
	again, err := Wait(deadline(t), id)
	if err != nil || again.Known {
		t.Errorf("second Wait: %+v, %v; want an unknown exit", again, err)
	}
}

func TestZombieIsGone(t *testing.T) {
	id, log := start(t, "echo done")
	// awaitEnd, not Wait: the child stays a zombie.
	if err := awaitEnd(deadline(t), id); err != nil {
		t.Fatal(err)
	}
	if Alive(id) {
		t.Error("a zombie is taken for alive")
	}
	if Tail(log, 0, 100) != "done" {
		t.Errorf("log %q", Tail(log, 0, 100))
	}
	if exit, err := Wait(deadline(t), id); err != nil || !exit.Known || exit.Code != 0 {
		t.Errorf("Wait: %+v, %v", exit, err)
	}
}

func TestWaitEndsWithContext(t *testing.T) {
	id, _ := start(t, "exec sleep 600")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Wait(ctx, id); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait: %v, want context.Canceled", err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := Wait(ctx, id); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait: %v, want context.DeadlineExceeded", err)
	}
}

func TestPollEnd(t *testing.T) {
	id, _ := start(t, "read x < /dev/null; exit 0")
	if err := pollEnd(deadline(t), id, time.Millisecond); err != nil {
		t.Error(err)
	}
}

// TestWaitForStranger waits for a process that is the child of another.
func TestWaitForStranger(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	id, err := Find(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := Signal(id, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	exit, err := Wait(deadline(t), id)
	if err != nil || exit.Known {
		t.Errorf("Wait: %+v, %v; want an exit that nobody told us", exit, err)
	}
}

func TestStartErrors(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]Command{
		"no such program": {Path: dir + "/none", Log: dir + "/log"},
		"no log":          {Path: "/bin/sh", Log: dir + "/none/log"},
		"no directory":    {Path: "/bin/sh", Dir: dir + "/none", Log: dir + "/log"},
	} {
		t.Run(name, func(t *testing.T) {
			if id, err := Start(c); err == nil {
				t.Errorf("started %+v", id)
			}
		})
	}
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if got := Tail(path, 0, 10); got != "" {
		t.Errorf("of no file: %q", got)
	}
	if err := os.WriteFile(path, []byte("first line\nsecond\nthird \xff\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[int64]string{
		100: "first line\nsecond\nthird ?",
		20:  "second\nthird ?",
		0:   "",
	} {
		if got := Tail(path, 0, limit); got != want {
			t.Errorf("%d bytes: %q, want %q", limit, got, want)
		}
	}
	if got, want := Tail(path, 11, 100), "second\nthird ?"; got != want {
		t.Errorf("from an offset: %q, want %q", got, want)
	}
	if got, want := Tail(path, 1000, 100), "first line\nsecond\nthird ?"; got != want {
		t.Errorf("truncated since: %q, want %q", got, want)
	}
}
