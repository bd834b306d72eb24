// SPDX-License-Identifier: Apache-2.0

package hostfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestSetAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record")
	to := path + ".unusable"
	old := time.Now().Add(-1000 * time.Hour)
	for _, text := range []string{"first", "second"} {
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, 0o644), os.Chtimes(path, old, old)); err != nil {
			t.Fatal(err)
		}
		if err := SetAside(path, to); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(to); err != nil || string(got) != text {
			t.Errorf("got %q, error %v, want %q", got, err, text)
		}
		info, err := os.Stat(to)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("got mode %v, want 0600", info.Mode())
		}
		if info.ModTime().Sub(old) < time.Hour {
			t.Errorf("got modification time %s, want the current time", info.ModTime())
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the damaged file: got %v, want none", err)
		}
	}
	if err := SetAside(path, to); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: got %v, want %v", err, fs.ErrNotExist)
	}
}
