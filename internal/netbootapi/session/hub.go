// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

const (
	// settling is how long Dial on a new Hub waits for a session: a manager that has
	// just started connects to its servers a moment later.
	settling = 10 * time.Second
	// orphanGrace is the default of Options.OrphanGrace.
	orphanGrace = time.Minute
)

// Options of a Hub.
type Options struct {
	Log logr.Logger
	// ServerChanged is called after a change of a server's Observation, at most once
	// a second for the progress of an upload. nil calls nothing.
	ServerChanged func(server string)
	// MachinesChanged is called after a change of the Machine of these UIDs, every
	// five seconds for the progress of an upload. nil calls nothing.
	//
	// The callbacks, Event included, are called concurrently, may call the Hub's
	// methods other than Close, and must not block.
	MachinesChanged func(uids []string)
	// Event is called with each event of a netbootd, in order. lost is how many
	// before it were lost. nil reads no events.
	Event func(server string, e netbootapi.Event, lost uint64)
	// Now is the clock for the validity of certificates; nil means time.Now.
	Now func() time.Time
	// Patience is how long a netbootd may be silent before it counts as hung;
	// zero for the default of [netbootapi.Client].
	Patience time.Duration
	// Epoch is that of the manager; see [netbootapi.ClientOptions].
	Epoch int64
	// OrphanGrace is how long netbootd may have a machine of which nothing is
	// desired before Retain deletes it; zero for a minute.
	OrphanGrace time.Duration
}

// Hub holds the desired and the observed state of each server, and its session once it
// is connected. It is safe for concurrent use. Its methods do not block, except Dial,
// Metrics and Close.
type Hub struct {
	options Options
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	settled time.Time // until when Dial waits for a session

	mu      sync.Mutex
	servers map[string]*server
	more    chan struct{} // closed when the next session is added
}

