// SPDX-License-Identifier: Apache-2.0

package targetdisk

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRetainDirNeverReplaces(t *testing.T) {
	parent := t.TempDir()
	dst := filepath.Join(parent, "retained", "default-target-1")
	for i, want := range []string{dst, dst + ".2", dst + ".3"} {
		dir := filepath.Join(parent, "machine")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		content := string(rune('a' + i))
		write(t, filepath.Join(dir, "disk0.raw"), content)
		got, err := RetainDir(dir, dst)
		if err != nil || got != want {
			t.Fatalf("move %d: got %s, %v; want %s", i+1, got, err, want)
		}
		if got := string(read(t, filepath.Join(want, "disk0.raw"))); got != content {
			t.Errorf("%s: got disk %q, want %q", want, got, content)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("move %d: the directory remains", i+1)
		}
	}
	if got, err := RetainDir(filepath.Join(parent, "missing"), dst); err != nil || got != dst {
		t.Errorf("missing directory: got %s, %v; want nothing done", got, err)
	}
}
