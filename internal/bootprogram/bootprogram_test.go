// SPDX-License-Identifier: Apache-2.0

package bootprogram

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pe is a made-up PE/COFF program.
func pe(machine uint16, content string) []byte {
	raw := make([]byte, 0x80, 0x100)
	copy(raw, "MZ")
	raw[0x3c] = 0x80
	raw = append(raw, 'P', 'E', 0, 0, byte(machine), byte(machine>>8))
	return append(raw, "\x00"+content...)
}

const (
	amd64 = 0x8664
	arm64 = 0xaa64
	// recent is in builds since 2021.
	recent = "\x00initrd.magic\x00"
)

func place(t *testing.T, images, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(images, "ipxe", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFindInTheImageFolder(t *testing.T) {
	for arch, c := range map[string]struct {
		name    string
		machine uint16
	}{"x86_64": {"ipxe-x86_64.efi", amd64}, "aarch64": {"ipxe-arm64.efi", arm64}} {
		images := t.TempDir()
		content := pe(c.machine, "1.21.1+git20250501.dad20602\x00"+recent)
		path := place(t, images, c.name, content)
		p, err := Find(images, arch)
		if err != nil {
			t.Fatal(err)
		}
		if p.Path != path || p.Size != int64(len(content)) || p.Version != "1.21.1+git20250501.dad20602" || !strings.HasPrefix(p.Digest, "sha256:") {
			t.Errorf("%s: found %+v", arch, p)
		}
	}
}

func TestFilesThatAreNotIPXE(t *testing.T) {
	for name, content := range map[string][]byte{
		"empty":                  {},
		"text":                   []byte("#!ipxe"),
		"a header that is cut":   []byte("MZ"),
		"an offset beyond":       append([]byte("MZ"), make([]byte, 0x3e)...),
		"another architecture":   pe(arm64, recent),
		"a 32-bit program":       pe(0x14c, recent),
		"too large for any iPXE": append(pe(amd64, recent), make([]byte, maxSize)...),
	} {
		images := t.TempDir()
		path := place(t, images, "ipxe-x86_64.efi", content)
		_, err := Find(images, "x86_64")
		if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want an error that names the file", name, err)
		}
	}
}

func TestTheRecentOneIsTaken(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	old, other, fresh := write("old", pe(amd64, "1.0.0")), write("other", pe(amd64, "1.0.1\x00")), write("fresh", pe(amd64, recent))
	missing := filepath.Join(dir, "missing")
	for name, c := range map[string]struct {
		places []string
		want   string
	}{
		"recent before old":                          {[]string{fresh, old}, fresh},
		"recent after old":                           {[]string{missing, old, fresh}, fresh},
		"old is better than none, the first of them": {[]string{old, other, missing}, old},
	} {
		if p, err := best(c.places, "x86_64"); err != nil || p.Path != c.want {
			t.Errorf("%s: got %+v, %v", name, p, err)
		}
	}
}

func TestNoneIsAnErrorThatSaysWhatToDo(t *testing.T) {
	for _, arch := range []string{"x86_64", "aarch64"} {
		_, err := best([]string{filepath.Join(t.TempDir(), "none")}, arch)
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "install your distribution's ipxe package") || !strings.Contains(err.Error(), arch) {
			t.Errorf("%s: got %v", arch, err)
		}
	}
	if _, err := Find(t.TempDir(), "riscv64"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an architecture that is not known: %v", err)
	}
}

// The first place is the lab's own, so that a user can override the host's.
func TestEveryArchitectureIsLookedForInTheImageFolderFirst(t *testing.T) {
	for _, arch := range []string{"x86_64", "aarch64"} {
		if first := places("/images", arch)[0]; !strings.HasPrefix(first, "/images/ipxe/") {
			t.Errorf("%s is looked for in %s first", arch, first)
		}
	}
}
