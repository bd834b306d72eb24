// SPDX-License-Identifier: Apache-2.0

package imagestream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// testBlob encodes an image of three chunks, the second of which is empty.
func testBlob(t *testing.T) (image []byte, blob *os.File, h *Header) {
	t.Helper()
	const chunk = 64 << 10
	image = make([]byte, 2*chunk+5000)
	copy(image[100:], "first")
	copy(image[chunk-3:], "end")
	copy(image[2*chunk+4990:], "last bytes")
	blob, err := os.Create(filepath.Join(t.TempDir(), "blob"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { blob.Close() })
	h, err = Write(context.Background(), blob, bytes.NewReader(image), int64(len(image)), Options{ChunkSize: chunk})
	if err != nil {
		t.Fatal(err)
	}
	return image, blob, h
}

func TestReaderAt(t *testing.T) {
	image, blob, h := testBlob(t)
	r, err := NewReaderAt(blob, h)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, c := range []struct{ off, n int }{
		{0, 512}, {64<<10 - 10, 20}, {64 << 10, 4096}, {100, 64 << 10}, {0, len(image)}, {len(image) - 4, 4},
	} {
		got := make([]byte, c.n)
		if _, err := r.ReadAt(got, int64(c.off)); err != nil {
			t.Errorf("%d bytes at %d: %v", c.n, c.off, err)
		}
		if !bytes.Equal(got, image[c.off:c.off+c.n]) {
			t.Errorf("%d bytes at %d: got other bytes, want the image's", c.n, c.off)
		}
	}
	n, err := r.ReadAt(make([]byte, 10), int64(len(image)-3))
	if n != 3 || !errors.Is(err, io.EOF) {
		t.Errorf("beyond the end: got %d, %v, want 3 bytes and EOF", n, err)
	}
}

func TestReaderAtRefusesDamage(t *testing.T) {
	_, blob, h := testBlob(t)
	if _, err := blob.WriteAt([]byte{0xFF, 0xFF}, h.Frames[1].Offset+4); err != nil {
		t.Fatal(err)
	}
	r, err := NewReaderAt(blob, h)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.ReadAt(make([]byte, 8), 0); err != nil {
		t.Errorf("first chunk: %v", err)
	}
	if _, err := r.ReadAt(make([]byte, 8), 2*64<<10); !errors.Is(err, ErrCorrupt) {
		t.Errorf("damaged chunk: got error %v, want %v", err, ErrCorrupt)
	}
	if _, err := r.ReadAt(make([]byte, 8), -1); err == nil {
		t.Error("negative offset: got no error, want one")
	}
}
