// SPDX-License-Identifier: Apache-2.0

// Package agenttest is an in-memory netbootd for tests of what talks to one:
// it serves the real protocol over mutual TLS, records what is pushed to it
// and shows the states that the test makes up. It boots nothing.
package agenttest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/agent"
)

// Options of a Server; the zero value is useful.
type Options struct {
	// Address to listen on, default a free port of 127.0.0.1.
	Address string
	// Credentials to serve with, default new ones.
	Credentials *agent.Credentials
	// Now is its clock, default the system's.
	Now func() time.Time
	// Dial connects to a target for the proxy, default: always ErrUnreachable.
	// Addresses that the configuration does not declare never get here.
	Dial func(ctx context.Context, address netip.AddrPort) (net.Conn, error)
	// Upload, if set, sees every upload of a blob as it begins and may block,
	// replace its content or refuse it.
	Upload func(ctx context.Context, digest string, content io.Reader) (io.Reader, error)
}

// Server is a fake netbootd. Its methods may be called from anywhere.
type Server struct {
	address     string
	credentials *agent.Credentials
	identity    *agent.Identity
	dial        func(context.Context, netip.AddrPort) (net.Conn, error)
	upload      func(context.Context, string, io.Reader) (io.Reader, error)
	stop        context.CancelFunc
	done        chan struct{}

	mu      sync.Mutex
	changed chan struct{}
	configs []agent.Config
	refuse  error
	// refuseRenewal is what Renew fails with.
	refuseRenewal error
	state         agent.State
	blobs         map[string][]byte
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
		if o.Credentials, err = agent.NewCredentials(time.Now()); err != nil {
			return nil, err
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Dial == nil {
		o.Dial = func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, agent.ErrUnreachable }
	}
	if o.Upload == nil {
		o.Upload = func(_ context.Context, _ string, content io.Reader) (io.Reader, error) { return content, nil }
	}
	identity, err := agent.NewIdentity(o.Credentials.Server(), o.Now)
	if err != nil {
		return nil, err
	}
	s := &Server{
		credentials: o.Credentials,
		identity:    identity,
		dial:        o.Dial,
		upload:      o.Upload,
		done:        make(chan struct{}),
		changed:     make(chan struct{}),
		blobs:       map[string][]byte{},
		state:       agent.State{Version: "agenttest", StartedAt: time.Now().UTC(), Credentials: identity.Digest()},
	}
	server, err := agent.NewServer(agent.ServerOptions{
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

// Stop ends the server and its connections, as when the VM dies; idempotent.
func (s *Server) Stop() {
	s.stop()
	<-s.done
}

// Address is the HOST:PORT that it serves on.
func (s *Server) Address() string { return s.address }

// Credentials are what it was started with.
func (s *Server) Credentials() *agent.Credentials { return s.credentials }

// ClientOptions lead an agent.Client here.
func (s *Server) ClientOptions() agent.ClientOptions {
	config, err := s.credentials.ClientTLS()
	if err != nil {
		panic("agenttest: credentials that served don't load: " + err.Error())
	}
	return agent.ClientOptions{Address: s.address, TLS: config}
}

// Configs returns every document that was put in force, oldest first.
func (s *Server) Configs() []agent.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]agent.Config(nil), s.configs...)
}

// WaitConfig waits until the document in force satisfies ok and returns it.
func (s *Server) WaitConfig(ctx context.Context, ok func(agent.Config) bool) (agent.Config, error) {
	for {
		s.mu.Lock()
		changed := s.changed
		var last *agent.Config
		if n := len(s.configs); n > 0 {
			last = &s.configs[n-1]
		}
		s.mu.Unlock()
		if last != nil && ok(*last) {
			return *last, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return agent.Config{}, fmt.Errorf("waiting for a pushed configuration: %w", ctx.Err())
		}
	}
}

// RefuseConfigs makes every push fail with err; nil accepts them again.
func (s *Server) RefuseConfigs(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = err
}

// RefuseRenewal makes every renewal of the credentials fail with err; nil
// accepts them again.
func (s *Server) RefuseRenewal(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuseRenewal = err
}

// Blob returns what was uploaded whole under digest.
func (s *Server) Blob(digest string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.complete(digest) {
		return nil, false
	}
	return append([]byte(nil), s.blobs[digest]...), true
}

// State is what watchers are shown now.
func (s *Server) State() agent.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Forget drops the configurations that were pushed before the last: a long test
// has no room for them.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.configs); n > 1 {
		s.configs = append([]agent.Config(nil), s.configs[n-1])
	}
}

