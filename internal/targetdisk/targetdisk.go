// SPDX-License-Identifier: Apache-2.0

package targetdisk

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"
)

// Disk is a raw disk.
type Disk struct {
	Path string
	Size int64 // bytes
	// Keep keeps the content of a disk that exists for a new installation.
	Keep bool
}

// Prepare creates blank disks for an installation attempt. It removes those of
// an earlier attempt, unless they are to be kept, and the files in wipe, such as
// the firmware variables. It records the disks as void before it removes anything, so that after an
// interruption they are known to be unusable and the next call starts from
// scratch. Prepare is idempotent for one attempt. An attempt earlier than that of
// the existing disks is an error, and so is a size that is not a multiple of 512
// bytes; both leave the disks unchanged.
func Prepare(dir string, a Attempt, disks []Disk, wipe ...string) (Record, error) {
	record, err := Load(dir)
	if err != nil {
		return Record{}, err
	}
	switch {
	case a.ID < 1 || a.Generation < 1 || a.Number < 1:
		return record, fmt.Errorf("preparing %s: invalid attempt %+v; its numbers must be at least 1", dir, a)
	case record.ID > a.ID:
		return record, fmt.Errorf("preparing %s for %s: its disks belong to a later one, %s", dir, a, record.Attempt)
	case record.Attempt == a && !record.Void:
		return record, nil
	}
	for _, d := range disks {
		if err := d.checkSize(); err != nil {
			return record, fmt.Errorf("preparing %s: %w", dir, err)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return record, fmt.Errorf("creating the machine's directory: %w", err)
	}
	next := Record{Attempt: a, Void: true, Origin: record.Origin}
	if a.Generation == record.Generation {
		next.Failures = record.Failures
		next.Failure = record.Failure
	}
	if err := save(dir, next); err != nil {
		return record, err
	}
	for _, path := range wipe {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return next, fmt.Errorf("removing %s for a new installation: %w", path, err)
		}
	}
	for _, d := range disks {
		if d.Keep && isFile(d.Path) {
			continue
		}
		if err := createBlank(d); err != nil {
			return next, err
		}
	}
	next.Void = false
	return next, save(dir, next)
}

// sectorSize is the unit of a disk's size. A declared size of 1500M is not a
// multiple of it and is rounded up.
const sectorSize = 512

// FileSize returns the size of the disk's file in bytes.
func (d Disk) FileSize() int64 { return (d.Size + sectorSize - 1) / sectorSize * sectorSize }

func (d Disk) checkSize() error {
	if d.Size <= 0 || d.Size > math.MaxInt64-sectorSize {
		return fmt.Errorf("disk %s has an invalid size of %d bytes; declare a positive size", filepath.Base(d.Path), d.Size)
	}
	return nil
}

func isFile(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular()
}

// createBlank replaces a disk by an empty sparse file. Raw is the fastest format:
// the file system allocates the blocks, and discard punches holes, so that the
// file uses only the space that the guest uses.
func createBlank(d Disk) (err error) {
	if err := os.Remove(d.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing disk %s: %w", d.Path, err)
	}
	f, err := os.OpenFile(d.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("creating disk %s: %w", d.Path, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(d.FileSize()); err != nil {
		return fmt.Errorf("creating disk %s of %d bytes: %w", d.Path, d.Size, err)
	}
	return nil
}

// Missing returns the path of the first disk that does not exist, "" if all do.
func Missing(disks []Disk) (string, error) {
	for _, d := range disks {
		_, err := os.Stat(d.Path)
		if errors.Is(err, fs.ErrNotExist) {
			return d.Path, nil
		}
		if err != nil {
			return "", fmt.Errorf("checking disk %s: %w", d.Path, err)
		}
	}
	return "", nil
}

// Installed describes what an attempt has installed; see Record.
type Installed struct {
	At            time.Time
	ProfileDigest string
	Network       string
	RootDisk      string
	Warnings      []string
	Declared      *Declaration
}

// MarkInstalled records what the attempt has installed, and clears the failures of
// earlier attempts. It is idempotent. If the disks belong to another attempt, it returns
// an error.
func MarkInstalled(dir string, a Attempt, i Installed) (Record, error) {
	record, err := current(dir, a)
	if err != nil || record.Installed {
		return record, err
	}
	record.Installed = true
	record.InstalledAt = i.At
	record.ProfileDigest = i.ProfileDigest
	record.Network = i.Network
	record.RootDisk = i.RootDisk
	record.Warnings = i.Warnings
	record.Declared = i.Declared
	record.Failures = 0
	record.Failure = nil
	return record, save(dir, record)
}

// MarkFailed records that an attempt has failed, and the number of consecutive
// failures. It does nothing if the attempt already has a result. If the disks
// belong to another attempt, it returns an error.
func MarkFailed(dir string, f Failure, consecutive int) (Record, error) {
	record, err := current(dir, f.Attempt)
	if err != nil || record.Installed || record.Failed() {
		return record, err
	}
	record.Failures = consecutive
	record.Failure = &f
	return record, save(dir, record)
}

// current loads the record of a directory. It returns an error unless the disks
// belong to attempt a and are usable.
func current(dir string, a Attempt) (Record, error) {
	record, err := Load(dir)
	if err == nil && (record.Attempt != a || record.Void) {
		err = fmt.Errorf("recording the result of %s in %s: its disks belong to %s (void: %t)", a, dir, record.Attempt, record.Void)
	}
	return record, err
}

// Retain moves the existing disks of a directory, their record, and the further
// files to dst, which must not exist unless an earlier call for the same
// directory created it. It reports whether dst exists afterwards; it does not
// create dst if there are no disks and no record to move. An interrupted call is
// completed by the next one: the record is moved after the disks, so that it
// stays with those that remain to be moved, and the files after the record, so
// that all disks are there if they are.
func Retain(dir, dst string, disks []Disk, files ...string) (kept bool, err error) {
	for _, path := range append(paths(disks), filepath.Join(dir, recordName)) {
		if err := moveInto(dst, path); err != nil {
			return false, fmt.Errorf("retaining disks: %w", err)
		}
	}
	switch _, err := os.Stat(dst); {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("retaining disks: %w", err)
	}
	for _, name := range files {
		if err := moveInto(dst, filepath.Join(dir, name)); err != nil {
			return false, fmt.Errorf("retaining disks: %w", err)
		}
	}
	return true, nil
}

// RetainDir moves a machine's directory with everything in it to dst, or, if that exists,
// to the first free name with dst as its beginning, and returns the new path. It does
// nothing and returns dst if the directory does not exist.
func RetainDir(dir, dst string) (string, error) {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return dst, nil
	}
	if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
		return "", fmt.Errorf("retaining disks: %w", err)
	}
	name := dst
	for n := 2; ; n++ {
		_, err := os.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return "", fmt.Errorf("retaining disks: %w", err)
		}
		name = fmt.Sprintf("%s.%d", dst, n)
	}
	if err := os.Rename(dir, name); err != nil {
		return "", fmt.Errorf("retaining disks: %w", err)
	}
	return name, nil
}

// moveInto moves a file, if it exists, into a directory, which it creates if
// necessary.
func moveInto(dir, path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.Rename(path, filepath.Join(dir, filepath.Base(path)))
}

// Remove deletes a machine's directory and its contents. It is idempotent.
func Remove(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing the machine's directory: %w", err)
	}
	return nil
}

func paths(disks []Disk) []string {
	var out []string
	for _, d := range disks {
		out = append(out, d.Path)
	}
	return out
}
