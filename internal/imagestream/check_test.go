// SPDX-License-Identifier: Apache-2.0

package imagestream

import (
	"bytes"
	"context"
	"errors"
	"testing"
)

// TestChecker compares the verdict of a Checker on each frame with a Decoder's.
func TestChecker(t *testing.T) {
	image := testImage(4<<20, 1)
	var blob buffer
	h, err := Write(context.Background(), &blob, bytes.NewReader(image), int64(len(image)), Options{ChunkSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	check := NewChecker(h)
	for i := range h.Frames {
		f := &h.Frames[i]
		frame := blob.b[f.Offset : f.Offset+f.Size]
		for _, size := range []int{1 << 20, 1000} {
			for part := frame; len(part) > 0; part = part[min(size, len(part)):] {
				if n, err := check.Write(part[:min(size, len(part))]); n == 0 || err != nil {
					t.Fatalf("Write = %d, %v, want all bytes", n, err)
				}
			}
			if err := check.Check(i); err != nil {
				t.Errorf("frame %d in parts of %d bytes: got error %v, want none", i, size, err)
			}
		}
		for _, damaged := range [][]byte{frame[:len(frame)-1], append(bytes.Clone(frame), 0), append([]byte{frame[0] ^ 1}, frame[1:]...), nil} {
			_, _ = check.Write(damaged)
			if err := check.Check(i); !errors.Is(err, ErrCorrupt) {
				t.Errorf("frame %d, %d bytes: got error %v, want ErrCorrupt", i, len(damaged), err)
			}
		}
	}
}
