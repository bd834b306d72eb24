// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pxelab/pxelab/internal/process"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDaemonTouchesNothingOfTheHost(t *testing.T) {
	e := Engine{Dir: "/home/u/.cache/pxelab/kind/engine", Group: 1000}
	for major, key := range map[int]bool{20: true, 23: true, 24: false, 28: false} {
		text, err := json.Marshal(e.daemon(major, ""))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`"iptables":false`, `"ip6tables":false`, `"ip-forward":false`, `"bridge":"none"`, `"group":"1000"`} {
			if !strings.Contains(string(text), want) {
				t.Errorf("version %d: no %s in %s", major, want, text)
			}
		}
		// dockerd refuses settings that it does not know.
		if got := strings.Contains(string(text), "deprecated-key-path"); got != key {
			t.Errorf("version %d: a key's path is set: %v, want %v", major, got, key)
		}
		for _, path := range []string{"/etc/", "/var/lib/"} {
			if strings.Contains(string(text), path) {
				t.Errorf("version %d: %s in %s", major, path, text)
			}
		}
		if strings.Contains(string(text), "runtime") {
			t.Errorf("version %d: a runtime is set that nothing asks for: %s", major, text)
		}
	}
	if c := e.daemon(20, "/x/runc-bounded"); c.Runtimes[c.DefaultRuntime].Path != "/x/runc-bounded" {
		t.Errorf("the runtime is %q of %v", c.DefaultRuntime, c.Runtimes)
	}
}

// Directories tell engines apart, and their names fit where they go.
func TestNames(t *testing.T) {
	a, b := Engine{Dir: "/a"}, Engine{Dir: "/b"}
	if a.Socket() == b.Socket() || a.Bridge("x") == b.Bridge("x") || a.Bridge("x") == a.Bridge("y") {
		t.Error("two engines or networks share a name")
	}
	if got := a.Bridge(strings.Repeat("long", 20)); len(got) > 15 || !strings.HasPrefix(got, a.bridgePrefix()) {
		t.Errorf("bridge %q", got)
	}
	if got := a.Socket(); len(got) > 60 {
		t.Errorf("socket %q: containerd puts more below its directory", got)
	}
}

func TestRunning(t *testing.T) {
	e := Engine{Dir: t.TempDir()}
	if _, alive, err := e.Running(); alive || err != nil {
		t.Errorf("an engine that never was: %v, %v", alive, err)
	}
	self, err := process.Find(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := e.write(running{Identity: self}); err != nil {
		t.Fatal(err)
	}
	if id, alive, err := e.Running(); !alive || err != nil || id != self {
		t.Errorf("%v, %v, %v; want this process", id, alive, err)
	}
	other := self
	other.Start += uint64(time.Hour)
	if err := e.write(running{Identity: other}); err != nil {
		t.Fatal(err)
	}
	if _, alive, err := e.Running(); alive || err != nil {
		t.Errorf("another process with the same PID: %v, %v", alive, err)
	}
	if known, err := e.Known(); !known || err != nil {
		t.Errorf("known %v, %v", known, err)
	}
	if err := os.WriteFile(filepath.Join(e.Dir, "engine.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := e.Running(); err == nil || !strings.Contains(err.Error(), "engine.json") {
		t.Errorf("a damaged record: %v", err)
	}
}
