// SPDX-License-Identifier: Apache-2.0

package qemuimg

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/pxelab/pxelab/internal/imageformat"
)

func TestBackingFile(t *testing.T) {
	tool := newTool(t, Options{})
	dir := t.TempDir()
	base := pack(t, dir, image(2<<20), imageformat.QCOW2)
	overlay := filepath.Join(dir, "overlay")
	if err := tool.CreateOverlay(t.Context(), Overlay{Base: base, BaseFormat: imageformat.QCOW2, Path: overlay, Size: 8 << 20}); err != nil {
		t.Fatal(err)
	}
	raw := write(t, filepath.Join(dir, "raw"), make([]byte, 512))
	short := write(t, filepath.Join(dir, "short"), []byte("QFI"))
	for path, want := range map[string]string{overlay: base, base: "", raw: "", short: ""} {
		if got, err := BackingFile(path); err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", path, got, err, want)
		}
	}
	damaged := read(t, overlay)
	damaged[8] = 0xff // the offset of the name
	if got, err := BackingFile(write(t, filepath.Join(dir, "damaged"), damaged)); !errors.Is(err, ErrDamagedHeader) {
		t.Errorf("damaged file: got %q, %v; want %v", got, err, ErrDamagedHeader)
	}
	cut := read(t, overlay)[:64]
	if got, err := BackingFile(write(t, filepath.Join(dir, "cut"), cut)); !errors.Is(err, ErrDamagedHeader) {
		t.Errorf("file that ends before the name: got %q, %v; want %v", got, err, ErrDamagedHeader)
	}
	if got, err := BackingFile(filepath.Join(dir, "missing")); err == nil {
		t.Errorf("missing file: got %q, want an error", got)
	}
}
