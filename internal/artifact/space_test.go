// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestDeriveRetriesFullDiskOnlyWithMoreSpace(t *testing.T) {
	s := newStore(t)
	free := int64(100 << 20)
	s.freeFor = func(string) (int64, error) { return free, nil }
	builds := 0
	full := true
	build := func(_ context.Context, b *Build) (map[string]string, error) {
		builds++
		if full {
			return nil, &os.PathError{Op: "write", Path: b.Path, Err: syscall.ENOSPC}
		}
		return nil, os.WriteFile(b.Path, []byte("made"), 0o600)
	}
	derive := func() error {
		_, err := s.Derive(t.Context(), Artifact{Digest: "sha256:x"}, "test", nil, build)
		return err
	}
	for range 3 {
		wantReason(t, derive(), ReasonNoSpace, "no space left")
	}
	if builds != 1 {
		t.Errorf("got %d builds on a full disk, want 1", builds)
	}
	free, full = 200<<20, false
	if err := derive(); err != nil || builds != 2 {
		t.Errorf("with more free space: got %d builds, error %v; want 2 builds", builds, err)
	}
}

func TestReserve(t *testing.T) {
	s := openStore(t, t.TempDir()+"/store", func(o *Options) { o.Reserve = 1000 })
	s.freeFor = func(string) (int64, error) { return 1500, nil }
	if err := s.checkSpace("x", 500); err != nil {
		t.Error(err)
	}
	err := s.checkSpace("x", 600)
	wantReason(t, err, ReasonNoSpace, "600 bytes are needed, 500 are available; free 100 bytes")
	var e *Error
	if !errors.As(err, &e) || !e.Transient() {
		t.Errorf("got %v, want a transient error", err)
	}
}

func TestEnsureRejectsLocalFileWithoutSpace(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "store"), func(o *Options) { o.Reserve = 100 << 20 })
	if err := os.MkdirAll(s.opts.ImagesDir, 0o700); err != nil {
		t.Fatal(err)
	}
	var files [2]*os.File
	for i, name := range []string{"image", "clone"} {
		f, err := os.Create(filepath.Join(s.opts.ImagesDir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	content := noise(1<<20, 1)
	if _, err := files[0].Write(content); err != nil {
		t.Fatal(err)
	}
	free := int64(100<<20 + 4096)
	s.freeFor = func(string) (int64, error) { return free, nil }
	src := Source{Path: "image", Checksum: sha256Of(content)}
	if reflink(files[1], files[0]) {
		// The file system shares blocks, so that a copy needs no space.
		a, err := s.Ensure(t.Context(), src, nil)
		wantContent(t, a, err, content)
		return
	}
	_, err := s.Ensure(t.Context(), src, nil)
	wantReason(t, err, ReasonNoSpace, "4096 are available")
	free = 102 << 20
	a, err := s.Ensure(t.Context(), src, nil)
	wantContent(t, a, err, content)
}
