// SPDX-License-Identifier: Apache-2.0

package hostfs

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/renameio/v2"
)

func TestRemoveTemporary(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "record.json")
	if err := RemoveTemporary(filepath.Join(dir, "none", "record.json")); err != nil {
		t.Errorf("without a directory: got error %v, want none", err)
	}
	for _, name := range []string{"record.json", ".record.json", ".record.json.bak", ".record.json12.bak", ".record2.json1", "record.json1"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// As a process leaves it that is killed before the file is renamed.
	pending, err := renameio.NewPendingFile(path, renameio.WithTempDir(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := pending.File.Close(); err != nil {
		t.Fatal(err)
	}
	if err := RemoveTemporary(path); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	want := []string{".record.json", ".record.json.bak", ".record.json12.bak", ".record2.json1", "record.json", "record.json1"}
	if !slices.Equal(left, want) {
		t.Errorf("got the files %q, want %q", left, want)
	}
}
