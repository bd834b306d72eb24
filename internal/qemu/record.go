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

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/process"
)

// errDamaged is returned for a record whose content cannot be used.
var errDamaged = errors.New("the record is damaged")

// recordVersion is incremented when an older program could misread a record.
const recordVersion = 1

// record is the state of a machine that is kept on disk, so that the next Local
// can adopt the machine.
type record struct {
	Version int `json:"version"`
	// Machine is the description with the host's fields filled in.
	Machine machine.Machine `json:"machine"`
	// Digest is the digest of the caller's description.
	Digest string `json:"digest"`
	// Program and Args are informational and not read back.
	Program string   `json:"program"`
	Args    []string `json:"args"`
	// Process is zero until the process has been started.
	Process   process.Identity `json:"process"`
	StartedAt time.Time        `json:"startedAt"`
	// LogOffset is the offset in the log at which this process's output begins.
	LogOffset int64 `json:"logOffset"`
	// SerialOffset is the offset in the serial log at the last power-on or reset.
	SerialOffset int64 `json:"serialOffset,omitempty"`

	BootOrder            []string  `json:"bootOrder"`
	Resets               int       `json:"resets"`
	GuestPanicked        bool      `json:"guestPanicked"`
	PowerDownRequestedAt time.Time `json:"powerDownRequestedAt,omitzero"`

	// Ending is why the process is about to end; empty until that is known.
	Ending machine.ExitReason `json:"ending,omitempty"`
	// Exit is set when the process has ended.
	Exit *machine.Exit `json:"exit,omitempty"`
}

// endRequested reports whether a stop or the power button asked for the process's end.
func (r record) endRequested() bool {
	return r.Ending == machine.ExitStopped || !r.PowerDownRequestedAt.IsZero()
}

// save writes the record atomically.
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

// load reads the record of a machine. The error is os.ErrNotExist when the file
// does not exist, and errDamaged when its content cannot be used.
func load(path, id string) (record, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		return record{}, fmt.Errorf("reading %s: %w: %w", path, errDamaged, err)
	}
	if r.Version != recordVersion {
		return record{}, fmt.Errorf("reading %s: %w: got version %d, want %d", path, errDamaged, r.Version, recordVersion)
	}
	if r.Machine.ID != id {
		return record{}, fmt.Errorf("reading %s: %w: it belongs to machine %q, not %s", path, errDamaged, r.Machine.ID, id)
	}
	return r, nil
}

// unusablePath is where a damaged record is kept, at most until the machine is removed.
// There is at most one.
func unusablePath(record string) string { return record + machine.UnusableSuffix }

// removeFiles removes files and ignores those that do not exist.
func removeFiles(paths ...string) error {
	var errs []error
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removeIfEmpty removes a directory unless it contains a file, such as a disk.
func removeIfEmpty(dir string) error {
	err := os.Remove(dir)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) {
		return nil
	}
	return err
}
