// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"testing"

	"github.com/go-logr/logr"
	"github.com/google/uuid"

	"github.com/pxelab/pxelab/internal/paths/pathstest"
)

// TestRemoveForgets removes machines that a Local never knew and one that it knew. It
// keeps none of them in memory.
func TestRemoveForgets(t *testing.T) {
	l, err := New(Options{DataDir: t.TempDir(), RuntimeDir: pathstest.Short(t), Log: logr.Discard()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	known, err := l.ensureInstance(uuid.NewString())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Remove(t.Context(), known.id); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err := l.Remove(t.Context(), uuid.NewString()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(l.machines); n != 0 {
		t.Errorf("got %d machines in memory after all were removed, want none", n)
	}
}