// NewHub returns a Hub without sessions. The caller must Close it.
func NewHub(o Options) *Hub {
	if o.ServerChanged == nil {
		o.ServerChanged = func(string) {}
	}
	if o.MachinesChanged == nil {
		o.MachinesChanged = func([]string) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.OrphanGrace <= 0 {
		o.OrphanGrace = orphanGrace
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Hub{
		options: o, ctx: ctx, cancel: cancel, settled: time.Now().Add(settling),
		servers: map[string]*server{}, more: make(chan struct{}),
	}
}

// Close ends all sessions and waits for them.
func (h *Hub) Close() {
	h.cancel()
	h.wg.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.servers {
		s.close()
	}
}

// Connect ensures that there is a session with the server at address. It is
// idempotent. A session with another address or other credentials is replaced; the
// desired and the observed state are kept. If trust has successors, they are sent to a
// netbootd that does not serve with them.
func (h *Hub) Connect(server, address string, trust netbootapi.Trust) error {
	if s := h.find(server); s != nil && s.isConnectedTo(address, trust) {
		return nil
	}
	tlsConfig, err := trust.ClientTLS(h.options.Now)
	if err != nil {
		return fmt.Errorf("credentials for netbootd: %w", err)
	}
	client, err := netbootapi.New(netbootapi.ClientOptions{
		Address: address, TLS: tlsConfig, Patience: h.options.Patience, Epoch: h.options.Epoch,
	})
	if err != nil {
		return err
	}
	h.start(server, &link{address: address, trust: trust, client: client, renewal: make(chan struct{}, 1)})
	return nil
}

// start runs a link and ends the previous one of its server.
func (h *Hub) start(name string, l *link) {
	var ctx context.Context
	ctx, l.cancel = context.WithCancel(h.ctx)
	h.mu.Lock()
	s := h.ensure(name)
	l.server = s
	c := s.setLink(l)
	close(h.more)
	h.more = make(chan struct{})
	h.mu.Unlock()
	h.wg.Go(func() { l.run(ctx) })
	s.report(c)
}

// PutServer sets the server's desired config. files has the path of each program by
// digest. It is idempotent and works before Connect.
func (h *Hub) PutServer(server string, config netbootapi.ServerConfig, files map[string]string) {
	h.server(server).putConfig(config, files)
}

// PutMachine sets the desired entry of a machine. It is idempotent, cheap if nothing
// changed, and works before Connect. Nothing of d may be modified afterwards.
func (h *Hub) PutMachine(server, uid string, d Desired) {
	h.server(server).putMachine(uid, d)
}

// DeleteMachine makes netbootd forget a machine: it is repeated for as long as netbootd
// reports the machine, until the next PutMachine of it.
func (h *Hub) DeleteMachine(server, uid string) {
	if s := h.find(server); s != nil {
		s.deleteMachine(uid)
	}
}

// Forget makes nothing desired of a machine whose object is gone, although DeleteMachine
// was not called: Retain then deletes it.
func (h *Hub) Forget(uid string) {
	for _, s := range h.all() {
		s.forgetMachine(uid)
	}
}

// Retain sets the machines that exist. Other machines of the server's netbootd, of which
// nothing was desired for Options.OrphanGrace, are deleted; none are before the first
// Retain.
func (h *Hub) Retain(server string, uids []string) {
	h.server(server).retain(uids)
}

// Observe returns the last observation of server, or the zero Observation if it is
// unknown.
func (h *Hub) Observe(server string) Observation {
	if s := h.find(server); s != nil {
		return s.observe()
	}
	return Observation{}
}

// ObserveMachine returns what is known of a machine at server, or the zero Machine if
// one of them is unknown.
func (h *Hub) ObserveMachine(server, uid string) Machine {
	if s := h.find(server); s != nil {
		return s.observeMachine(uid)
	}
	return Machine{}
}

// Content returns the digests, sorted, of the files that a server may still need from
// this manager: those of all desired entries, because a server can lose them, and those
// of content that a server keeps during an installation.
func (h *Hub) Content() []string {
	digests := map[string]bool{}
	for _, s := range h.all() {
		s.addContent(digests)
	}
	return slices.Sorted(maps.Keys(digests))
}

// Dial connects to a machine of the lab network through the server. In the first
// 10 s of the Hub it waits for a session with that server.
func (h *Hub) Dial(ctx context.Context, server string, address netip.AddrPort) (net.Conn, error) {
	waiting, cancel := context.WithDeadline(ctx, h.settled)
	defer cancel()
	for {
		h.mu.Lock()
		s, more := h.servers[server], h.more
		h.mu.Unlock()
		if s != nil {
			if client := s.client(); client != nil {
				return client.DialTarget(ctx, address)
			}
		}
		select {
		case <-more:
		case <-waiting.Done():
			return nil, errNotConnected
		}
	}
}

// Metrics fetches the metrics of a server's netbootd, until ctx ends or the Hub is
// closed.
func (h *Hub) Metrics(ctx context.Context, server string) (netbootapi.Metrics, error) {
	s := h.find(server)
	if s == nil {
		return netbootapi.Metrics{}, errNotConnected
	}
	client := s.client()
	if client == nil {
		return netbootapi.Metrics{}, errNotConnected
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.ctx, cancel)()
	return client.Metrics(ctx)
}

var errNotConnected = errors.New("the provisioning server is not connected")

// Remove ends the session with a server and discards what is desired and observed of
// it.
func (h *Hub) Remove(server string) {
	h.mu.Lock()
	s := h.servers[server]
	delete(h.servers, server)
	h.mu.Unlock()
	if s != nil {
		s.close()
	}
}

func (h *Hub) find(name string) *server {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.servers[name]
}

func (h *Hub) all() []*server {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Values(h.servers))
}

// server returns the server, which it creates if it is unknown.
func (h *Hub) server(name string) *server {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ensure(name)
}

// ensure is server for a caller that holds the lock.
func (h *Hub) ensure(name string) *server {
	s := h.servers[name]
	if s == nil {
		s = newServer(name, &h.options)
		h.servers[name] = s
	}
	return s
}
