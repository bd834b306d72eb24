// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"reflect"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/registry"
)

// adoptServer puts a valid configuration in force; callers hold applying.
func (s *Server) adoptServer(raw []byte, c *netbootapi.ServerConfig) {
	before := s.state.current()
	ended := s.state.putServer(raw, c)
	s.endLeases(ended)
	if before != nil {
		s.blobs.released(registry.Programs(before))
	}
	if before == nil || !reflect.DeepEqual(before.Network, c.Network) {
		s.mu.Lock()
		close(s.network)
		s.network = make(chan struct{})
		s.mu.Unlock()
	}
}

// released ends the lease and releases the content of a machine that was replaced or
// removed, as far as the machine that replaced it does not have the same; callers hold
// applying. There was none if before is nil.
func (s *Server) released(before *netbootapi.Machine) {
	if before == nil {
		return
	}
	s.endLeases([]*netbootapi.Machine{before})
	s.blobs.released(append(before.Texts(), before.Files()...))
}

// endLeases ends the leases of machines that were served, unless one with the same MAC
// and IP address is served now.
func (s *Server) endLeases(before []*netbootapi.Machine) {
	for _, m := range before {
		mac, err := netbootapi.ParseMAC(m.MAC)
		if err != nil {
			continue // Validate has refused such a machine
		}
		if now := s.state.machineByMAC(mac.String()); now == nil || now.Address != m.Address {
			s.leases.forget(mac)
		}
	}
}
