// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRemoveSetAside(t *testing.T) {
	data := t.TempDir()
	now := time.Now()
	for name, age := range map[string]time.Duration{
		"a/qemu.json": 0, "a/qemu.json.unusable": setAsideAge + time.Second,
		"b/qemu.json": 0, "b/qemu.json.unusable": setAsideAge - time.Hour,
		"c/qemu.json.unusable": 10 * setAsideAge, // the only sign of its machine
		"d/simulator.json":     0, "d/simulator.json.unusable": 2 * setAsideAge, "d/disk0.raw": 2 * setAsideAge,
		"e/qemu.json": 0, "e/qemu.json.unusable": -time.Hour, // the clock was set back
		"file": 0,
	} {
		path := filepath.Join(data, "machines", name)
		at := now.Add(-age)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	h := &housekeeper{host: &Host{DataDir: data, Now: func() time.Time { return now }}}
	for range 2 {
		if err := h.removeSetAside(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	left, err := filepath.Glob(filepath.Join(data, "machines", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range left {
		left[i], err = filepath.Rel(filepath.Join(data, "machines"), left[i])
		if err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"a/qemu.json", "b/qemu.json", "b/qemu.json.unusable", "c/qemu.json.unusable", "d/disk0.raw", "d/simulator.json",
		"e/qemu.json", "e/qemu.json.unusable",
	}
	if diff := cmp.Diff(want, left); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	h.host.DataDir = filepath.Join(data, "missing")
	if err := h.removeSetAside(t.Context()); err != nil {
		t.Errorf("without machines: got error %v, want none", err)
	}
}
