// SPDX-License-Identifier: Apache-2.0

package nbp

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pe returns a minimal PE/COFF program.
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
	// recent is a string that builds since 2021 contain.
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

func TestFindInImagesFolder(t *testing.T) {
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
		sum := sha256.Sum256(content)
		want := Program{
			Path: path, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(content)),
			Version: "1.21.1+git20250501.dad20602",
		}
		if p != want {
			t.Errorf("%s: got %+v, want %+v", arch, p, want)
		}
	}
}

func TestFindRejectsFilesThatAreNotIPXE(t *testing.T) {
	for name, content := range map[string][]byte{
		"empty":                  {},
		"text":                   []byte("#!ipxe"),
		"a truncated header":     []byte("MZ"),
		"an offset past the end": append([]byte("MZ"), make([]byte, 0x3e)...),
		"another architecture":   pe(arm64, recent),
		"a 32-bit program":       pe(0x14c, recent),
		"too large for any iPXE": append(pe(amd64, recent), make([]byte, maxSize)...),
	} {
		images := t.TempDir()
		path := place(t, images, "ipxe-x86_64.efi", content)
		_, err := Find(images, "x86_64")
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got error %v, want one that contains %s", name, err, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got error %v, want one that does not wrap fs.ErrNotExist", name, err)
		}
	}
}

func TestFindPrefersRecentBuild(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	old := write("old", pe(amd64, "1.0.0"))
	other := write("other", pe(amd64, "1.0.1\x00"))
	fresh := write("fresh", pe(amd64, recent))
	missing := filepath.Join(dir, "missing")
	for name, c := range map[string]struct {
		places []string
		want   string
	}{
		"recent before old":            {[]string{fresh, old}, fresh},
		"recent after old":             {[]string{missing, old, fresh}, fresh},
		"first old one if all are old": {[]string{old, other, missing}, old},
	} {
		if p, err := best(c.places, "x86_64"); err != nil || p.Path != c.want {
			t.Errorf("%s: got %+v, %v; want %s", name, p, err, c.want)
		}
	}
}

func TestFindReportsMissingIPXE(t *testing.T) {
	for _, arch := range []string{"x86_64", "aarch64"} {
		_, err := best([]string{filepath.Join(t.TempDir(), "none")}, arch)
		if !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s: got %v, want %v", arch, err, fs.ErrNotExist)
		}
		for _, want := range []string{arch, "install your distribution's ipxe package"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("got %q, want it to contain %q", err, want)
			}
		}
	}
}

func TestFindSearchesImagesFolderFirst(t *testing.T) {
	for _, arch := range []string{"x86_64", "aarch64"} {
		if first := places("/images", arch)[0]; !strings.HasPrefix(first, "/images/ipxe/") {
			t.Errorf("%s: got first path %s, want one in the images folder", arch, first)
		}
	}
}

func TestFindRejectsUnknownArchitecture(t *testing.T) {
	_, err := Find(t.TempDir(), "riscv64")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got error %v, want %v", err, fs.ErrNotExist)
	}
	for _, want := range []string{"riscv64", "x86_64", "aarch64"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got error %q, want it to contain %q", err, want)
		}
	}
}
