// SPDX-License-Identifier: Apache-2.0

package targetdisk

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

// Attempt identifies an installation attempt.
type Attempt struct {
	// ID grows with every attempt, from 1.
	ID int64 `json:"id"`
	// Generation is the installGeneration to install; 0 means none.
	Generation int64 `json:"generation"`
	// Number is the number of the attempt at Generation, starting at 1.
	Number int64 `json:"attempt,omitempty"`
}

// Next returns the attempt that follows a, at the same generation.
func (a Attempt) Next() Attempt {
	return Attempt{ID: a.ID + 1, Generation: a.Generation, Number: a.Number + 1}
}

// Begin returns the attempt that follows a and is the first one at a generation.
func (a Attempt) Begin(generation int64) Attempt {
	return Attempt{ID: a.ID + 1, Generation: generation, Number: 1}
}

func (a Attempt) String() string {
	return fmt.Sprintf("installation %d, attempt %d", a.Generation, a.Number)
}

// Failure describes why an attempt failed.
type Failure struct {
	Attempt Attempt `json:"of"`
	Reason  string  `json:"reason"`
	Message string  `json:"message"`
	// Lines are the last lines of the machine's log.
	Lines []string  `json:"lines,omitempty"`
	At    time.Time `json:"at"`
	// Declared is the generation of the target's spec at that time.
	Declared int64 `json:"declared"`
	// ProfileDigest is the digest of the target's profile at that time; "" if the
	// profile was not ready.
	ProfileDigest string `json:"profileDigest,omitempty"`
}

// Declaration identifies the values of a spec; see netbootapi.Declaration.
type Declaration struct {
	Key    string            `json:"key"`
	Fields map[string]string `json:"fields,omitempty"`
}

// Record is the observed state of a target's disks.
type Record struct {
	// Attempt is the attempt that the disks belong to.
	Attempt
	// Void is set while the disks may be partly wiped. They are unusable until
	// Prepare has succeeded.
	Void bool `json:"void,omitempty"`
	// Installed is set when the attempt has completed.
	Installed   bool      `json:"installed"`
	InstalledAt time.Time `json:"installedAt,omitzero"`
	// ProfileDigest is the digest of the installed profile; "" if unknown.
	ProfileDigest string `json:"profileDigest,omitempty"`
	// Network is the lab network for which the system was configured, such as
	// 10.88.0.0/20; "" if unknown.
	Network string `json:"network,omitempty"`
	// RootDisk is the name of the disk that holds the system; "" is the first one.
	RootDisk string `json:"rootDisk,omitempty"`
	// Warnings are what the installer could not do.
	Warnings []string `json:"warnings,omitempty"`
	// Declared identifies the values with which the system was installed; nil if
	// unknown.
	Declared *Declaration `json:"declared,omitempty"`
	// System is what the installed system reported; nil before it has phoned home.
	System *System `json:"system,omitempty"`
	// Origin is set if the disks were adopted.
	Origin *Origin `json:"origin,omitempty"`
	// Failures is the number of consecutive failed attempts.
	Failures int `json:"failures,omitempty"`
	// Failure is the last failure, of this attempt or an earlier one.
	Failure *Failure `json:"failure,omitempty"`
}

// InstalledGeneration returns the generation that is installed on the disks; 0
// means none.
func (r Record) InstalledGeneration() int64 {
	if !r.Installed {
		return 0
	}
	return r.Generation
}

// Failed reports whether the attempt that the disks belong to has failed.
func (r Record) Failed() bool { return r.Failure != nil && r.Failure.Attempt == r.Attempt }

// String describes the record for logs. Without it, the embedded Attempt's String
// would hide all other fields.
func (r Record) String() string {
	state := "not finished"
	switch {
	case r.Attempt == Attempt{}:
		return "no disks"
	case r.Void:
		state = "disks void"
	case r.Installed:
		state = fmt.Sprintf("installed at %s with profile %q", r.InstalledAt.Format(time.RFC3339), r.ProfileDigest)
	case r.Failed():
		state = "failed"
	}
	if r.Failure != nil {
		state += fmt.Sprintf("; %d failures, last: %s: %s (%s)", r.Failures, r.Failure.Reason, r.Failure.Message, r.Failure.Attempt)
	}
	return r.Attempt.String() + ": " + state
}

// Load reads the record of a directory. It returns the zero Record if none
// exists.
func Load(dir string) (Record, error) {
	raw, err := os.ReadFile(filepath.Join(dir, recordName))
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, nil
	}
	if err != nil {
		return Record{}, fmt.Errorf("reading disk record: %w", err)
	}
	var r Record
	if err := json.Unmarshal(raw, &r); err != nil {
		return Record{}, fmt.Errorf("parsing disk record %s: %w", filepath.Join(dir, recordName), err)
	}
	if r.Generation > 0 { // records of earlier versions have no numbers
		r.Number = max(1, r.Number)
		r.ID = max(1, r.ID)
	}
	return r, nil
}

func save(dir string, r Record) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding disk record: %w", err)
	}
	if err := renameio.WriteFile(filepath.Join(dir, recordName), raw, 0o600, renameio.WithTempDir(dir)); err != nil {
		return fmt.Errorf("writing disk record: %w", err)
	}
	return nil
}
