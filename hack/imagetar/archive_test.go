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

// contents reads an archive into a map from names to contents.
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
			t.Errorf("got entry %s twice, want it once", header.Name)
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
		t.Fatalf("got %d images, want 2: the last two have equal contents", len(manifests))
	}
	if diff := cmp.Diff([]string{"two:1", "three:1"}, manifests[1].RepoTags); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	for _, m := range manifests {
		var c config
		if err := json.Unmarshal([]byte(files[m.Config]), &c); err != nil {
			t.Fatal(err)
		}
		if m.Config != digestOf(files[m.Config])+".json" {
			t.Errorf("got configuration name %s, want its digest %s", m.Config, digestOf(files[m.Config]))
		}
		if got := c.OS + "/" + c.Architecture; got != "linux/arm64" {
			t.Errorf("got platform %s, want linux/arm64", got)
		}
		if diff := cmp.Diff([]string{"sha256:" + digestOf(files[m.Layers[0]])}, c.RootFS.DiffIDs); diff != "" {
			t.Errorf("layer digests (-want +got):\n%s", diff)
		}
	}
	want := map[string]string{"bin/": "", "bin/tool": "program", "bin/link": "tool"}
	if diff := cmp.Diff(want, entries(t, strings.NewReader(files[manifests[0].Layers[0]]))); diff != "" {
		t.Errorf("layer contents (-want +got):\n%s", diff)
	}
}

func digestOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// Equal files produce equal images, whatever their modification times.
func TestWriteIsReproducible(t *testing.T) {
	out := t.TempDir()
	var archives []string
	for _, name := range []string{"a", "b"} {
		dir := tree(t)
		when := time.Unix(int64(len(archives)+1)*1_000_000, 0)
		if err := os.Chtimes(filepath.Join(dir, "bin", "tool"), when, when); err != nil {
			t.Fatal(err)
		}
		// The history contains the directory's name, so it must be the same.
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
		t.Error("got different archives of the same files, want equal ones")
	}
}

func TestRunRejectsInvalidSpec(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "no-such-layer")
	for name, tt := range map[string]struct{ spec, want string }{
		"no images":     {`[]`, "contains no images"},
		"no layers":     {`[{"tags": ["a:1"], "architecture": "amd64"}]`, "layers"},
		"unknown field": {`[{"name": "a"}]`, "unknown field"},
		"missing layer": {`[{"tags": ["a:1"], "layers": ["` + missing + `"], "architecture": "amd64"}]`, "no-such-layer"},
	} {
		t.Run(name, func(t *testing.T) {
			out := t.TempDir()
			err := run([]string{filepath.Join(out, "a")}, strings.NewReader(tt.spec))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one that contains %q", err, tt.want)
			}
			if left, err := os.ReadDir(out); err != nil || len(left) > 0 {
				t.Errorf("got leftover files %v, error %v, want none", left, err)
			}
		})
	}
}
