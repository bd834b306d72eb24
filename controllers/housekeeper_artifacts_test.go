// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// overlayOf returns the beginning of a qcow2 file with a base.
func overlayOf(base string) []byte {
	const at = 112
	header := make([]byte, at)
	copy(header, "QFI\xfb")
	binary.BigEndian.PutUint32(header[4:], 3)
	binary.BigEndian.PutUint64(header[8:], at)
	binary.BigEndian.PutUint32(header[16:], uint32(len(base)))
	return append(header, base...)
}

func TestDiskBases(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "machines [of a lab")
	damaged := overlayOf("/store/c")
	damaged[8] = 0xff
	for name, content := range map[string][]byte{
		"a/disk0-1.qcow2": overlayOf("/store/a"),
		"b/disk0-2.qcow2": damaged,
		"b/disk0-3.qcow2": overlayOf("/store/c")[:100],
		"c/disk0.raw":     overlayOf("/store/d"),
		"d/disk0-4.qcow2": overlayOf("/store/e"),
		"file":            nil,
	} {
		path := filepath.Join(parent, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	h := &housekeeper{}
	for range 2 {
		bases, err := h.diskBases(t.Context(), parent, filepath.Join(t.TempDir(), "missing"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"/store/a", "/store/e"}, bases); diff != "" {
			t.Errorf("bases (-want +got):\n%s", diff)
		}
		if len(h.damaged) != 2 {
			t.Errorf("got damaged disks %v, want the two of b", h.damaged)
		}
	}
	// A base that cannot be read because of the host must not be removed.
	if err := os.Mkdir(filepath.Join(parent, "a", "unreadable.qcow2"), 0o700); err != nil {
		t.Fatal(err)
	}
	if bases, err := h.diskBases(t.Context(), parent); err == nil {
		t.Errorf("a disk that cannot be read: got %v, want an error", bases)
	}
}

func TestRemoveOthersKeepsCurrentDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine [1")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"disk0-1.qcow2", "disk0-2.qcow2", "seed-1.iso", "seed-2.iso", "serial.log"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeOthers(dir, filepath.Join(dir, "disk0-2.qcow2"), filepath.Join(dir, "seed-1.iso")); err != nil {
		t.Fatal(err)
	}
	left, err := filesIn(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Join(dir, "disk0-2.qcow2"), filepath.Join(dir, "seed-1.iso"), filepath.Join(dir, "serial.log")}
	if diff := cmp.Diff(want, left); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}
