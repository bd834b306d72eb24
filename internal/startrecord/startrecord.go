// SPDX-License-Identifier: Apache-2.0

// Package startrecord records, next to a machine's files, the values from which its
// process was started. It does not know what the values mean. The record belongs to
// one description of a machine: the caller compares its Digest with that of the process.
package startrecord

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

const recordName = "started.json"

// Record is what a process was started from.
type Record struct {
	// Digest of the machine's description; see machine.Machine.Digest.
	Digest string `json:"digest"`
	// Fields are digests of values, by the path of the field.
	Fields map[string]string `json:"fields,omitempty"`
}

// Save replaces the record in a directory atomically. It creates the directory.
func Save(dir string, r Record) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding the record of a start: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("creating the machine's directory: %w", err)
	}
	if err := renameio.WriteFile(filepath.Join(dir, recordName), raw, 0o600); err != nil {
		return fmt.Errorf("writing the record of a start: %w", err)
	}
	return nil
}

// Load reads the record in a directory. It returns the zero Record if there is none, or
// if it is damaged: then it is unknown from what the process was started.
func Load(dir string) (Record, error) {
	raw, err := os.ReadFile(filepath.Join(dir, recordName))
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, nil
	}
	if err != nil {
		return Record{}, fmt.Errorf("reading the record of a start: %w", err)
	}
	var r Record
	if json.Unmarshal(raw, &r) != nil {
		return Record{}, nil
	}
	return r, nil
}
