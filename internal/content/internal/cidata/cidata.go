// SPDX-License-Identifier: Apache-2.0

package cidata

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

// VolumeID is the volume label by which cloud-init finds the image.
const VolumeID = "cidata"

// Names of the files that cloud-init reads. UserData and MetaData are required,
// but may be empty.
const (
	UserData      = "user-data"
	MetaData      = "meta-data"
	NetworkConfig = "network-config"
	VendorData    = "vendor-data"
)

const (
	// maxName is the length of a name in ISO 9660 level 2, 30 characters, less the
	// version ";1".
	maxName      = 28
	maxExtension = 8
	// maxFiles keeps the directory within one sector, at 33+30+1 bytes per entry.
	maxFiles = 28
	maxSize  = 1 << 30

	sectorSize = 2048
	fileMode   = 0o600
)

// Content is the content of a file: Data, or that of the file at Path if set.
type Content struct {
	Data []byte
	Path string
}

// Error is the error for files that cannot be stored in an image. Message
// describes the problem and its remedy.
type Error struct{ Message string }

func (e *Error) Error() string { return "seed image: " + e.Message }

func failf(format string, args ...any) error {
	return &Error{fmt.Sprintf(format, args...)}
}

// Write writes an image to path with mode 0600 and returns its digest,
// "sha256:<hex>". It replaces an existing file atomically: if Write fails, the
// file remains, and readers that have it open keep reading the old image. The
// digest depends only on the names and contents of files.
func Write(path string, files map[string]Content) (digest string, err error) {
	if err := check(files); err != nil {
		return "", err
	}
	// The temporary file is in the destination's folder, so that secrets are not
	// written to other folders.
	out, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithPermissions(fileMode))
	if err != nil {
		return "", fmt.Errorf("writing seed image: %w", err)
	}
	defer func() { err = errors.Join(err, out.Cleanup()) }()
	if err := build(out.File, files); err != nil {
		return "", err
	}
	if err := normalize(out.File); err != nil {
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

// check rejects files that ISO 9660 or cloud-init does not support.
func check(files map[string]Content) error {
	for _, name := range []string{UserData, MetaData} {
		if _, ok := files[name]; !ok {
			return failf("%s is missing; add it, because cloud-init ignores an image without it", name)
		}
	}
	if len(files) > maxFiles {
		return failf("%d files do not fit; combine some to have at most %d", len(files), maxFiles)
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
			return failf("the files up to %s exceed %d bytes in total; use smaller files", name, maxSize)
		}
	}
	return nil
}

// checkName accepts names that ISO 9660 preserves unchanged. Therefore no two
// accepted names can collide.
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
			return failf("file name %q contains upper-case letters, which guests read as lower case; use lower-case letters", name)
		case c == '/':
			return failf("file name %q is in a folder; put all files in the top folder", name)
		default:
			return failf("file name %q contains the character %q; use only a-z, 0-9, -, _ and a dot after the first character", name, c)
		}
	}
	switch {
	case base == "":
		return failf("a file name is empty; set it")
	case dots > 1:
		return failf("file name %q contains %d dots, and all but the last would become underscores; use at most one", name, dots)
	case dots == 1 && ext == "":
		return failf("file name %q ends with a dot, which would be lost; remove it", name)
	case len(ext) > maxExtension:
		return failf("file name %q would be truncated; use at most %d characters after the dot", name, maxExtension)
	case len(name) > maxName:
		return failf("file name %q has %d characters and would be truncated; use at most %d", name, len(name), maxName)
	}
	return nil
}

func (c Content) size() (int64, error) {
	if c.Path == "" {
		return int64(len(c.Data)), nil
	}
	if c.Data != nil {
		return 0, failf("both path %s and data are set for a file; set only one", c.Path)
	}
	st, err := os.Stat(c.Path)
	if err != nil {
		return 0, fmt.Errorf("seed image: %w", err)
	}
	if !st.Mode().IsRegular() {
		return 0, failf("%s is not a regular file; set path to one", c.Path)
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

// build writes the image. The library stages the files in a private folder of
// the system's temporary folder and removes it afterwards.
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
