// SPDX-License-Identifier: Apache-2.0

// Package firmware finds the UEFI firmware that is installed for QEMU, using the
// descriptors that distributions install with it (QEMU's
// docs/interop/firmware.json), and creates a machine's variable store.
//
// It selects firmware without Secure Boot. It contains no distribution-specific
// file names and no firmware.
package firmware

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNotFound is returned when no descriptor refers to usable firmware. The error
// text lists the searched directories, the rejected descriptors with the reasons,
// and the package to install.
var ErrNotFound = errors.New("no UEFI firmware found")

// Image is a file that QEMU maps as flash.
type Image struct {
	Path string
	// Format is "raw" or "qcow2".
	Format string
}

// Mode is how the firmware stores its variables, with the names of the descriptors.
type Mode string

const (
	// Split means that Code is shared and read-only, and Vars is a template to copy.
	Split Mode = "split"
	// Combined means that Code holds code and variables and is a template to copy.
	Combined Mode = "combined"
	// Stateless means that variables are lost when the machine is powered off.
	Stateless Mode = "stateless"
)

// UEFI is an installed firmware.
type UEFI struct {
	// Descriptor is the path of its descriptor.
	Descriptor  string
	Description string
	Mode        Mode
	Code        Image
	// Vars is set in Split mode only.
	Vars Image
}

// maxDescriptor is far larger than real descriptors, which have about 1 KB.
const maxDescriptor = 1 << 20

// descriptor is the part of docs/interop/firmware.json that is used here.
type descriptor struct {
	Description    string   `json:"description"`
	InterfaceTypes []string `json:"interface-types"`
	Mapping        struct {
		Device     string `json:"device"`
		Mode       Mode   `json:"mode"`
		Executable file   `json:"executable"`
		NVRAM      *file  `json:"nvram-template"`
	} `json:"mapping"`
	Targets []struct {
		Architecture string   `json:"architecture"`
		Machines     []string `json:"machines"`
	} `json:"targets"`
	Features []string `json:"features"`
}

type file struct {
	Filename string `json:"filename"`
	Format   string `json:"format"`
}

// Directories returns the directories of descriptors on this host, least specific
// first: those of installed packages (the system's, Homebrew's, and those next to
// the QEMU program if its path is given), the administrator's, the user's.
func Directories(qemu string) []string {
	dirs := []string{
		"/usr/share/qemu/firmware",
		"/usr/local/share/qemu/firmware",
		"/opt/local/share/qemu/firmware",    // MacPorts
		"/opt/homebrew/share/qemu/firmware", // Homebrew on Apple silicon
	}
	if filepath.IsAbs(qemu) {
		prefix := filepath.Dir(filepath.Dir(qemu))
		dirs = append(dirs, filepath.Join(prefix, "share/qemu/firmware"))
	}
	dirs = append(dirs, "/etc/qemu/firmware")
	config := os.Getenv("XDG_CONFIG_HOME")
	if home, err := os.UserHomeDir(); config == "" && err == nil {
		config = filepath.Join(home, ".config")
	}
	if config != "" {
		dirs = append(dirs, filepath.Join(config, "qemu/firmware"))
	}
	return unique(dirs)
}

func unique(dirs []string) []string {
	var out []string
	for _, d := range dirs {
		if !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	return out
}

// Find returns the firmware to use for an architecture ("x86_64" or "aarch64"),
// from the descriptors in dirs, least specific directory first. As the
// specification requires, a file in a more specific directory overrides one of the
// same name, an empty file masks it, and the order of file names is the priority.
// Find prefers firmware with a separate variable store, and firmware without
// Secure Boot support to firmware that supports but does not enforce it.
func Find(dirs []string, architecture string) (UEFI, error) {
	return find(os.DirFS("/"), dirs, architecture)
}

// find reads from root, so that tests can provide a file system. Absolute paths,
// including those in descriptors, are resolved below root.
func find(root fs.FS, dirs []string, architecture string) (UEFI, error) {
	files, err := descriptors(root, dirs)
	if err != nil {
		return UEFI{}, err
	}
	var rejected []string
	best, bestRank := UEFI{}, unusable
	for _, f := range files {
		u, rank, reason := examine(root, f, architecture)
		if rank == unusable {
			rejected = append(rejected, fmt.Sprintf("%s: %s", f, reason))
			continue
		}
		if rank < bestRank {
			best, bestRank = u, rank
		}
	}
	if bestRank == unusable {
		return UEFI{}, notFound(dirs, architecture, rejected)
	}
	return best, nil
}

// descriptors returns the paths of the descriptors in order of priority.
func descriptors(root fs.FS, dirs []string) ([]string, error) {
	byName := map[string]string{}
	for _, dir := range dirs {
		entries, err := fs.ReadDir(root, below(dir))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading firmware descriptors: %w", err)
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".json") {
				byName[e.Name()] = path.Join(dir, e.Name())
			}
		}
	}
	names := make([]string, 0, len(byName))
	for name := range byName {
		names = append(names, name)
	}
	slices.Sort(names)
	files := make([]string, len(names))
	for i, name := range names {
		files[i] = byName[name]
	}
	return files, nil
}

