// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// newDisk creates a blank disk.
func newDisk(t testing.TB, size int64) disk {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk0.raw")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return disk{path: path}
}

// overwrite writes at an offset of a disk.
func overwrite(t *testing.T, d disk, at int64, content []byte) {
	t.Helper()
	f, err := os.OpenFile(d.path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(content, at); err != nil {
		t.Fatal(err)
	}
}

func wantContent(t *testing.T, what string, d disk, want []byte) {
	t.Helper()
	got, err := d.Load()
	if err != nil || !bytes.Equal(got, want) || (got == nil) != (want == nil) {
		t.Errorf("%s: got %d bytes %.20q, error %v; want %d bytes %.20q", what, len(got), got, err, len(want), want)
	}
}

func TestDisk(t *testing.T) {
	const size = 1 << 30
	d := newDisk(t, size)
	if got := d.Size(); got != size {
		t.Errorf("got size %d, want %d", got, size)
	}
	wantContent(t, "blank", d, nil)
	long := bytes.Repeat([]byte("x"), maxContent)
	for _, content := range [][]byte{[]byte("one"), {}, long, []byte("two"), []byte("three")} {
		if err := d.Store(content); err != nil {
			t.Fatal(err)
		}
		wantContent(t, "stored", d, content)
	}
	if err := d.Store(append(long, 'x')); err == nil {
		t.Error("got no error for a content that is too long, want one")
	}
	wantContent(t, "after a refused write", d, []byte("three"))
}

// TestDiskWriteIsCutOff damages each slot: the newest undamaged content is current.
func TestDiskWriteIsCutOff(t *testing.T) {
	d := newDisk(t, 2*slotSize)
	for _, content := range []string{"old", "new"} { // in the slots 1 and 0
		if err := d.Store([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	overwrite(t, d, slotHeader, []byte("N"))
	wantContent(t, "newer slot damaged", d, []byte("old"))
	if err := d.Store([]byte("newest")); err != nil {
		t.Fatal(err)
	}
	wantContent(t, "after another write", d, []byte("newest"))
	overwrite(t, d, 0, make([]byte, slotHeader))
	wantContent(t, "newest slot erased", d, []byte("old"))
	overwrite(t, d, slotSize, make([]byte, slotHeader))
	wantContent(t, "both slots erased", d, nil)
}

func TestDiskErrors(t *testing.T) {
	small := newDisk(t, 2*slotSize-1)
	wantContent(t, "small", small, nil)
	if err := small.Store([]byte("x")); err == nil || !strings.Contains(err.Error(), "at least") {
		t.Errorf("small disk: got error %v, want one with the size that is needed", err)
	}
	missing := disk{path: filepath.Join(t.TempDir(), "missing")}
	if _, err := missing.Load(); err == nil {
		t.Error("Load of a missing disk: got no error, want one")
	}
	if err := missing.Store(nil); err == nil {
		t.Error("Store on a missing disk: got no error, want one")
	}
	if got := missing.Size(); got != 0 {
		t.Errorf("size of a missing disk: got %d, want 0", got)
	}
	if _, err := os.Stat(missing.path); err == nil {
		t.Error("the missing disk was created")
	}
}

// FuzzSlot decodes what is on a disk, which may be anything.
func FuzzSlot(f *testing.F) {
	f.Add(encodeSlot(1, nil))
	f.Add(encodeSlot(1<<63, []byte("content")))
	f.Add(bytes.Repeat([]byte{0xff}, 2*slotHeader))
	f.Fuzz(func(t *testing.T, slot []byte) {
		content, sequence, ok := decodeSlot(slot)
		if !ok {
			return
		}
		if again := encodeSlot(sequence, content); !bytes.HasPrefix(slot, again) {
			t.Errorf("got a slot that decodes to %q with sequence %d, and does not begin with its encoding", content, sequence)
		}
	})
}
