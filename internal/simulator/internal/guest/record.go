// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"encoding/json"
	"fmt"
)

// record is what a simulated disk remembers: the files of an installed system that
// determine what it sends. The image itself is not kept.
type record struct {
	// Installed is unset while the installer writes: a disk with half an image does
	// not boot.
	Installed bool   `json:"installed"`
	Image     string `json:"image"`
	Hostname  string `json:"hostname"`
	// SeedURL and NetworkConfig are what the installer wrote for cloud-init.
	SeedURL       string `json:"seedURL"`
	NetworkConfig string `json:"networkConfig,omitempty"`
	// MachineID is made at the first boot.
	MachineID string `json:"machineID,omitempty"`
	// Instance is cloud-init's, once it has fetched its data.
	Instance *instance `json:"instance,omitempty"`
	// HostKeys are private keys in OpenSSH's format.
	HostKeys []string `json:"hostKeys,omitempty"`
}

// instance is what cloud-init keeps of its data.
type instance struct {
	ID       string `json:"id"`
	Hostname string `json:"hostname"`
	// Endpoint is the URL of the reporting handler, "" for none.
	Endpoint  string    `json:"endpoint,omitempty"`
	PhoneHome phoneHome `json:"phoneHome,omitzero"`
	Accounts  []account `json:"accounts,omitempty"`
	// Keys are the top-level keys of the user's configuration, which select modules.
	Keys []string `json:"keys,omitempty"`
	// Done are the modules that ran and run once per instance.
	Done []string `json:"done,omitempty"`
}

type phoneHome struct {
	URL   string   `json:"url"`
	Post  []string `json:"post"`
	Tries int      `json:"tries"`
}

// account is a user of the installed system.
type account struct {
	Name string   `json:"name"`
	Keys []string `json:"keys,omitempty"`
}

func (r *record) bootable() bool { return r != nil && r.Installed }

// loadRecord returns what the disk remembers, nil if it is blank.
func loadRecord(d Disk) (*record, error) {
	raw, err := d.Load()
	if err != nil || len(raw) == 0 {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("reading a simulated disk: %w", err)
	}
	return &r, nil
}

func (r *record) store(d Disk) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return d.Store(raw)
}
