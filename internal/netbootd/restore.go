// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/registry"
)

// restore loads what was saved. What is damaged is left out: the manager puts it again.
// The error is that of a directory that cannot be read or cleaned.
func (s *Server) restore() error {
	s.restoreEpoch()
	leases, err := s.store.loadLeases()
	if err != nil {
		s.log.Error("loading the saved leases failed; starting without them", "error", err)
	}
	s.leases.load(leases)
	s.restoreServer()
	if err := s.restoreMachines(); err != nil {
		return err
	}
	var unknown []netbootapi.UnknownClient
	if _, err := s.store.load(fileUnknown, &unknown); err != nil {
		s.log.Error("loading the undeclared clients failed; starting without them", "error", err)
	}
	s.state.restoreUnknown(unknown)
	return s.blobs.sweep()
}

func (s *Server) restoreEpoch() {
	_, err := s.store.read(fileEpoch, func(raw []byte) error {
		epoch, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
		if err == nil {
			s.savedEpoch, err = s.state.admit(epoch)
		}
		return err
	})
	if err != nil {
		s.log.Error("loading the epoch of the manager failed; the next manager sets it", "error", err)
	}
}

func (s *Server) restoreServer() {
	var raw []byte
	var c netbootapi.ServerConfig
	there, err := s.store.read(fileServer, func(file []byte) error {
		raw = file
		if err := json.Unmarshal(file, &c); err != nil {
			return err
		}
		return c.Validate()
	})
	if err != nil {
		s.log.Error("loading the saved configuration failed; starting without it", "error", err)
	}
	if !there {
		return
	}
	if err := s.blobs.expect(registry.Programs(&c)); err != nil {
		s.log.Error("removing damaged content", "error", err)
	}
	s.state.putServer(raw, &c)
}

func (s *Server) restoreMachines() error {
	stored, err := s.store.uids(dirMachines)
	if err != nil {
		return err
	}
	for _, uid := range stored {
		if err := s.restoreMachine(uid); err != nil {
			s.log.Error("loading the saved entry of a machine failed; starting without it", "uid", uid, "error", err)
		}
	}
	observed, err := s.store.uids(dirObserved)
	if err != nil {
		return err
	}
	for _, uid := range observed {
		if !slices.Contains(stored, uid) {
			if err := s.store.remove(observedFile(uid)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Server) restoreMachine(uid string) error {
	var state netbootapi.MachineState
	if _, err := s.store.load(observedFile(uid), &state); err != nil {
		s.log.Error("loading the saved observations of a machine failed; starting without them", "uid", uid, "error", err)
		state = netbootapi.MachineState{}
	}
	_, err := s.store.read(entryFile(uid), func(raw []byte) error {
		entry, err := netbootapi.DecodeEntry(raw)
		if err != nil {
			return err
		}
		m, err := entry.Machine(uid)
		if err != nil {
			return err
		}
		if err := s.blobs.expect(append(m.Texts(), m.Files()...)); err != nil {
			return fmt.Errorf("removing damaged content: %w", err)
		}
		return s.state.restoreMachine(uid, entry, state)
	})
	return err
}
