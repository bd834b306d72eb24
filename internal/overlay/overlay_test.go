// SPDX-License-Identifier: Apache-2.0

package overlay

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestWriteUnpacksWithCpio(t *testing.T) {
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Fatal("cpio is missing (`make deps` installs it)")
	}
	for _, size := range []int{1, 2, 3, 4, 511, 100_001} {
		program := bytes.Repeat([]byte{0x7f, 'E', 'L', 'F', 0}, size/5+1)[:size]
		var a, b bytes.Buffer
		if err := errors.Join(Write(&a, program), Write(&b, program)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a.Bytes(), b.Bytes()) {
			t.Fatal("the same program gave different archives")
		}
		if a.Len()%512 != 0 {
			t.Errorf("archive of %d bytes is not padded", a.Len())
		}
		dir := t.TempDir()
		cmd := exec.Command(cpio, "--extract", "--quiet", "--no-absolute-filenames")
		cmd.Dir, cmd.Stdin = dir, &a
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("cpio: %v: %s", err, out)
		}
		name := filepath.Join(dir, "pxelab-installer")
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, program) {
			t.Errorf("%d bytes came out of %d", len(got), size)
		}
		if st, err := os.Stat(name); err != nil || st.Mode() != 0o755 {
			t.Errorf("mode %v, %v", st.Mode(), err)
		}
	}
}

func TestWriteRefusesNothing(t *testing.T) {
	if err := Write(&bytes.Buffer{}, nil); err == nil {
		t.Error("an empty installer was packed")
	}
}

type full struct{}

var errFull = errors.New("full")

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestWriteReportsErrors(t *testing.T) {
	if err := Write(full{}, []byte("x")); !errors.Is(err, errFull) {
		t.Errorf("got %v", err)
	}
}
