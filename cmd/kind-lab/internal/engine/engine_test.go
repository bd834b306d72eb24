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

func TestDaemonConfigLeavesHostAlone(t *testing.T) {
	e := Engine{Dir: "/home/u/.cache/pxelab/kind/engine", Group: 1000}
	for major, key := range map[int]bool{20: true, 23: true, 24: false, 28: false} {
		text, err := json.Marshal(e.daemon(major, ""))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`"iptables":false`, `"ip6tables":false`, `"ip-forward":false`, `"bridge":"none"`, `"group":"1000"`} {
			if !strings.Contains(string(text), want) {
				t.Errorf("version %d: got %[3]s, want %[2]s in it", major, want, text)
			}
		}
		// dockerd rejects unknown settings.
		if got := strings.Contains(string(text), "deprecated-key-path"); got != key {
			t.Errorf("version %d: got key path set %v, want %v", major, got, key)
		}
		for _, path := range []string{"/etc/", "/var/lib/"} {
			if strings.Contains(string(text), path) {
				t.Errorf("version %d: got %s in %s, want no such path", major, path, text)
			}
		}
		if strings.Contains(string(text), "runtime") {
			t.Errorf("version %d: got a runtime in %s, want none", major, text)
		}
	}
	if c := e.daemon(20, "/x/runc-bounded"); c.Runtimes[c.DefaultRuntime].Path != "/x/runc-bounded" {
		t.Errorf("got runtime %q of %v, want /x/runc-bounded", c.DefaultRuntime, c.Runtimes)
	}
}

// TestNames checks that names differ by directory and fit their length limits.
func TestNames(t *testing.T) {
	a, b := Engine{Dir: "/a"}, Engine{Dir: "/b"}
	for what, names := range map[string][2]string{
		"sockets of two engines":  {a.Socket(), b.Socket()},
		"bridges of two engines":  {a.Bridge("x"), b.Bridge("x")},
		"bridges of two networks": {a.Bridge("x"), a.Bridge("y")},
	} {
		if names[0] == names[1] {
			t.Errorf("%s: got %q twice, want different names", what, names[0])
		}
	}
	got := a.Bridge(strings.Repeat("long", 20))
	if len(got) > 15 {
		t.Errorf("got bridge %q, want at most 15 bytes", got)
	}
	if !strings.HasPrefix(got, a.bridgePrefix()) {
		t.Errorf("got bridge %q, want one with the prefix %q", got, a.bridgePrefix())
	}
	if got := a.Socket(); len(got) > 60 {
		t.Errorf("got socket %q, want at most 60 bytes: containerd appends to its directory", got)
	}
}

func TestRunning(t *testing.T) {
	e := Engine{Dir: t.TempDir()}
	if _, alive, err := e.Running(); alive || err != nil {
		t.Errorf("without a record: got alive %v, error %v, want false", alive, err)
	}
	self, err := process.Find(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := e.write(running{Identity: self}); err != nil {
		t.Fatal(err)
	}
	id, alive, err := e.Running()
	if err != nil {
		t.Fatal(err)
	}
	if !alive {
		t.Error("this process: got alive false, want true")
	}
	if id != self {
		t.Errorf("got identity %v, want %v", id, self)
	}
	other := self
	other.Start += uint64(time.Hour)
	if err := e.write(running{Identity: other}); err != nil {
		t.Fatal(err)
	}
	if _, alive, err := e.Running(); alive || err != nil {
		t.Errorf("another process with the same PID: got alive %v, error %v, want false", alive, err)
	}
	if known, err := e.Known(); !known || err != nil {
		t.Errorf("got known %v, error %v, want true", known, err)
	}
	if err := os.WriteFile(filepath.Join(e.Dir, "engine.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := e.Running(); err == nil || !strings.Contains(err.Error(), "engine.json") {
		t.Errorf("damaged record: got error %v, want one that contains engine.json", err)
	}
}
