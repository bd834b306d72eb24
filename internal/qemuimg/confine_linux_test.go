// SPDX-License-Identifier: Apache-2.0

package qemuimg

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRunConfinesTool runs a stand-in for qemu-img that tries to access other
// files, as a compromised qemu-img would.
func TestRunConfinesTool(t *testing.T) {
	dir := t.TempDir()
	mine := write(t, filepath.Join(dir, "mine"), []byte("mine\n"))
	out := write(t, filepath.Join(dir, "out"), nil)
	other := write(t, filepath.Join(dir, "other"), []byte("other\n"))
	tool := newTool(t, Options{Binary: script(t, `
cat "$1"
echo text > "$2" && echo wrote
cat "$3" || echo unreadable
(echo text > "$3") 2>/dev/null || echo unwritable
(echo text > "$3.new") 2>/dev/null || echo unmakeable
unshare -r true 2>/dev/null || echo unsharable
grep NoNewPrivs /proc/self/status 2>/dev/null || echo no proc
`)})
	l := limits{timeout: time.Minute, fileSize: 1 << 20, files: files{read: []string{mine}, write: []string{out}}}
	text, err := tool.run(t.Context(), l, nil, mine, out, other)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(strings.ReplaceAll(string(text), "no proc", "noproc"))
	want := "mine wrote unreadable unwritable unmakeable unsharable noproc"
	if !confines() { // before Linux 5.13, only seccomp and the resource limits apply
		want = "unsharable"
	}
	for _, w := range strings.Fields(want) {
		found := false
		for _, g := range got {
			found = found || g == w
		}
		if !found {
			t.Errorf("got %q, want it to contain %q", got, w)
		}
	}
	if s := string(read(t, other)); confines() && s != "other\n" {
		t.Errorf("got %q in another file, want it unchanged", s)
	}
	// The confined thread has ended: the restrictions do not affect this process.
	for range 50 {
		if s := string(read(t, other)); s != "other\n" {
			t.Fatalf("got %q in another file, want it unchanged", s)
		}
	}
}
