// SPDX-License-Identifier: Apache-2.0

package initramfs

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
		t.Fatal("cpio is not installed; run \"make deps\"")
	}
	for _, size := range []int{1, 2, 3, 4, 511, 100_001} {
		program := bytes.Repeat([]byte{0x7f, 'E', 'L', 'F', 0}, size/5+1)[:size]
		var a, b bytes.Buffer
		if err := errors.Join(Write(&a, program), Write(&b, program)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a.Bytes(), b.Bytes()) {
			t.Fatal("got different archives of the same program, want equal ones")
		}
		if a.Len()%512 != 0 {
			t.Errorf("got an archive of %d bytes, want a multiple of 512", a.Len())
		}
		dir := t.TempDir()
		cmd := exec.Command(cpio, "--extract", "--quiet", "--no-absolute-filenames")
		cmd.Dir = dir
		cmd.Stdin = &a
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("cpio: %v: %s", err, out)
		}
		name := filepath.Join(dir, "pxelab-installer")
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, program) {
			t.Errorf("got a program of %d bytes, want the original of %d bytes", len(got), size)
		}
		st, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode() != 0o755 {
			t.Errorf("got mode %v, want 0755", st.Mode())
		}
	}
}

func TestWriteRejectsEmptyInstaller(t *testing.T) {
	if err := Write(&bytes.Buffer{}, nil); err == nil {
		t.Error("got no error for an empty installer, want one")
	}
}

type full struct{}

var errFull = errors.New("full")

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestWriteReportsErrors(t *testing.T) {
	if err := Write(full{}, []byte("x")); !errors.Is(err, errFull) {
		t.Errorf("got %v, want %v", err, errFull)
	}
}
