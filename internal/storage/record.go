// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"cmp"
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

// Attempt is one attempt at an installation.
type Attempt struct {
	// Generation is the installGeneration that is installed; 0 is none.
	Generation int64 `json:"generation"`
	// Number counts the attempts at Generation, from 1.
	Number int64 `json:"attempt,omitempty"`
}

// Next is the attempt after a at the same generation.
func (a Attempt) Next() Attempt { return Attempt{Generation: a.Generation, Number: a.Number + 1} }

func (a Attempt) String() string {
	return fmt.Sprintf("installation %d, attempt %d", a.Generation, a.Number)
}

func (a Attempt) compare(b Attempt) int {
	return cmp.Or(cmp.Compare(a.Generation, b.Generation), cmp.Compare(a.Number, b.Number))
}

// Failure is why an attempt failed.
type Failure struct {
	Attempt Attempt `json:"of"`
	Reason  string  `json:"reason"`
	Message string  `json:"message"`
	// Lines are the machine's own last words on it.
	Lines []string  `json:"lines,omitempty"`
	At    time.Time `json:"at"`
	// Declared is the generation of the target's spec at that time, and
	// ProfileDigest what its profile came to; "" when that was not ready.
	Declared      int64  `json:"declared"`
	ProfileDigest string `json:"profileDigest,omitempty"`
}

// Record is what a target's disks hold.
type Record struct {
	// Attempt that the disks were made for.
	Attempt
	// Void disks may be half wiped: they are of no use until Prepare is done.
	Void bool `json:"void,omitempty"`
	// Installed tells that the attempt was completed.
	Installed   bool      `json:"installed"`
	InstalledAt time.Time `json:"installedAt,omitzero"`
	// ProfileDigest is what was installed; "" when that is not known.
	ProfileDigest string `json:"profileDigest,omitempty"`
	// Failures of attempts in a row.
	Failures int `json:"failures,omitempty"`
	// Failure is the last of them: of the disks' own attempt or of an earlier.
	Failure *Failure `json:"failure,omitempty"`
}

// InstalledGeneration is the generation that the disks hold; 0 for none.
func (r Record) InstalledGeneration() int64 {
	if !r.Installed {
		return 0
	}
	return r.Generation
}

// Failed reports whether the disks' own attempt has failed.
func (r Record) Failed() bool { return r.Failure != nil && r.Failure.Attempt == r.Attempt }

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
	if r.Generation > 0 {
		r.Number = max(1, r.Number) // records of old have no number
	}
	return r, nil
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
