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

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// limit is how long a test waits for an event.
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
	if !exit.Known {
		t.Errorf("got exit %+v, want a known one", exit)
	}
	if exit.Code != 3 {
		t.Errorf("got exit code %d, want 3", exit.Code)
	}
	got := strings.Fields(Tail(log, 0, 1<<16))
	if len(got) != 4 {
		t.Fatalf("got log %q, want out, err, a session ID and /", got)
	}
	if diff := cmp.Diff([]string{"out", "err", "/"}, []string{got[0], got[1], got[3]}); diff != "" {
		t.Fatalf("log without the session ID (-want +got):\n%s", diff)
	}
	if runtime.GOOS == "linux" && got[2] != strconv.Itoa(id.PID) {
		t.Errorf("got session %s, want a new one, %d", got[2], id.PID)
	}
	info, err := os.Stat(log)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("got log mode %v, want 0600", info.Mode())
	}
}

func TestIdentity(t *testing.T) {
	id, _ := start(t, "exec sleep 600")
	if !Alive(id) {
		t.Fatal("Alive after Start = false, want true")
	}
	found, err := Find(id.PID)
	if err != nil || found != id {
		t.Fatalf("Find = %+v, %v; want %+v", found, err, id)
	}
	if !SameBoot(id) {
		t.Error("SameBoot = false, want true")
	}
	for name, other := range map[string]Identity{
		"recycled PID":  {PID: id.PID, Start: id.Start + 1, Boot: id.Boot},
		"earlier boot":  {PID: id.PID, Start: id.Start, Boot: "0f3d1c2e-before"},
		"zero":          {},
		"process group": {PID: -id.PID, Start: id.Start, Boot: id.Boot},
	} {
		t.Run(name, func(t *testing.T) {
			if Alive(other) {
				t.Error("Alive = true, want false")
			}
			if err := Signal(other, syscall.SIGKILL); !errors.Is(err, ErrGone) {
				t.Errorf("Signal = %v, want ErrGone", err)
			}
			if _, err := Wait(deadline(t), other); err != nil {
				t.Errorf("Wait = %v, want nil", err)
			}
		})
	}
	if !Alive(id) {
		t.Error("Alive after signals to other identities = false, want true")
	}
	if SameBoot(Identity{Boot: "another"}) {
		t.Error("SameBoot with another boot ID = true, want false")
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
	if !exit.Known {
		t.Errorf("got exit %+v, want a known one", exit)
	}
	if exit.Signal != syscall.SIGKILL {
		t.Errorf("got exit by signal %v, want %v", exit.Signal, syscall.SIGKILL)
	}
	if exit.Code != -1 {
		t.Errorf("got exit code %d, want -1", exit.Code)
	}
	if Alive(id) {
		t.Error("Alive after the end = true, want false")
	}
	if err := Signal(id, syscall.SIGTERM); !errors.Is(err, ErrGone) {
		t.Errorf("Signal = %v, want ErrGone", err)
	}
	again, err := Wait(deadline(t), id)
	if err != nil || again.Known {
		t.Errorf("second Wait = %+v, %v; want an unknown exit", again, err)
	}
}

func TestZombieIsGone(t *testing.T) {
	id, log := start(t, "echo done")
	// awaitEnd, not Wait: the child stays a zombie.
	if err := awaitEnd(deadline(t), id); err != nil {
		t.Fatal(err)
	}
	if Alive(id) {
		t.Error("Alive of a zombie = true, want false")
	}
	if got := Tail(log, 0, 100); got != "done" {
		t.Errorf("got log %q, want %q", got, "done")
	}
	exit, err := Wait(deadline(t), id)
	if err != nil {
		t.Fatal(err)
	}
	if !exit.Known {
		t.Errorf("Wait of a zombie = %+v, want a known exit", exit)
	}
	if exit.Code != 0 {
		t.Errorf("Wait of a zombie: got exit code %d, want 0", exit.Code)
	}
}

func TestWaitEndsWithContext(t *testing.T) {
	id, _ := start(t, "exec sleep 600")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Wait(ctx, id); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait = %v, want context.Canceled", err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := Wait(ctx, id); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait = %v, want context.DeadlineExceeded", err)
	}
}

func TestPollEnd(t *testing.T) {
	id, _ := start(t, "read x < /dev/null; exit 0")
	if err := pollEnd(deadline(t), id, time.Millisecond); err != nil {
		t.Error(err)
	}
}

// TestWaitForNonChild waits for a process that is the child of another one.
func TestWaitForNonChild(t *testing.T) {
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
		t.Errorf("Wait = %+v, %v; want an unknown exit", exit, err)
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
				t.Errorf("Start = %+v, want an error", id)
			}
		})
	}
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if got := Tail(path, 0, 10); got != "" {
		t.Errorf("Tail of a missing file = %q, want none", got)
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
			t.Errorf("Tail of %d bytes = %q, want %q", limit, got, want)
		}
	}
	if got, want := Tail(path, 11, 100), "second\nthird ?"; got != want {
		t.Errorf("Tail from an offset = %q, want %q", got, want)
	}
	if got, want := Tail(path, 1000, 100), "first line\nsecond\nthird ?"; got != want {
		t.Errorf("Tail after truncation = %q, want %q", got, want)
	}
}
