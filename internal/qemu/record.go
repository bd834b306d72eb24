// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"github.com/pxelab/pxelab/internal/process"
)

// recordVersion changes when an older program could misread a record.
const recordVersion = 1

// record is what Local remembers of a machine over its own restarts.
type record struct {
	Version int `json:"version"`
	// Machine is the description with everything filled in.
	Machine Machine `json:"machine"`
	// Digest is of the description as the caller gave it.
	Digest string `json:"digest"`
	// Program and Args are for people.
	Program string   `json:"program"`
	Args    []string `json:"args"`
	// Process is zero from before the process is started until it is known.
	Process   process.Identity `json:"process"`
	StartedAt time.Time        `json:"startedAt"`
	// LogOffset is where this process's part of the log begins.
	LogOffset int64 `json:"logOffset"`
	// SerialOffset is where the serial log's part since the last power-on or
	// reset begins.
	SerialOffset int64 `json:"serialOffset,omitempty"`

	BootOrder            []string  `json:"bootOrder"`
	Resets               int       `json:"resets"`
	GuestPanicked        bool      `json:"guestPanicked"`
	PowerDownRequestedAt time.Time `json:"powerDownRequestedAt,omitzero"`

	// Ending is why the process is about to end, once that is known.
	Ending ExitReason `json:"ending,omitempty"`
	// Exit is set when it has.
	Exit *Exit `json:"exit,omitempty"`
}

// save writes the record, whole or not at all.
func (r record) save() error {
	r.Version = recordVersion
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the record of %s: %w", r.Machine.ID, err)
	}
	path := r.Machine.Paths.Record
	err = renameio.WriteFile(path, append(text, '\n'), 0o600, renameio.WithTempDir(filepath.Dir(path)))
	if err != nil {
		return fmt.Errorf("writing the record of %s: %w", r.Machine.ID, err)
	}
	return nil
}

// load reads the record of a machine. os.ErrNotExist when there is none.
func load(path, id string) (record, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		return record{}, fmt.Errorf("reading %s: %w", path, err)
	}
	if r.Version != recordVersion {
		return record{}, fmt.Errorf("reading %s: version %d, this program knows %d", path, r.Version, recordVersion)
	}
	if r.Machine.ID != id {
		return record{}, fmt.Errorf("reading %s: it is of machine %q", path, r.Machine.ID)
	}
	return r, nil
}

// removeFiles removes files that may be missing.
func removeFiles(paths ...string) error {
	var errs []error
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removeIfEmpty leaves a directory that holds something, such as a disk.
func removeIfEmpty(dir string) error {
	err := os.Remove(dir)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) {
		return nil
	}
	return err
}
