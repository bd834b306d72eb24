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
	if got, scratch, err := SocketPath(short); err != nil || got != "/d/sock" || scratch != "" {
		t.Errorf("short directory: %q, %q, %v", got, scratch, err)
	}

	long := "/" + strings.Repeat("x", maxSocketPath)
	t.Setenv("TMPDIR", "/tmp")
	got, scratch, err := SocketPath(long)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.Remove(scratch) }()
	if len(got) > maxSocketPath || filepath.Dir(got) != scratch {
		t.Errorf("long directory: %q in %q", got, scratch)
	}
	if info, err := os.Stat(scratch); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("scratch directory: %v, %v; want mode 0700", info.Mode(), err)
	}

	deep := filepath.Join(t.TempDir(), strings.Repeat("y", maxSocketPath))
	if err := os.Mkdir(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", deep)
	if _, _, err := SocketPath(long); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("no place at all: %v", err)
	}
}
