// SPDX-License-Identifier: Apache-2.0

package netbootdtest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/apiserver"
	"github.com/pxelab/pxelab/internal/netbootd/internal/registry"
)

// Options of a Server; the zero value is valid.
type Options struct {
	// Address to listen on, default a free port of 127.0.0.1.
	Address string
	// Credentials to serve with, default new ones.
	Credentials *netbootapi.Credentials
	// Now is the server's clock, default time.Now.
	Now func() time.Time
	// Dial connects the proxy to a target; the default returns ErrUnreachable.
	// It is called only for addresses of declared machines.
	Dial func(ctx context.Context, address netip.AddrPort) (net.Conn, error)
	// Upload, if set, is called when an upload of a blob starts. It may block,
	// replace the content or refuse the upload.
	Upload func(ctx context.Context, digest string, content io.Reader) (io.Reader, error)
	// Saved is what a server before this one had on its disk; the zero value for an
	// empty disk.
	Saved Saved
}

// maxEvents is how many events a Server keeps.
const maxEvents = 1024

// Server is a fake netbootd. It is safe for concurrent use.
type Server struct {
	address     string
	credentials *netbootapi.Credentials
	identity    *netbootapi.Identity
	dial        func(context.Context, netip.AddrPort) (net.Conn, error)
	upload      func(context.Context, string, io.Reader) (io.Reader, error)
	stop        context.CancelFunc
	done        chan struct{}

	mu       sync.Mutex
	registry *registry.Registry
	events   *registry.Events
	// blobs holds uploads; the registry knows which are complete.
	blobs map[string][]byte
	// serverPuts and machinePuts count what was accepted.
	serverPuts  int
	machinePuts map[string]int
	// refuse, refuseMachine and refuseRenewal are the errors of requests, nil for
	// none.
	refuse        error
	refuseMachine map[string]error
	refuseRenewal error
	metrics       netbootapi.Metrics
}

// Start serves until Stop or the end of the test.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s, err := start(o)
	if err != nil {
		t.Fatalf("starting the fake netbootd: %v", err)
	}
	t.Cleanup(s.Stop)
	return s
}

func start(o Options) (*Server, error) {
	if o.Address == "" {
		o.Address = "127.0.0.1:0"
	}
	if o.Credentials == nil {
		var err error
		if o.Credentials, err = netbootapi.NewCredentials(time.Now()); err != nil {
			return nil, err
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Dial == nil {
		o.Dial = func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, netbootapi.ErrUnreachable }
	}
	if o.Upload == nil {
		o.Upload = func(_ context.Context, _ string, content io.Reader) (io.Reader, error) { return content, nil }
	}
	identity, err := netbootapi.NewIdentity(o.Credentials.Server(), o.Now)
	if err != nil {
		return nil, err
	}
	r := registry.New(netbootapi.State{Version: "netbootdtest", StartedAt: time.Now().UTC(), Credentials: identity.Digest()})
	s := &Server{
		credentials:   o.Credentials,
		identity:      identity,
		dial:          o.Dial,
		upload:        o.Upload,
		done:          make(chan struct{}),
		registry:      r,
		events:        registry.NewEvents(r.Store(), maxEvents),
		blobs:         map[string][]byte{},
		machinePuts:   map[string]int{},
		refuseMachine: map[string]error{},
	}
	if err := s.restore(o.Saved); err != nil {
		return nil, err
	}
	server, err := apiserver.NewServer(apiserver.ServerOptions{
		Address: o.Address, TLS: identity.TLS(), Backend: backend{s}, Log: logr.Discard(),
	})
	if err != nil {
		return nil, err
	}
	s.address = server.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	go func() {
		defer close(s.done)
		_ = server.Serve(ctx)
	}()
	return s, nil
}

// Stop closes the server and its connections, as if the VM died. It is
// idempotent.
func (s *Server) Stop() {
	s.stop()
	<-s.done
}

// Address returns the HOST:PORT on which the server listens.
func (s *Server) Address() string { return s.address }

// Credentials returns the credentials that the server was started with.
func (s *Server) Credentials() *netbootapi.Credentials { return s.credentials }

// ClientOptions returns the options of a client of this server.
func (s *Server) ClientOptions() netbootapi.ClientOptions {
	config, err := s.credentials.ClientTLS()
	if err != nil {
		panic("netbootdtest: loading its credentials for a client: " + err.Error())
	}
	return netbootapi.ClientOptions{Address: s.address, TLS: config}
}

// Refuse makes every configuration fail with err; nil accepts them again.
func (s *Server) Refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = err
}

// RefuseMachine makes every entry of a machine fail with err; nil accepts them again.
func (s *Server) RefuseMachine(uid string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuseMachine[uid] = err
}

// RefuseRenewal makes every renewal of the credentials fail with err; nil
// accepts them again.
func (s *Server) RefuseRenewal(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuseRenewal = err
}

// SetMetrics sets what the server answers to requests for its metrics.
func (s *Server) SetMetrics(m netbootapi.Metrics) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.metrics = m
}

// Blob returns the content uploaded under digest, and whether it is complete.
func (s *Server) Blob(digest string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.registry.Has(digest) {
		return nil, false
	}
	return bytes.Clone(s.blobs[digest]), true
}

// Text is Blob for a text.
func (s *Server) Text(digest string) (string, bool) {
	raw, whole := s.Blob(digest)
	return string(raw), whole
}

// Lose removes a blob, as a damaged disk would.
func (s *Server) Lose(digest string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.blobs, digest)
	s.registry.Lost(digest)
}

// State returns what watchers see.
func (s *Server) State() netbootapi.Observed {
	s.mu.Lock()
	defer s.mu.Unlock()
	var o netbootapi.Observed
	if err := o.Apply(s.registry.Changes(netbootapi.Position{})); err != nil {
		panic("netbootdtest: " + err.Error())
	}
	return o
}

// Update lets edit change a copy of the state of the server and sends the result to
// the watchers. The server sets Server and MissingBlobs itself.
func (s *Server) Update(edit func(*netbootapi.State)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.registry.EditServer(func(state *netbootapi.State) { change(state, edit) })
	s.registry.Publish()
}

// UpdateMachine is Update for the state of a declared machine; it has no effect for
// another. The server sets Content, Control, Installing and MissingBlobs itself.
func (s *Server) UpdateMachine(uid string, edit func(*netbootapi.MachineState)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.registry.EditMachine(uid, func(state *netbootapi.MachineState) { change(state, edit) }) {
		s.registry.Publish()
	}
}

// Record adds an event. The server sets its Sequence.
func (s *Server) Record(event netbootapi.Event) { s.events.Add(event) }

// change lets edit change a deep copy of *v and sets *v to it.
func change[V any](v *V, edit func(*V)) {
	raw, err := json.Marshal(v)
	if err != nil {
		panic("netbootdtest: " + err.Error())
	}
	var next V
	if err := json.Unmarshal(raw, &next); err != nil {
		panic("netbootdtest: " + err.Error())
	}
	edit(&next)
	*v = next
}

// Changed returns a channel that is closed at the next change of what the manager has
// put or of what is observed.
func (s *Server) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.registry.Changed()
}
