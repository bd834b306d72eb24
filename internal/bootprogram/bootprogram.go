// SPDX-License-Identifier: Apache-2.0

// Package bootprogram finds iPXE on this host: in the lab's image folder or
// where the distributions' packages put it. It downloads nothing.
package bootprogram

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// maxSize is far above any iPXE build (1 MB).
const maxSize = 16 << 20

// Program is iPXE for one architecture.
type Program struct {
	Path   string
	Digest string // "sha256:<hex>"
	Size   int64
	// Version as the build tells it; empty when it does not.
	Version string
}

// places are searched in this order.
func places(imagesDir, arch string) []string {
	own := func(name string) string { return filepath.Join(imagesDir, "ipxe", name) }
	switch arch {
	case "x86_64":
		return []string{
			own("ipxe-x86_64.efi"),
			"/usr/lib/ipxe/ipxe.efi", "/usr/lib/ipxe/snponly.efi", // Debian, Ubuntu
			"/usr/share/ipxe/ipxe-x86_64.efi", "/usr/share/ipxe/ipxe-snponly-x86_64.efi", // Fedora
		}
	case "aarch64":
		return []string{
			own("ipxe-arm64.efi"),
			"/usr/lib/ipxe/ipxe-arm64.efi",                                                // Debian 13
			"/usr/share/ipxe/arm64-efi/ipxe.efi", "/usr/share/ipxe/arm64-efi/snponly.efi", // Fedora
		}
	}
	return nil
}

// Find returns the best iPXE for an architecture ("x86_64", "aarch64"): the
// first of 2021 or later, else the first of any age. fs.ErrNotExist when there
// is none.
func Find(imagesDir, arch string) (Program, error) { return best(places(imagesDir, arch), arch) }

func best(paths []string, arch string) (Program, error) {
	var old *Program
	for _, path := range paths {
		p, recent, err := inspect(path, arch)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return Program{}, err
		case recent:
			return p, nil
		case old == nil:
			old = &p
		}
	}
	if old != nil {
		return *old, nil
	}
	return Program{}, fmt.Errorf("iPXE for %s: %w in %s: install your distribution's ipxe package, run «make images», or name one in spec.ipxe",
		arch, fs.ErrNotExist, strings.Join(paths, ", "))
}

// versionText is how iPXE names its version, a C string such as
// "1.21.1+git20250501.dad20602".
var versionText = regexp.MustCompile(`\x00([1-9]\.[0-9]+\.[0-9]+[-+.0-9A-Za-z~]*)\x00`)

// inspect reads a program. Builds since 2021 know "initrd.magic", the name
// under which the kernel's EFI stub finds everything that was loaded.
func inspect(path, arch string) (Program, bool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Program{}, false, err
	}
	if info.Size() > maxSize {
		return Program{}, false, fmt.Errorf("%s is %d bytes, too large to be iPXE", path, info.Size())
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return Program{}, false, err
	}
	if machine := peMachine(raw); machine != arch {
		return Program{}, false, fmt.Errorf("%s is no UEFI program for %s (found %q)", path, arch, machine)
	}
	sum := sha256.Sum256(raw)
	p := Program{Path: path, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(raw))}
	if m := versionText.FindSubmatch(raw); m != nil {
		p.Version = string(m[1])
	}
	recent := strings.Contains(string(raw), "initrd.magic")
	return p, recent, nil
}

// peMachine names the architecture of a PE/COFF program ("x86_64", "aarch64").
func peMachine(raw []byte) string {
	if len(raw) < 0x40 || string(raw[:2]) != "MZ" {
		return ""
	}
	at := int(raw[0x3c]) | int(raw[0x3d])<<8 | int(raw[0x3e])<<16 | int(raw[0x3f])<<24
	if at+6 > len(raw) || string(raw[at:at+4]) != "PE\x00\x00" {
		return ""
	}
	switch uint16(raw[at+4]) | uint16(raw[at+5])<<8 {
	case 0x8664:
		return "x86_64"
	case 0xaa64:
		return "aarch64"
	}
	return ""
}
