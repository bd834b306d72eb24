// SPDX-License-Identifier: Apache-2.0

// Package storage keeps a target's disks and remembers what they hold. The
// record lies beside the disks, not in the API: what is on a disk is a fact of
// the host, and a disk must never be wiped because of a status read late.
//
// Callers take turns for one directory; the package locks nothing.
package storage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
)

const recordName = "disks.json"

// Record is what a target's disks hold.
type Record struct {
	// Generation is the installGeneration the disks were made for; 0 is none.
	Generation int64 `json:"generation"`
	// Installed tells that the installation of Generation was completed.
	Installed     bool      `json:"installed"`
	InstalledAt   time.Time `json:"installedAt,omitzero"`
	ProfileDigest string    `json:"profileDigest,omitempty"`
}

// InstalledGeneration is the generation that the disks hold; 0 for none.
func (r Record) InstalledGeneration() int64 {
	if !r.Installed {
		return 0
	}
	return r.Generation
}

// Load reads the record of a directory; the zero Record when there is none.
func Load(dir string) (Record, error) {
	raw, err := os.ReadFile(filepath.Join(dir, recordName))
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, nil
	}
	if err != nil {
		return Record{}, fmt.Errorf("reading the disks' record: %w", err)
	}
	var r Record
	if err := json.Unmarshal(raw, &r); err != nil {
		return Record{}, fmt.Errorf("reading the disks' record %s: %w", filepath.Join(dir, recordName), err)
	}
	return r, nil
}

// Disk is a raw disk to be made.
type Disk struct {
	Path string
	Size int64 // bytes
}

// Prepare makes blank disks for an installation and removes what there was of
// an earlier one: the disks and the files in wipe, such as the firmware's
// variables. The record is written last, so that an interrupted Prepare is
// done over. Calling it again for the same generation does nothing; an earlier
// generation than the disks' own is an error.
func Prepare(dir string, generation int64, disks []Disk, wipe ...string) error {
	record, err := Load(dir)
	if err != nil || record.Generation == generation {
		return err
	}
	if record.Generation > generation {
		return fmt.Errorf("preparing %s for installation %d: its disks are of a later one, %d", dir, generation, record.Generation)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the machine's directory: %w", err)
	}
	for _, path := range wipe {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("wiping for a new installation: %w", err)
		}
	}
	for _, d := range disks {
		if err := makeBlank(d); err != nil {
			return err
		}
	}
	return save(dir, Record{Generation: generation})
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

// MarkInstalled records that the installation of the record's generation is
// complete. It is idempotent.
func MarkInstalled(dir, profileDigest string, at time.Time) (Record, error) {
	record, err := Load(dir)
	if err != nil || record.Installed {
		return record, err
	}
	if record.Generation == 0 {
		return record, fmt.Errorf("marking %s as installed: it has no disks", dir)
	}
	record.Installed, record.InstalledAt, record.ProfileDigest = true, at, profileDigest
	return record, save(dir, record)
}

// Retain moves the disks of a directory, with their record, to dst, which must
// not exist yet or be the result of the same call.
func Retain(dir, dst string, disks []Disk) error {
	if err := os.MkdirAll(dst, 0o700); err != nil {
		return fmt.Errorf("retaining disks: %w", err)
	}
	for _, path := range append([]string{filepath.Join(dir, recordName)}, paths(disks)...) {
		err := os.Rename(path, filepath.Join(dst, filepath.Base(path)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("retaining disks: %w", err)
		}
	}
	return nil
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

func save(dir string, r Record) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding the disks' record: %w", err)
	}
	if err := renameio.WriteFile(filepath.Join(dir, recordName), raw, 0o600); err != nil {
		return fmt.Errorf("writing the disks' record: %w", err)
	}
	return nil
}
