// SPDX-License-Identifier: Apache-2.0

// Package storage keeps a target's disks and remembers what they hold. The
// record lies beside the disks, not in the API: what is on a disk is a fact of
// the host, and a disk must never be wiped because of a status read late.
//
// Callers take turns for one directory; the package locks nothing.
package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Disk is a raw disk to be made.
type Disk struct {
	Path string
	Size int64 // bytes
}

// Prepare makes blank disks for an attempt at an installation and removes what
// there was of an earlier one: the disks and the files in wipe, such as the
// firmware's variables. What is about to be wiped is recorded as void first, so
// that an interrupted Prepare leaves disks that are known to be of no use, and
// is done over. Calling it again for the same attempt does nothing; an earlier
// one than the disks' own is an error.
func Prepare(dir string, a Attempt, disks []Disk, wipe ...string) (Record, error) {
	record, err := Load(dir)
	if err != nil {
		return Record{}, err
	}
	switch order := record.Attempt.compare(a); {
	case a.Generation < 1 || a.Number < 1:
		return record, fmt.Errorf("preparing %s: %s is none", dir, a)
	case order > 0:
		return record, fmt.Errorf("preparing %s for %s: its disks are of a later one, %s", dir, a, record.Attempt)
	case order == 0 && !record.Void:
		return record, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return record, fmt.Errorf("making the machine's directory: %w", err)
	}
	next := Record{Attempt: a, Void: true}
	if a.Generation == record.Generation {
		next.Failures, next.Failure = record.Failures, record.Failure
	}
	if err := save(dir, next); err != nil {
		return record, err
	}
	for _, path := range wipe {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return next, fmt.Errorf("wiping for a new installation: %w", err)
		}
	}
	for _, d := range disks {
		if err := makeBlank(d); err != nil {
			return next, err
		}
	}
	next.Void = false
	return next, save(dir, next)
}

// makeBlank makes a sparse file, so that it costs what is written to it.
func makeBlank(d Disk) (err error) {
	if err := os.Remove(d.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("wiping disk %s: %w", d.Path, err)
	}
	f, err := os.OpenFile(d.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("making disk %s: %w", d.Path, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(d.Size); err != nil {
		return fmt.Errorf("making disk %s of %d bytes: %w", d.Path, d.Size, err)
	}
	return nil
}

// MarkInstalled records that the attempt has put a profile with this digest on
// the disks. Earlier failures are forgotten. It is idempotent; the disks of
// another attempt are an error.
func MarkInstalled(dir string, a Attempt, profileDigest string, at time.Time) (Record, error) {
	record, err := current(dir, a)
	if err != nil || record.Installed {
		return record, err
	}
	record.Installed, record.InstalledAt, record.ProfileDigest = true, at, profileDigest
	record.Failures, record.Failure = 0, nil
	return record, save(dir, record)
}

// MarkFailed records that an attempt has failed, and how many have in a row.
// Only the first word on an attempt counts; the disks of another attempt are an
// error.
func MarkFailed(dir string, f Failure, inARow int) (Record, error) {
	record, err := current(dir, f.Attempt)
	if err != nil || record.Installed || record.Failed() {
		return record, err
	}
	record.Failures, record.Failure = inARow, &f
	return record, save(dir, record)
}

// current loads the record of a directory whose disks are of attempt a.
func current(dir string, a Attempt) (Record, error) {
	record, err := Load(dir)
	if err == nil && (record.Attempt != a || record.Void) {
		err = fmt.Errorf("marking %s of %s: its disks are not of that attempt", dir, a)
	}
	return record, err
}

// Retain moves what there is of a directory's disks, and their record, to dst,
// which must not exist yet or be the result of the same call. It reports whether
// dst is there: it is not made for nothing. A call that was interrupted is
// completed by calling it again; the record goes last, so that until then it is
// beside disks that are still to be moved.
func Retain(dir, dst string, disks []Disk) (kept bool, err error) {
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
	return true, nil
}

// moveInto moves a file, if it is there, into a directory, which is made for it.
func moveInto(dir, path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.Rename(path, filepath.Join(dir, filepath.Base(path)))
}

// Remove deletes a machine's directory and all in it.
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
