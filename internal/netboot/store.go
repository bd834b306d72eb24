// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/dhcp"
)

// store keeps on disk what must outlive the process. Every write is atomic and
// readable by the owner only: the configuration holds the machines' secrets.
type store struct{ dir string }

// savedState is what is kept of the state; the rest is observed anew.
type savedState struct {
	Machines map[string]agent.MachineState `json:"machines,omitempty"`
	Unknown  []agent.UnknownClient         `json:"unknown,omitempty"`
}

const (
	fileConfig = "config.json"
	fileState  = "state.json"
	fileLeases = "leases.json"
	// fileIdentity holds the credentials that replaced the seed's.
	fileIdentity = "identity.json"
	// markNAT is there while NAT rules may be.
	markNAT = "nat-on"
)

func openStore(dir string) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	return &store{dir}, nil
}

func (s *store) save(name string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", name, err)
	}
	if err := renameio.WriteFile(filepath.Join(s.dir, name), raw, 0o600, renameio.IgnoreUmask()); err != nil {
		return fmt.Errorf("saving %s: %w", name, err)
	}
	return nil
}

// load reads a file into v and reports whether it was there. A file that does
// not decode is put aside, so that a damaged one does not stop the service:
// the manager pushes all of it again.
func (s *store) load(name string, v any) (bool, error) {
	path := filepath.Join(s.dir, name)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("loading %s: %w", name, err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		err = fmt.Errorf("%s is damaged and was put aside: %w", path, err)
		return false, errors.Join(err, os.Rename(path, path+".damaged"))
	}
	return true, nil
}

// mark, marked and unmark keep one bit each.
func (s *store) mark(name string) error {
	if err := renameio.WriteFile(filepath.Join(s.dir, name), nil, 0o600); err != nil {
		return fmt.Errorf("saving %s: %w", name, err)
	}
	return nil
}

func (s *store) marked(name string) bool {
	_, err := os.Stat(filepath.Join(s.dir, name))
	return !errors.Is(err, fs.ErrNotExist)
}

func (s *store) unmark(name string) error {
	if err := os.Remove(filepath.Join(s.dir, name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (s *store) saveLeases(leases []dhcp.Lease) error { return s.save(fileLeases, leases) }

func (s *store) loadLeases() ([]dhcp.Lease, error) {
	var leases []dhcp.Lease
	_, err := s.load(fileLeases, &leases)
	return leases, err
}
