// SPDX-License-Identifier: Apache-2.0

package netbootdtest

import (
	"encoding/json"
	"fmt"
	"maps"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// Saved is what a Server has on its disk: the configuration, the entries, what was
// observed of their machines, the uploads and the epoch. It does not change.
type Saved struct {
	config   []byte
	machines map[string]savedMachine
	blobs    map[string][]byte
	whole    map[string]bool
	epoch    int64
}

type savedMachine struct {
	entry netbootapi.Entry
	state netbootapi.MachineState
}

// Saved returns what the server has on its disk now. It may be called after Stop.
func (s *Server) Saved() Saved {
	s.mu.Lock()
	defer s.mu.Unlock()
	saved := Saved{
		config: s.registry.RawConfig(), machines: map[string]savedMachine{},
		blobs: maps.Clone(s.blobs), whole: map[string]bool{}, epoch: s.registry.Epoch(),
	}
	for _, uid := range s.registry.UIDs() {
		entry, _ := s.registry.Entry(uid)
		_, state := s.registry.Machine(uid)
		saved.machines[uid] = savedMachine{entry, state}
	}
	for digest := range saved.blobs {
		saved.whole[digest] = s.registry.Has(digest)
	}
	return saved
}

// restore continues with what an earlier Server had on its disk.
func (s *Server) restore(saved Saved) error {
	if err := s.registry.Admit(saved.epoch); err != nil {
		return err
	}
	for digest, content := range saved.blobs {
		s.blobs[digest] = content[:len(content):len(content)]
		if saved.whole[digest] {
			s.registry.Stored(digest, int64(len(content)))
		}
	}
	if saved.config != nil {
		var c netbootapi.ServerConfig
		if err := json.Unmarshal(saved.config, &c); err != nil {
			return fmt.Errorf("restoring the configuration: %w", err)
		}
		s.registry.PutServer(saved.config, &c)
	}
	for uid, m := range saved.machines {
		if err := s.registry.Restore(uid, m.entry, m.state); err != nil {
			return fmt.Errorf("restoring the machine %s: %w", uid, err)
		}
	}
	return nil
}
