// SPDX-License-Identifier: Apache-2.0

// Package seed builds the ISO 9660 image from which cloud-init's NoCloud data
// source configures a machine, with whatever else the machine needs to begin:
// programs, configuration, credentials.
//
// ISO 9660 without extensions is what every cloud image reads, and it is
// narrow: lower-case names of at most 28 characters in one folder. The package
// refuses what would be cut, mangled or overwritten instead of letting the
// guest find out, and reads every image back before it is used. It does not
// look at what the files say.
package seed

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/renameio/v2"
	"github.com/kdomanski/iso9660"
)

// VolumeID is the label by which cloud-init finds the image.
const VolumeID = "cidata"

// Names of the files that cloud-init reads. UserData and MetaData must be
// there; they may be empty.
const (
	UserData      = "user-data"
	MetaData      = "meta-data"
	NetworkConfig = "network-config"
	VendorData    = "vendor-data"
)

const (
	// maxName is what is left of the 30 characters of ISO 9660 level 2 behind
	// the version ";1".
	maxName      = 28
	maxExtension = 8
	// maxFiles keeps the directory within one sector, 33+30+1 bytes an entry.
	maxFiles = 28
	maxSize  = 1 << 30

	sectorSize = 2048
	fileMode   = 0o600
)

// Content is what a file holds: Data, or the file at Path when that is set.
type Content struct {
	Data []byte
	Path string
}

// Error says why files cannot go into an image, and what to change.
type Error struct{ Message string }

func (e *Error) Error() string { return "seed image: " + e.Message }

func failf(format string, args ...any) error {
	return &Error{fmt.Sprintf(format, args...)}
}

// Write builds the image at path, mode 0600, replacing one that is there, and
// returns "sha256:<hex>" of it. The same files give the same image, so the
// digest tells whether anything changed. When it fails, what was at path stays.
// Readers who have the old image open keep reading the old one.
func Write(path string, files map[string]Content) (digest string, err error) {
	if err := check(files); err != nil {
		return "", err
	}
	// Close to its destination, so that secrets do not cross other folders.
	out, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithPermissions(fileMode))
	if err != nil {
		return "", fmt.Errorf("writing seed image: %w", err)
	}
	defer func() { err = errors.Join(err, out.Cleanup()) }()
	if err := build(out.File, files); err != nil {
		return "", err
	}
	if err := settle(out.File); err != nil {
		return "", err
	}
	if err := readBack(out.File, files); err != nil {
		return "", err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(out, 0, 1<<62)); err != nil {
		return "", fmt.Errorf("writing seed image: %w", err)
	}
	if err := out.CloseAtomicallyReplace(); err != nil {
		return "", fmt.Errorf("writing seed image: %w", err)
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// check refuses what ISO 9660 or cloud-init would not take.
func check(files map[string]Content) error {
	for _, name := range []string{UserData, MetaData} {
		if _, ok := files[name]; !ok {
			return failf("%s is missing; cloud-init takes no notice of an image without it", name)
		}
	}
	if len(files) > maxFiles {
		return failf("%d files, at most %d fit; pack some together", len(files), maxFiles)
	}
	var total int64
	for _, name := range sortedNames(files) {
		if err := checkName(name); err != nil {
			return err
		}
		size, err := files[name].size()
		if err != nil {
			return err
		}
		if total += size; total > maxSize {
			return failf("more than %d bytes up to %s", maxSize, name)
		}
	}
	return nil
}

// checkName allows what comes out of ISO 9660 as it went in. That also leaves
// no two names that would collide.
func checkName(name string) error {
	base, ext := name, ""
	dots := 0
	for i, c := range name {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		case c == '.' && i > 0:
			base, ext = name[:i], name[i+1:]
			dots++
		case 'A' <= c && c <= 'Z':
			return failf("file name %q has upper-case letters, which the guest would not see; use lower-case", name)
		case c == '/':
			return failf("file name %q is in a folder; all files go side by side", name)
		default:
			return failf("file name %q has the character %q; use a-z, 0-9, - and _, and at most one dot inside", name, c)
		}
	}
	switch {
	case base == "":
		return failf("a file has no name")
	case dots > 1:
		return failf("file name %q has %d dots, all but the last would become underscores; use one at most", name, dots)
	case dots == 1 && ext == "":
		return failf("file name %q ends in a dot, which would be lost", name)
	case len(ext) > maxExtension:
		return failf("file name %q would be cut: at most %d characters may follow the dot", name, maxExtension)
	case len(name) > maxName:
		return failf("file name %q would be cut: it has %d characters, at most %d are possible", name, len(name), maxName)
	}
	return nil
}

func (c Content) size() (int64, error) {
	if c.Path == "" {
		return int64(len(c.Data)), nil
	}
	if c.Data != nil {
		return 0, failf("%s is given with data as well; set only one", c.Path)
	}
	st, err := os.Stat(c.Path)
	if err != nil {
		return 0, fmt.Errorf("seed image: %w", err)
	}
	if !st.Mode().IsRegular() {
		return 0, failf("%s is not a regular file", c.Path)
	}
	return st.Size(), nil
}

func sortedNames(files map[string]Content) []string {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// build writes the image. The library stages files in a private folder of the
// system's temporary one and removes it.
func build(w io.Writer, files map[string]Content) (err error) {
	iso, err := iso9660.NewWriter()
	if err != nil {
		return fmt.Errorf("seed image: %w", err)
	}
	defer func() { err = errors.Join(err, iso.Cleanup()) }()
	for _, name := range sortedNames(files) {
		r, err := files[name].open()
		if err != nil {
			return fmt.Errorf("seed image: %w", err)
		}
		err = errors.Join(iso.AddFile(r, name), r.Close())
		if err != nil {
			return fmt.Errorf("seed image: adding %s: %w", name, err)
		}
	}
	if err := iso.WriteTo(w, VolumeID); err != nil {
		return fmt.Errorf("seed image: %w", err)
	}
	return nil
}
