// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
)

// TestNoHammering makes something on a full disk: it is begun again only once
// there is more room.
func TestNoHammering(t *testing.T) {
	s := newStore(t)
	free := int64(100 << 20)
	s.freeFor = func(string) (int64, error) { return free, nil }
	begun := 0
	full := true
	derive := func() error {
		_, err := s.Derive(t.Context(), Artifact{Digest: "sha256:x"}, "test", nil, func(_ context.Context, b *Build) (map[string]string, error) {
			begun++
			if full {
				return nil, &os.PathError{Op: "write", Path: b.Path, Err: syscall.ENOSPC}
			}
			return nil, os.WriteFile(b.Path, []byte("made"), 0o600)
		})
		return err
	}
	for range 3 {
		wantReason(t, derive(), ReasonNoSpace, "no space left")
	}
	if begun != 1 {
		t.Errorf("begun %d times on a full disk", begun)
	}
	free, full = 200<<20, false
	if err := derive(); err != nil || begun != 2 {
		t.Errorf("with room: begun %d times, error %v", begun, err)
	}
}

// TestReserve leaves room for others.
func TestReserve(t *testing.T) {
	s := openStore(t, t.TempDir()+"/store", func(o *Options) { o.Reserve = 1000 })
	s.freeFor = func(string) (int64, error) { return 1500, nil }
	if err := s.room("x", 500); err != nil {
		t.Error(err)
	}
	err := s.room("x", 600)
	wantReason(t, err, ReasonNoSpace, "600 bytes are needed, 500 are free; free 100 bytes")
	var e *Error
	if !errors.As(err, &e) || !e.Transient() {
		t.Error("a full disk is not tried again")
	}
}
