// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/dhcp"
)

// store saves what must survive a restart. Every write is atomic, concerns one file and
// is readable by the owner only: entries hold the machines' secrets.
type store struct {
	dir string
	// put replaces a file.
	put func(path string, raw []byte) error
}

const (
	// fileServer has the bytes of the server configuration as they were put.
	fileServer = "server.json"
	// dirMachines has the bytes of each machine's entry, dirObserved its observed state.
	dirMachines = "machines"
	dirObserved = "observed"
	fileUnknown = "unknown.json"
	fileLeases  = "leases.json"
	// fileIdentity holds the credentials that replaced the seed's.
	fileIdentity = "identity.json"
	// fileEpoch holds the highest epoch of a manager.
	fileEpoch = "epoch"
	// markNAT exists while NAT rules may exist.
	markNAT = "nat-on"
	// suffix of the files of machines.
	suffix = ".json"
)

func openStore(dir string) (*store, error) {
	for _, dir := range []string{dir, filepath.Join(dir, dirMachines), filepath.Join(dir, dirObserved)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("creating the state directory: %w", err)
		}
	}
	return &store{dir, putFile}, nil
}

// putFile writes a file in its own directory. Without one, renameio would look for a
// directory for the temporary file each time, which takes longer than the write.
func putFile(path string, raw []byte) error {
	return renameio.WriteFile(path, raw, 0o600, renameio.IgnoreUmask(), renameio.WithTempDir(filepath.Dir(path)))
}

// entryFile and observedFile return the names of a machine's files.
func entryFile(uid string) string    { return filepath.Join(dirMachines, uid+suffix) }
func observedFile(uid string) string { return filepath.Join(dirObserved, uid+suffix) }

// uids returns the UIDs that have a file in dirMachines or dirObserved. It removes what
// an interrupted write left there.
func (s *store) uids(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, dir))
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", dir, err)
	}
	var uids []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			if err := s.remove(filepath.Join(dir, e.Name())); err != nil {
				return nil, err
			}
		}
		if uid, ok := strings.CutSuffix(e.Name(), suffix); ok && netbootapi.ValidUID(uid) {
			uids = append(uids, uid)
		}
	}
	return uids, nil
}

func (s *store) save(name string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", name, err)
	}
	return s.write(name, raw)
}

func (s *store) write(name string, raw []byte) error {
	if err := s.put(filepath.Join(s.dir, name), raw); err != nil {
		return noSpace(fmt.Errorf("saving %s: %w", name, err))
	}
	return nil
}

// remove removes a file, if it exists.
func (s *store) remove(name string) error {
	if err := os.Remove(filepath.Join(s.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", name, err)
	}
	return nil
}

// load reads a file into v and reports whether it exists; see read.
func (s *store) load(name string, v any) (bool, error) {
	return s.read(name, func(raw []byte) error { return json.Unmarshal(raw, v) })
}

// read reads a file and reports whether it exists and decode accepts it. A file that
// does not decode is renamed, so that it does not stop the service: the manager puts
// it again.
func (s *store) read(name string, decode func(raw []byte) error) (bool, error) {
	path := filepath.Join(s.dir, name)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("loading %s: %w", name, err)
	}
	if err := decode(raw); err != nil {
		err = fmt.Errorf("%s is damaged and was renamed to *.damaged: %w", path, err)
		return false, errors.Join(err, os.Rename(path, path+".damaged"))
	}
	return true, nil
}

// mark creates an empty file; marked reports whether it exists; unmark removes
// it.
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

func (s *store) unmark(name string) error { return s.remove(name) }

func (s *store) saveLeases(leases []dhcp.Lease) error { return s.save(fileLeases, leases) }

func (s *store) loadLeases() ([]dhcp.Lease, error) {
	var leases []dhcp.Lease
	_, err := s.load(fileLeases, &leases)
	return leases, err
}

// noSpace wraps an error caused by a full disk in ErrNoSpace.
func noSpace(err error) error {
	if hostfs.IsNoSpace(err) {
		return fmt.Errorf("%w: %w", netbootapi.ErrNoSpace, err)
	}
	return err
}
