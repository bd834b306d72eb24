// SPDX-License-Identifier: Apache-2.0

package ownership

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/renameio/v2"

	"github.com/pxelab/pxelab/internal/machine"
)

// MachineRecordName is the name of the record of a machine's object in its directory.
const MachineRecordName = "owner.json"

// MachineOwner is the object that a machine belongs to. It is recorded with the machine,
// so that what to do with it is known even without the object.
type MachineOwner struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	// Retention is that of a target's disks; empty for other machines.
	Retention string `json:"retention,omitempty"`
	// Network is the UID of the network's server, Mode the network's mode.
	Network string `json:"network"`
	Mode    string `json:"mode"`
	// Cluster identifies the cluster of the object; see Cluster.ID.
	Cluster string `json:"cluster"`

	// What else is needed to adopt the disks of a target: the names of its disks, in their
	// order and separated by commas, the architecture and the runner of its machine, and
	// the addresses of the interface from which it boots.
	Disks        string `json:"disks,omitempty"`
	Architecture string `json:"architecture,omitempty"`
	Runner       string `json:"runner,omitempty"`
	MAC          string `json:"mac,omitempty"`
	Address      string `json:"address,omitempty"`
}

// RecordMachine records the owner of a machine in the machine's directory, unless the
// record has it already. Without the directory there is nothing to own, and it does
// nothing.
func RecordMachine(dir string, o MachineOwner) error {
	if old, err := LoadMachine(dir); err == nil && old == o {
		return nil
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	text, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encoding the owner of %s: %w", dir, err)
	}
	if err := renameio.WriteFile(filepath.Join(dir, MachineRecordName), text, 0o600, renameio.WithTempDir(dir)); err != nil {
		return fmt.Errorf("recording the owner of a machine: %w", err)
	}
	return nil
}

// LoadMachine reads the owner of a machine. It returns the zero MachineOwner if none is
// recorded, and an error if the record is not readable.
func LoadMachine(dir string) (MachineOwner, error) {
	var o MachineOwner
	text, err := os.ReadFile(filepath.Join(dir, MachineRecordName))
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	if err != nil {
		return MachineOwner{}, fmt.Errorf("reading the owner of %s: %w", dir, err)
	}
	return o, nil
}

// MachineDir is the directory of a machine.
type MachineDir struct {
	// ID is the UID of the machine and of the object that owns it.
	ID   string
	Path string
	// Owner is zero if it is not recorded, or its record is not readable.
	Owner MachineOwner
	// HasDisks means that the directory holds disks.
	HasDisks bool
}

// ListMachines returns the directories of the machines of a data directory, by ID.
func ListMachines(dataDir string) ([]MachineDir, error) {
	parent := filepath.Join(dataDir, "machines")
	entries, err := os.ReadDir(parent)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing the directories of machines: %w", err)
	}
	var all []MachineDir
	for _, e := range entries {
		if !e.IsDir() || machine.CheckID(e.Name()) != nil {
			continue
		}
		m := MachineDir{ID: e.Name(), Path: filepath.Join(parent, e.Name())}
		if owner, err := LoadMachine(m.Path); err == nil {
			m.Owner = owner
		}
		files, err := os.ReadDir(m.Path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("listing the directories of machines: %w", err)
		}
		m.HasDisks = slices.ContainsFunc(files, func(f fs.DirEntry) bool {
			return filepath.Ext(f.Name()) == ".raw" || filepath.Ext(f.Name()) == ".qcow2"
		})
		all = append(all, m)
	}
	return all, nil
}