// Update lets edit change a copy of the state and shows the result to
// whoever watches. ConfigDigest and MissingBlobs are kept by the server.
func (s *Server) Update(edit func(*agent.State)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := clone(s.state)
	if next.Machines == nil {
		next.Machines = map[string]agent.MachineState{}
	}
	edit(&next)
	s.state = next
	s.publish()
}

// UpdateMachine is Update for one machine's state.
func (s *Server) UpdateMachine(uid string, edit func(*agent.MachineState)) {
	s.Update(func(state *agent.State) {
		m := state.Machines[uid]
		edit(&m)
		state.Machines[uid] = m
	})
}

func clone(in agent.State) agent.State {
	raw, err := json.Marshal(in)
	if err != nil {
		panic("agenttest: " + err.Error())
	}
	var out agent.State
	if err := json.Unmarshal(raw, &out); err != nil {
		panic("agenttest: " + err.Error())
	}
	return out
}

// publish recomputes what the server itself knows; callers hold mu.
func (s *Server) publish() {
	s.state.ConfigDigest, s.state.MissingBlobs = "", nil
	if n := len(s.configs); n > 0 {
		last := &s.configs[n-1]
		s.state.ConfigDigest = last.Digest()
		for _, b := range last.Blobs() {
			if !s.complete(b.Digest) {
				s.state.MissingBlobs = append(s.state.MissingBlobs, b)
			}
		}
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Server) find(digest string) (agent.Blob, bool) {
	if n := len(s.configs); n > 0 {
		for _, b := range s.configs[n-1].Blobs() {
			if b.Digest == digest {
				return b, true
			}
		}
	}
	return agent.Blob{}, false
}

func (s *Server) complete(digest string) bool {
	sum := sha256.Sum256(s.blobs[digest])
	return digest == "sha256:"+hex.EncodeToString(sum[:])
}

// backend keeps the protocol's methods off the Server's own.
type backend struct{ s *Server }

func (b backend) Apply(_ context.Context, c *agent.Config) error {
	s := b.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return s.refuse
	}
	if err := c.Validate(); err != nil {
		return err
	}
	s.configs = append(s.configs, *c)
	s.state = clone(s.state)
	s.publish()
	return nil
}

func (b backend) Renew(_ context.Context, c agent.ServerCredentials) error {
	s := b.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuseRenewal != nil {
		return s.refuseRenewal
	}
	if err := s.identity.Replace(c); err != nil {
		return err
	}
	s.state = clone(s.state)
	s.state.Credentials = s.identity.Digest()
	s.publish()
	return nil
}

func (b backend) Observe() (agent.State, <-chan struct{}) {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	return b.s.state, b.s.changed
}

func (b backend) BlobOffset(digest string) (int64, bool, error) {
	s := b.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.find(digest); !known {
		return 0, false, agent.ErrUnknownBlob
	}
	return int64(len(s.blobs[digest])), s.complete(digest), nil
}

func (b backend) WriteBlob(ctx context.Context, digest string, offset int64, r io.Reader) error {
	s := b.s
	s.mu.Lock()
	blob, known := s.find(digest)
	here := int64(len(s.blobs[digest]))
	s.mu.Unlock()
	switch {
	case !known:
		return agent.ErrUnknownBlob
	case offset != here:
		return fmt.Errorf("%w: %d bytes are here", agent.ErrOffset, here)
	}
	r, err := s.upload(ctx, digest, r)
	if err != nil {
		return err
	}
	raw, readErr := io.ReadAll(io.LimitReader(r, blob.Size-offset+1))
	s.mu.Lock()
	defer s.mu.Unlock()
	if int64(len(s.blobs[digest])) != here {
		return agent.ErrOffset
	}
	s.blobs[digest] = append(s.blobs[digest], raw...)
	have := int64(len(s.blobs[digest]))
	if readErr != nil {
		return readErr
	}
	if have < blob.Size {
		return io.ErrUnexpectedEOF
	}
	if have > blob.Size || !s.complete(digest) {
		delete(s.blobs, digest)
		return agent.ErrDigest
	}
	s.state = clone(s.state)
	s.publish()
	return nil
}

func (b backend) DialTarget(ctx context.Context, address netip.AddrPort) (net.Conn, error) {
	b.s.mu.Lock()
	declared := false
	if n := len(b.s.configs); n > 0 {
		for _, m := range b.s.configs[n-1].Machines {
			declared = declared || m.Address == address.Addr()
		}
	}
	b.s.mu.Unlock()
	if !declared {
		return nil, fmt.Errorf("%w: %s", agent.ErrNoTarget, address)
	}
	conn, err := b.s.dial(ctx, address)
	if err != nil && !errors.Is(err, agent.ErrUnreachable) {
		err = fmt.Errorf("%w: %w", agent.ErrUnreachable, err)
	}
	return conn, err
}
