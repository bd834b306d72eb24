// SPDX-License-Identifier: Apache-2.0

package datadir

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSocketPath(t *testing.T) {
	short := "/d"
	got, scratch, err := SocketPath(short)
	if err != nil {
		t.Fatal(err)
	}
	if got != "/d/sock" {
		t.Errorf("short directory: got %q, want /d/sock", got)
	}
	if scratch != "" {
		t.Errorf("short directory: got scratch directory %q, want none", scratch)
	}

	long := "/" + strings.Repeat("x", maxSocketPath)
	t.Setenv("TMPDIR", "/tmp")
	got, scratch, err = SocketPath(long)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.Remove(scratch) }()
	if len(got) > maxSocketPath {
		t.Errorf("long directory: got %q of %d bytes, want at most %d", got, len(got), maxSocketPath)
	}
	if dir := filepath.Dir(got); dir != scratch {
		t.Errorf("long directory: got a path in %q, want one in %q", dir, scratch)
	}
	info, err := os.Stat(scratch)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o700 {
		t.Errorf("scratch directory: got mode %v, want 0700", mode)
	}

	deep := filepath.Join(t.TempDir(), strings.Repeat("y", maxSocketPath))
	if err := os.Mkdir(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", deep)
	if _, _, err := SocketPath(long); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("both directories too long: got error %v, want one that mentions \"shorter\"", err)
	}
}
