// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"os"
	"path/filepath"
	"testing"
)

// What the installer writes has secrets, which other users of the installed system must not
// read, whatever the image has in its place.
func TestWrittenFilesArePrivate(t *testing.T) {
	dir := t.TempDir()
	files, err := CloudInitFiles("http://10.88.0.1/m/secret/ci/", "version: 2\nwifis: {w: {access-points: {x: {password: secret}}}}\n")
	if err != nil {
		t.Fatal(err)
	}
	readable := filepath.Join(dir, files[0].Path)
	if err := os.MkdirAll(filepath.Dir(readable), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(readable, []byte("of the image"), 0o666); err != nil {
		t.Fatal(err)
	}
	r := &root{dir: dir}
	for _, f := range files {
		if err := r.write(f); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, f.Path))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != 0o600 {
			t.Errorf("/%s: got mode %v, want 0600", f.Path, got)
		}
	}
}
