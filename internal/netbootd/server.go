// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/apiserver"
)

const (
	// retryAfter is the delay before failed lab services are restarted.
	retryAfter = 2 * time.Second
	// maxLeases bounds the published leases. Those of all declared machines fit.
	maxLeases = netbootapi.MaxMachines
)

// Server is one netbootd.
type Server struct {
	options Options
	log     *slog.Logger
	store   *store
	state   *stateStore
	blobs   *blobStore
	api     *apiserver.Server
	// identity holds the certificate of the netboot API.
	identity *netbootapi.Identity

	// applying serializes what the manager puts and deletes.
	applying sync.Mutex
	// saving serializes the files of observations.
	saving sync.Mutex
	// unsaved is set while saves fail.
	unsaved atomic.Bool
	// fencing protects savedEpoch, the epoch in fileEpoch.
	fencing    sync.Mutex
	savedEpoch int64

	leases leaseBook
	// renderings outlives the services of a network, whose last requests may still render.
	renderings *renderings

	mu      sync.Mutex
	lab     *lab
	network chan struct{} // closed when the configured network changes
}

// New loads the saved state and binds the netboot API. Serve starts the lab's
// services, from the saved configuration if there is one.
func New(o Options) (*Server, error) {
	o.setDefaults()
	store, err := openStore(o.StateDir)
	if err != nil {
		return nil, err
	}
	s := &Server{options: o, log: o.Log, store: store, renderings: newRenderings(), network: make(chan struct{})}
	s.state = newStateStore(o.Version, o.Clock)
	if s.blobs, err = openBlobs(filepath.Join(o.StateDir, "blobs"), o.BlobGrace, s.state); err != nil {
		return nil, err
	}
	if err := s.restore(); err != nil {
		return nil, err
	}
	// Before the first client connects: a restarted server that reported no leases
	// until its services run would make the manager show none.
	s.publishLeases()
	if s.identity, err = s.loadIdentity(); err != nil {
		return nil, err
	}
	s.state.setCredentials(s.identity.Digest())
	s.api, err = apiserver.NewServer(apiserver.ServerOptions{
		Address: o.APIAddress, TLS: s.identity.TLS(), Backend: backend{s}, Log: logr.FromSlogHandler(o.Log.Handler()),
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// APIAddr returns the address on which the netboot API listens.
func (s *Server) APIAddr() net.Addr { return s.api.Addr() }

// Serve blocks until ctx ends, then stops all services, saves the state and
// returns nil. It returns an error when the netboot API fails. It restarts lab
// services that fail.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() { s.serveLab(ctx) })
	running.Go(func() { newSSHProber(s.state, s.options.Dial, s.options.SSHPort).run(ctx) })
	running.Go(func() { s.publishDeferred(ctx) })
	running.Go(func() { s.saveOnChange(ctx) })
	running.Go(func() { s.sweepBlobs(ctx) })
	running.Go(func() { s.feedWatchdog(ctx) })
	err := s.api.Serve(ctx)
	cancel()
	running.Wait()
	s.persist(true)
	return err
}

// serveLab runs the lab's services for the network in force and restarts
// them when it changes.
func (s *Server) serveLab(ctx context.Context) {
	for ctx.Err() == nil {
		network, changed := s.wanted()
		var retry <-chan time.Time
		if network != nil {
			err := s.runLab(ctx, *network, changed)
			if err == nil {
				continue
			}
			s.log.Error("the lab's services failed; restarting them", "error", err)
			retry = time.After(retryAfter)
		}
		select {
		case <-changed:
		case <-retry:
		case <-ctx.Done():
		}
	}
}

// wanted returns the configured network, nil before the first, and a channel that is
// closed when another one is configured.
func (s *Server) wanted() (*netbootapi.Network, <-chan struct{}) {
	s.mu.Lock()
	changed := s.network
	s.mu.Unlock()
	if config := s.state.current(); config != nil {
		return &config.Network, changed
	}
	return nil, changed
}

// runLab runs the services of one network. It returns nil when ctx ends or they must be
// restarted.
func (s *Server) runLab(ctx context.Context, network netbootapi.Network, changed <-chan struct{}) error {
	l, err := openLab(s, network)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.lab = l
	s.mu.Unlock()
	s.leases.attach(l.dhcp)
	s.log.Info("serving the lab", "address", network.Address, "http", l.renderer.Port)
	err = l.serve(ctx, changed)
	s.leases.detach()
	s.mu.Lock()
	s.state.counters.keepDHCP(l.dhcp.Counters())
	s.lab = nil
	s.mu.Unlock()
	return err
}
