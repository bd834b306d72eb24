// SPDX-License-Identifier: Apache-2.0

// Package nbp finds iPXE on this host: in the lab's images folder or
// where distribution packages install it. It downloads nothing.
package nbp

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

	"github.com/pxelab/pxelab/internal/bootfile"
)

// maxSize bounds the size of an iPXE program. Real builds have about 1 MB.
const maxSize = 16 << 20

// Program is iPXE for one architecture.
type Program struct {
	Path   string
	Digest string // "sha256:<hex>"
	Size   int64  // bytes
	// Version is the iPXE version; empty if the program does not contain it.
	Version string
}

// places returns the paths where iPXE may be, in search order; nil for an unknown
// architecture. The lab's images folder comes first, so that users can override the host's iPXE.
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
// first build from 2021 or later, otherwise the first build of any age. The
// error wraps fs.ErrNotExist if none is installed or the architecture is unknown.
func Find(imagesDir, arch string) (Program, error) {
	paths := places(imagesDir, arch)
	if paths == nil {
		return Program{}, fmt.Errorf("finding iPXE for %s: %w; the known architectures are x86_64 and aarch64", arch, fs.ErrNotExist)
	}
	return best(paths, arch)
}

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
	return Program{}, fmt.Errorf("finding iPXE for %s in %s: %w; "+
		"install your distribution's ipxe package, run \"make images\", or set spec.ipxe",
		arch, strings.Join(paths, ", "), fs.ErrNotExist)
}

// versionText matches the version in an iPXE program, a C string such as
// "1.21.1+git20250501.dad20602".
var versionText = regexp.MustCompile(`\x00([1-9]\.[0-9]+\.[0-9]+[-+.0-9A-Za-z~]*)\x00`)

// inspect reads a program and reports whether it is recent. Builds since 2021
// contain "initrd.magic", the file name under which the kernel's EFI stub finds
// all loaded initrds.
func inspect(path, arch string) (Program, bool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Program{}, false, err
	}
	if info.Size() > maxSize {
		return Program{}, false, fmt.Errorf("%s has %d bytes, which is too large for iPXE; replace it", path, info.Size())
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return Program{}, false, err
	}
	if machine := bootfile.PEArchitecture(raw); machine != arch {
		return Program{}, false, fmt.Errorf("%s is not a UEFI program for %s (architecture %q); replace it", path, arch, machine)
	}
	sum := sha256.Sum256(raw)
	p := Program{Path: path, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(raw))}
	if m := versionText.FindSubmatch(raw); m != nil {
		p.Version = string(m[1])
	}
	recent := strings.Contains(string(raw), "initrd.magic")
	return p, recent, nil
}