// below converts an absolute path to a path of an fs.FS.
func below(p string) string { return strings.TrimPrefix(path.Clean(p), "/") }

// rank orders firmware by preference, best first.
type rank int

const (
	splitPlain rank = iota
	splitSecureCapable
	combined
	stateless
	unusable
)

// examine reads one descriptor. If the rank is unusable it also returns the reason.
func examine(root fs.FS, name, architecture string) (UEFI, rank, string) {
	info, err := fs.Stat(root, below(name))
	if err != nil {
		return UEFI{}, unusable, err.Error()
	}
	if info.Size() > maxDescriptor {
		return UEFI{}, unusable, fmt.Sprintf("larger than %d bytes", maxDescriptor)
	}
	text, err := fs.ReadFile(root, below(name))
	if err != nil {
		return UEFI{}, unusable, err.Error()
	}
	if len(text) == 0 {
		return UEFI{}, unusable, "masked by an empty file"
	}
	var d descriptor
	if err := json.Unmarshal(text, &d); err != nil {
		return UEFI{}, unusable, "invalid descriptor: " + err.Error()
	}
	if reason := d.mismatch(architecture); reason != "" {
		return UEFI{}, unusable, reason
	}
	u, r := d.uefi(name)
	if r == unusable {
		return UEFI{}, r, fmt.Sprintf("unknown mode %q or missing file names", d.Mapping.Mode)
	}
	for _, i := range []Image{u.Code, u.Vars} {
		if i.Path == "" {
			continue
		}
		if i.Format != "raw" && i.Format != "qcow2" {
			return UEFI{}, unusable, fmt.Sprintf("unsupported format %q of %s", i.Format, i.Path)
		}
		if _, err := fs.Stat(root, below(i.Path)); err != nil {
			return UEFI{}, unusable, "missing firmware file: " + err.Error()
		}
	}
	return u, r, ""
}

// mismatch returns why this firmware is not suitable, or "".
func (d descriptor) mismatch(architecture string) string {
	if !slices.Contains(d.InterfaceTypes, "uefi") {
		return "not UEFI"
	}
	if d.Mapping.Device != "flash" {
		return fmt.Sprintf("mapped as %q, not flash", d.Mapping.Device)
	}
	if !d.runsOn(architecture) {
		return "for other architectures or machine types"
	}
	for _, f := range []string{"requires-smm", "enrolled-keys"} {
		if slices.Contains(d.Features, f) {
			return "requires Secure Boot (" + f + ")"
		}
	}
	return ""
}

// runsOn matches the patterns of machine types against a versioned name of the type
// that pxelab uses, because the patterns do not match its unversioned alias.
func (d descriptor) runsOn(architecture string) bool {
	machine := map[string]string{"x86_64": "pc-q35-9.0", "aarch64": "virt-9.0"}[architecture]
	if machine == "" {
		return false
	}
	for _, t := range d.Targets {
		if t.Architecture != architecture {
			continue
		}
		for _, pattern := range t.Machines {
			if ok, err := path.Match(pattern, machine); ok && err == nil {
				return true
			}
		}
	}
	return false
}

func (d descriptor) uefi(name string) (UEFI, rank) {
	u := UEFI{
		Descriptor:  name,
		Description: d.Description,
		Mode:        d.Mapping.Mode,
		Code:        Image{Path: d.Mapping.Executable.Filename, Format: d.Mapping.Executable.Format},
	}
	if u.Code.Path == "" {
		return u, unusable
	}
	switch u.Mode {
	case "", Split: // Descriptors before QEMU 7.0 have no mode.
		u.Mode = Split
		if d.Mapping.NVRAM == nil || d.Mapping.NVRAM.Filename == "" {
			return u, unusable
		}
		u.Vars = Image{Path: d.Mapping.NVRAM.Filename, Format: d.Mapping.NVRAM.Format}
		if slices.Contains(d.Features, "secure-boot") {
			return u, splitSecureCapable
		}
		return u, splitPlain
	case Combined:
		return u, combined
	case Stateless:
		return u, stateless
	default:
		return u, unusable
	}
}

func notFound(dirs []string, architecture string, rejected []string) error {
	install := map[string]string{
		"x86_64":  "ovmf (Debian, Ubuntu), edk2-ovmf (Fedora), or qemu (Homebrew)",
		"aarch64": "qemu-efi-aarch64 (Debian, Ubuntu), edk2-aarch64 (Fedora), or qemu (Homebrew)",
	}[architecture]
	var b strings.Builder
	fmt.Fprintf(&b, " for %s without Secure Boot in %s; install %s", architecture, strings.Join(dirs, ", "), install)
	for _, r := range rejected {
		fmt.Fprintf(&b, "; rejected %s", r)
	}
	return fmt.Errorf("%w%s", ErrNotFound, b.String())
}
