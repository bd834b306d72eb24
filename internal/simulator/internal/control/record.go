// SPDX-License-Identifier: Apache-2.0

package control

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/renameio/v2"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/process"
)

// recordVersion is incremented when an older program could misread a record.
const recordVersion = 1

// Record is the state of a machine, as it is sent and kept on disk.
type Record struct {
	Version int `json:"version"`
	// Machine is the description with the host's fields filled in.
	Machine machine.Machine `json:"machine"`
	// Digest is the digest of the caller's description.
	Digest string `json:"digest"`
	// Process is that of the program that runs the machine, or has run it.
	Process   process.Identity `json:"process"`
	StartedAt time.Time        `json:"startedAt"`
	// PowerOns counts the starts of the machine, this one included.
	PowerOns int `json:"powerOns"`
	// Executes is set when the guest has started.
	Executes bool `json:"executes,omitempty"`
	// SerialOffset is the offset in the serial log at the last power-on or reset.
	SerialOffset int64 `json:"serialOffset,omitempty"`

	BootOrder            []string  `json:"bootOrder"`
	Resets               int       `json:"resets"`
	PowerDownRequestedAt time.Time `json:"powerDownRequestedAt,omitzero"`

	// Exit is set when the machine has ended.
	Exit *machine.Exit `json:"exit,omitempty"`
}

// Alive reports whether the machine's end is not known.
func (r *Record) Alive() bool { return r.Machine.ID != "" && r.Exit == nil }

// Clone returns a copy that shares nothing that is changed later.
func (r Record) Clone() Record {
	r.BootOrder = slices.Clone(r.BootOrder)
	if r.Exit != nil {
		exit := *r.Exit
		r.Exit = &exit
	}
	return r
}

// End returns the exit of the machine for a reason, at the current time.
func (r *Record) End(reason machine.ExitReason) *machine.Exit {
	return &machine.Exit{
		Reason: reason, At: time.Now(), StartedAt: r.StartedAt, Code: -1,
		Requested: reason == machine.ExitStopped || !r.PowerDownRequestedAt.IsZero(),
	}
}

// Save writes the record atomically into the machine's directory.
func (r Record) Save() error {
	r.Version = recordVersion
	return save(r.Machine.Paths.Record, r)
}

func save(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s: %w", path, err)
	}
	if err := renameio.WriteFile(path, append(text, '\n'), 0o600, renameio.WithTempDir(filepath.Dir(path))); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// Load reads the record of a machine. The error is os.ErrNotExist when the file does
// not exist.
func Load(path, id string) (Record, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Record{}, err
	}
	var r Record
	if err := json.Unmarshal(text, &r); err != nil {
		return Record{}, fmt.Errorf("reading %s: %w", path, err)
	}
	if r.Version != recordVersion {
		return Record{}, fmt.Errorf("reading %s: got version %d, want %d", path, r.Version, recordVersion)
	}
	if r.Machine.ID != id {
		return Record{}, fmt.Errorf("reading %s: it belongs to machine %q, not %s", path, r.Machine.ID, id)
	}
	return r, nil
}

// Program is the record of the running program, with which it is found.
type Program struct {
	Process process.Identity `json:"process"`
	Socket  string           `json:"socket"`
}

// Files are those of the program.
type Files struct {
	// Lock is held by the running program.
	Lock string
	// Record is where the running program is recorded.
	Record string
	// Log is its output.
	Log string
	// Socket is the default place of its socket.
	Socket string
}

// NewFiles returns the files of the program of a data directory.
func NewFiles(dataDir, runtimeDir string) Files {
	return Files{
		Lock:   filepath.Join(dataDir, "run", "simulator.lock"),
		Record: filepath.Join(dataDir, "run", "simulator.json"),
		Log:    filepath.Join(dataDir, "logs", "simulator.log"),
		Socket: filepath.Join(runtimeDir, "simulator.sock"),
	}
}

// SaveProgram writes the record of the program atomically.
func SaveProgram(path string, p Program) error { return save(path, p) }

// LoadProgram reads the record of the program. The error is os.ErrNotExist when the
// file does not exist.
func LoadProgram(path string) (Program, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Program{}, err
	}
	var p Program
	if err := json.Unmarshal(text, &p); err != nil {
		return Program{}, fmt.Errorf("reading %s: %w", path, err)
	}
	return p, nil
}
