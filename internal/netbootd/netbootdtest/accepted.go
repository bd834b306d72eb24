// SPDX-License-Identifier: Apache-2.0

package netbootdtest

import (
	"context"
	"fmt"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// Server returns the configuration in force, and whether there is one.
func (s *Server) Server() (netbootapi.ServerConfig, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.config()
}

// config is Server for callers that hold mu.
func (s *Server) config() (netbootapi.ServerConfig, bool) {
	if c := s.registry.Config(); c != nil {
		return *c, true
	}
	return netbootapi.ServerConfig{}, false
}

// ServerPuts returns how many configurations were accepted.
func (s *Server) ServerPuts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.serverPuts
}

// Machine returns the entry in force of a machine, and whether there is one.
func (s *Server) Machine(uid string) (netbootapi.Machine, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machine(uid)
}

// machine is Machine for callers that hold mu.
func (s *Server) machine(uid string) (netbootapi.Machine, bool) {
	if m, _ := s.registry.Machine(uid); m != nil {
		return *m, true
	}
	return netbootapi.Machine{}, false
}

// Machines returns the entries in force, sorted by UID.
func (s *Server) Machines() []netbootapi.Machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []netbootapi.Machine
	for _, uid := range s.registry.UIDs() {
		m, _ := s.registry.Machine(uid)
		out = append(out, *m)
	}
	return out
}

// MachinePuts returns how many entries of a machine were accepted.
func (s *Server) MachinePuts(uid string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machinePuts[uid]
}

// WaitServer waits until the configuration in force satisfies ok and returns it.
func (s *Server) WaitServer(ctx context.Context, ok func(netbootapi.ServerConfig) bool) (netbootapi.ServerConfig, error) {
	return wait(ctx, s, s.config, ok)
}

// WaitMachine waits until the entry in force of a machine satisfies ok and returns it.
func (s *Server) WaitMachine(ctx context.Context, uid string, ok func(netbootapi.Machine) bool) (netbootapi.Machine, error) {
	return wait(ctx, s, func() (netbootapi.Machine, bool) { return s.machine(uid) }, ok)
}

// wait waits until get, which is called with mu held, returns a value that satisfies ok.
func wait[V any](ctx context.Context, s *Server, get func() (V, bool), ok func(V) bool) (V, error) {
	for {
		s.mu.Lock()
		changed := s.registry.Changed()
		v, found := get()
		s.mu.Unlock()
		if found && ok(v) {
			return v, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			var none V
			return none, fmt.Errorf("waiting for what the manager puts: %w", ctx.Err())
		}
	}
}
