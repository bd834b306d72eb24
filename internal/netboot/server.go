// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/dhcp"
)

const (
	// retryAfter is the pause before failed lab services are started again.
	retryAfter = 2 * time.Second
	// saveEvery is how long a change of the state may stay in memory only.
	saveEvery = time.Second
)

// Server is one netbootd.
type Server struct {
	options Options
	log     *slog.Logger
	store   *store
	keeper  *keeper
	blobs   *blobStore
	agent   *agent.Server
	// identity is what the manager is served with.
	identity *agent.Identity

	// applying keeps pushes one after the other.
	applying sync.Mutex

	mu      sync.Mutex
	lab     *lab
	leases  []dhcp.Lease
	network chan struct{} // closed when the wanted network changed
}

// New loads what an earlier run left behind and binds the agent API. The lab's
// services start with Serve, from the configuration on disk if there is one.
func New(o Options) (*Server, error) {
	o.setDefaults()
	store, err := openStore(o.StateDir)
	if err != nil {
		return nil, err
	}
	s := &Server{options: o, log: o.Log, store: store, network: make(chan struct{})}
	s.keeper = newKeeper(o.Version, o.Clock)
	if s.blobs, err = openBlobs(filepath.Join(o.StateDir, "blobs"), s.keeper.setBlobs); err != nil {
		return nil, err
	}
	s.restore()
	if s.identity, err = s.loadIdentity(); err != nil {
		return nil, err
	}
	s.keeper.setCredentials(s.identity.Digest())
	s.agent, err = agent.NewServer(agent.ServerOptions{
		Address: o.AgentAddress, TLS: s.identity.TLS(), Backend: backend{s}, Log: logr.FromSlogHandler(o.Log.Handler()),
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// restore never fails: whatever is lost, the manager pushes again.
func (s *Server) restore() {
	var saved savedState
	if _, err := s.store.load(fileState, &saved); err != nil {
		s.log.Error("starting without the earlier observations", "error", err)
	}
	s.keeper.restore(saved)
	var err error
	if s.leases, err = s.store.loadLeases(); err != nil {
		s.log.Error("starting without the earlier leases", "error", err)
	}
	var config agent.Config
	there, err := s.store.load(fileConfig, &config)
	if err == nil && there {
		err = config.Validate()
	}
	if err != nil {
		s.log.Error("starting without the earlier configuration", "error", err)
		return
	}
	if there {
		s.adopt(&config)
	}
}

// adopt puts a valid configuration in force.
func (s *Server) adopt(c *agent.Config) {
	before := s.keeper.current()
	s.keeper.setConfig(c)
	s.forgetLeases(before)
	if err := s.blobs.want(c.Blobs()); err != nil {
		s.log.Error("removing blobs that nobody needs", "error", err)
	}
	if before == nil || !reflect.DeepEqual(before.Network, c.Network) {
		s.mu.Lock()
		close(s.network)
		s.network = make(chan struct{})
		s.mu.Unlock()
	}
}

// forgetLeases ends the leases of machines that are no longer declared, or not
// with their address.
func (s *Server) forgetLeases(before *agent.Config) {
	s.mu.Lock()
	l := s.lab
	s.mu.Unlock()
	if before == nil || l == nil {
		return
	}
	forgotten := false
	for i := range before.Machines {
		m := &before.Machines[i]
		mac, err := net.ParseMAC(m.MAC)
		if err != nil {
			continue // no configuration with it is valid
		}
		if now := s.keeper.machineByMAC(mac.String()); now != nil && now.Address == m.Address {
			continue
		}
		l.dhcp.Forget(mac)
		forgotten = true
	}
	if forgotten {
		s.leasesChanged(l)
	}
}

// AgentAddr is where the manager connects to.
func (s *Server) AgentAddr() net.Addr { return s.agent.Addr() }

// Serve blocks until ctx ends, then stops everything, saves the state and
// returns nil; or returns the error of the agent API, without which there is
// no point in going on. The lab's services are started again when they fail.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() { s.serveLab(ctx) })
	running.Go(func() { newSSHProber(s.keeper, s.options.Dial, s.options.SSHPort).run(ctx) })
	running.Go(func() { s.saveOnChange(ctx) })
	running.Go(func() { s.feedWatchdog(ctx) })
	err := s.agent.Serve(ctx)
	cancel()
	running.Wait()
	s.persist()
	return err
}

// serveLab runs the lab's services for the network in force, anew when it
// changes.
func (s *Server) serveLab(ctx context.Context) {
	for ctx.Err() == nil {
		s.mu.Lock()
		changed := s.network
		s.mu.Unlock()
		var retry <-chan time.Time
		if config := s.keeper.current(); config != nil {
			err := s.runLab(ctx, config.Network, changed)
			if err == nil {
				continue
			}
			s.log.Error("the lab's services failed and are started again", "error", err)
			retry = time.After(retryAfter)
		}
		select {
		case <-changed:
		case <-retry:
		case <-ctx.Done():
		}
	}
}

// runLab returns nil when ctx ended or the network changed.
func (s *Server) runLab(ctx context.Context, network agent.Network, changed <-chan struct{}) error {
	l, err := openLab(s, network)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.lab = l
	l.dhcp.Restore(s.leases)
	s.mu.Unlock()
	s.leasesChanged(l)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-changed:
			cancel()
		case <-ctx.Done():
		}
	}()
	s.log.Info("serving the lab", "address", network.Address, "http", l.renderer.port)
	err = l.serve(ctx)
	s.mu.Lock()
	s.leases, s.lab = l.dhcp.Leases(), nil
	s.mu.Unlock()
	return err
}

// leasesChanged takes a new snapshot of l's leases.
func (s *Server) leasesChanged(l *lab) {
	leases := l.dhcp.Leases()
	s.mu.Lock()
	s.leases = leases
	s.mu.Unlock()
	now := s.options.Clock()
	var shown []agent.Lease
	for _, lease := range leases {
		if lease.State != dhcp.Bound || lease.Expires.Before(now) {
			continue
		}
		mac := lease.MAC.String()
		shown = append(shown, agent.Lease{
			MAC: mac, Address: lease.Address, Hostname: lease.Hostname, Expires: lease.Expires.UTC(),
			Reserved: s.keeper.machineByMAC(mac) != nil,
		})
	}
	s.keeper.setLeases(shown)
}

// saveOnChange writes news to disk, at most once a second.
func (s *Server) saveOnChange(ctx context.Context) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.keeper.tell()
		if s.keeper.takeDirty() {
			s.persist()
		}
	}
}

// persist writes observations and leases to disk.
func (s *Server) persist() {
	state, _ := s.keeper.observe()
	s.mu.Lock()
	leases := s.leases
	s.mu.Unlock()
	err := errors.Join(
		s.store.save(fileState, savedState{Machines: state.Machines, Unknown: state.Unknown}),
		s.store.saveLeases(leases),
	)
	if err != nil {
		s.log.Error("saving the state", "error", err)
	}
}
