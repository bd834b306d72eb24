// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// contents reads an archive into memory, by name.
func contents(t *testing.T, path string) map[string]string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	return entries(t, file)
}

func entries(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	out := map[string]string{}
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := out[header.Name]; twice {
			t.Errorf("%s is there twice", header.Name)
		}
		out[header.Name] = string(content) + header.Linkname
	}
}

func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin", "tool"), []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("tool", filepath.Join(dir, "bin", "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestWrite(t *testing.T) {
	dir, path := tree(t), filepath.Join(t.TempDir(), "a.tar")
	spec := `[
	  {"tags": ["one:1"], "layers": ["` + dir + `"], "architecture": "arm64", "entrypoint": ["/bin/tool"], "env": ["A=b"]},
	  {"tags": ["two:1"], "layers": ["` + dir + `"], "architecture": "arm64", "user": "65532"},
	  {"tags": ["three:1"], "layers": ["` + dir + `"], "architecture": "arm64", "user": "65532"}
	]`
	if err := run([]string{path}, strings.NewReader(spec)); err != nil {
		t.Fatal(err)
	}
	files := contents(t, path)
	var manifests []manifest
	if err := json.Unmarshal([]byte(files["manifest.json"]), &manifests); err != nil {
		t.Fatal(err)
	}
	if len(manifests) != 2 {
		t.Fatalf("%d images, want 2: the last two are one with two names", len(manifests))
	}
	if diff := cmp.Diff([]string{"two:1", "three:1"}, manifests[1].RepoTags); diff != "" {
		t.Error(diff)
	}
	for _, m := range manifests {
		var c config
		if err := json.Unmarshal([]byte(files[m.Config]), &c); err != nil {
			t.Fatal(err)
		}
		if m.Config != digestOf(files[m.Config])+".json" {
			t.Errorf("configuration %s has digest %s", m.Config, digestOf(files[m.Config]))
		}
		if c.Architecture != "arm64" || c.OS != "linux" {
			t.Errorf("for %s/%s", c.OS, c.Architecture)
		}
		if diff := cmp.Diff([]string{"sha256:" + digestOf(files[m.Layers[0]])}, c.RootFS.DiffIDs); diff != "" {
			t.Error(diff)
		}
	}
	want := map[string]string{"bin/": "", "bin/tool": "program", "bin/link": "tool"}
	if diff := cmp.Diff(want, entries(t, strings.NewReader(files[manifests[0].Layers[0]]))); diff != "" {
		t.Error(diff)
	}
}

func digestOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// Equal files make equal images, whenever they were written.
func TestWriteIsReproducible(t *testing.T) {
	out := t.TempDir()
	var archives []string
	for _, name := range []string{"a", "b"} {
		dir := tree(t)
		when := time.Unix(int64(len(archives)+1)*1_000_000, 0)
		if err := os.Chtimes(filepath.Join(dir, "bin", "tool"), when, when); err != nil {
			t.Fatal(err)
		}
		// History names the directory, so it has to be the same.
		same := filepath.Join(t.TempDir(), "files")
		if err := os.Rename(dir, same); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(out, name)
		if err := write(path, []image{{Tags: []string{"x:1"}, Layers: []string{same}, Architecture: "amd64"}}); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		archives = append(archives, string(raw))
	}
	if archives[0] != archives[1] {
		t.Error("two archives of the same files differ")
	}
}

func TestRefuses(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "no-such-layer")
	for name, tt := range map[string]struct{ spec, want string }{
		"nothing":       {`[]`, "names no image"},
		"no layers":     {`[{"tags": ["a:1"], "architecture": "amd64"}]`, "layers"},
		"unknown field": {`[{"name": "a"}]`, "unknown field"},
		"missing layer": {`[{"tags": ["a:1"], "layers": ["` + missing + `"], "architecture": "amd64"}]`, "no-such-layer"},
	} {
		t.Run(name, func(t *testing.T) {
			out := t.TempDir()
			err := run([]string{filepath.Join(out, "a")}, strings.NewReader(tt.spec))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if left, err := os.ReadDir(out); err != nil || len(left) > 0 {
				t.Errorf("left %v, %v", left, err)
			}
		})
	}
}
