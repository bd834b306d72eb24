// SPDX-License-Identifier: Apache-2.0

// Package session keeps the manager connected to every netbootd: it pushes the
// document that is wanted, sends the content it names, and keeps the last
// state that was observed. It decides nothing: what is wanted comes from
// above, and what was observed is handed up whole.
package session

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/agent"
)

// retryEvery is the pause between attempts. A guest that boots is asked so
// often because its first answer is what the whole lab waits for; an attempt
// that is refused costs nothing.
const retryEvery = time.Second

// maxUploadPause bounds the pause between failed uploads, which doubles each
// time: every attempt may cost the whole content.
const maxUploadPause = time.Minute

// settling is how long a Hub is new: a manager that has just started knows its
// servers a moment later.
const settling = 10 * time.Second

// tellEvery is how often the progress of an upload is told.
const tellEvery = time.Second

// Observation is what is known of one server's netbootd.
type Observation struct {
	// Connected tells whether State is current.
	Connected bool
	// State is the last that was received, also after the connection was lost.
	State agent.State
	// Error is why the last attempt failed; nil while connected.
	Error error
	// WantedDigest names the document last given to Push.
	WantedDigest string
	// PushError is why netbootd refused the document; nil when it took it.
	PushError error
	// Upload is the content on its way; nil when there is none.
	Upload *Upload
	// Untrusted tells that netbootd answers and one side does not accept the
	// other's certificate.
	Untrusted bool
	// RenewError is why netbootd did not take the successors of its credentials.
	RenewError error
}

// Upload is content on its way to the server.
type Upload struct {
	Blob agent.Blob
	Done int64
	// Error is why the last attempt failed.
	Error error
}

// Options of a Hub.
type Options struct {
	Log logr.Logger
	// Changed is called when something was observed: server names the session,
	// machines the UIDs of the machines whose state differs from before, or of
	// all when what changed concerns them all: the connection, the document in
	// force, the content that is there. It must not block.
	Changed func(server string, machines []string)
	// Now is the clock that certificates are judged by; nil is time.Now.
	Now func() time.Time
	// Patience is how long a netbootd may say nothing until it counts as hung;
	// zero for [agent.Client]'s default.
	Patience time.Duration
}

// Hub holds the sessions, by server. It is safe for concurrent use.
type Hub struct {
	options Options
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	settled time.Time // when the Hub is no longer new

	mu       sync.Mutex
	sessions map[string]*session
	more     chan struct{} // closed at the next session
}

// NewHub makes a Hub without sessions. Close it.
func NewHub(o Options) *Hub {
	if o.Now == nil {
		o.Now = time.Now
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Hub{
		options: o, ctx: ctx, cancel: cancel, settled: time.Now().Add(settling),
		sessions: map[string]*session{}, more: make(chan struct{}),
	}
}

// Close ends all sessions and waits for them.
func (h *Hub) Close() {
	h.cancel()
	h.wg.Wait()
}

// Connect makes sure that there is a session with the server at address. A
// session with another address or other credentials is replaced; what was
// observed stays. The successors of credentials, where there are any, are sent
// to a netbootd that does not serve with them.
func (h *Hub) Connect(server, address string, trust agent.Trust) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.sessions[server]
	if old != nil && old.address == address && reflect.DeepEqual(old.trust, trust) {
		return nil
	}
	tlsConfig, err := trust.ClientTLS(h.options.Now)
	if err != nil {
		return fmt.Errorf("credentials for netbootd: %w", err)
	}
	client, err := agent.New(agent.ClientOptions{Address: address, TLS: tlsConfig, Patience: h.options.Patience})
	if err != nil {
		return err
	}
	s := &session{
		id: server, address: address, trust: trust, client: client,
		log:     h.options.Log.WithValues("agent", address),
		changed: h.options.Changed,
		work:    make(chan struct{}, 1), upload: make(chan struct{}, 1), renewal: make(chan struct{}, 1),
	}
	if old != nil {
		old.cancel()
		s.inherit(old)
	}
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(h.ctx)
	h.sessions[server] = s
	close(h.more)
	h.more = make(chan struct{})
	h.wg.Go(func() { s.run(ctx) })
	return nil
}

// Push makes config what the server is to have. content maps the digests that
// it names to files. Pushing the same again does nothing. Without a session it
// does nothing.
func (h *Hub) Push(server string, config *agent.Config, content map[string]string) {
	s := h.session(server)
	if s == nil {
		return
	}
	digest := config.Digest()
	s.mu.Lock()
	s.content = content
	same := s.seen.WantedDigest == digest
	if !same {
		s.config = config
		s.seen.WantedDigest = digest
		s.seen.PushError = nil
	}
	s.mu.Unlock()
	if !same {
		nudge(s.work)
	}
	nudge(s.upload)
}

// Observe tells what is known; the zero Observation for an unknown server.
func (h *Hub) Observe(server string) Observation {
	s := h.session(server)
	if s == nil {
		return Observation{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

// Dial connects to a machine of the lab network through the server. A new Hub
// waits for a session with that server first.
func (h *Hub) Dial(ctx context.Context, server string, address netip.AddrPort) (net.Conn, error) {
	waiting, cancel := context.WithDeadline(ctx, h.settled)
	defer cancel()
	for {
		h.mu.Lock()
		s, more := h.sessions[server], h.more
		h.mu.Unlock()
		if s != nil {
			return s.client.DialTarget(ctx, address)
		}
		select {
		case <-more:
		case <-waiting.Done():
			return nil, errNotConnected
		}
	}
}

var errNotConnected = errors.New("the provisioning server is not connected")

// Remove ends the session with a server and forgets what was observed.
func (h *Hub) Remove(server string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.sessions[server]; s != nil {
		s.cancel()
		delete(h.sessions, server)
	}
}

func (h *Hub) session(server string) *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions[server]
}

// session is the connection to one netbootd.
type session struct {
	id      string
	address string
	trust   agent.Trust
	client  *agent.Client
	log     logr.Logger
	changed func(string, []string)
	cancel  context.CancelFunc
	work    chan struct{} // there may be something to push
	upload  chan struct{} // there may be something to send
	renewal chan struct{} // netbootd may lack the successors of its credentials

	mu      sync.Mutex
	seen    Observation
	config  *agent.Config
	content map[string]string
	// pushed is the document that the netbootd started at pushedTo took and
	// has not shown in a State yet: States from before it may be on their way.
	pushed   string
	pushedTo time.Time
}

// run does the session's work until ctx ends.
func (s *session) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, work := range []func(context.Context){s.watch, s.push, s.send, s.renew} {
		wg.Go(func() { work(ctx) })
	}
	wg.Wait()
	s.client.Close()
}

func (s *session) inherit(old *session) {
	old.mu.Lock()
	defer old.mu.Unlock()
	s.seen, s.config, s.content = old.seen, old.config, old.content
	s.seen.Connected, s.seen.Upload, s.seen.RenewError = false, nil, nil
}

// watch follows netbootd's state for as long as the session lasts.
func (s *session) watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := s.client.Watch(ctx, s.observed)
		if ctx.Err() != nil {
			return // nobody asks a session that was ended
		}
		s.disconnected(err)
		pause(ctx, retryEvery)
	}
}

func (s *session) observed(state agent.State) {
	s.mu.Lock()
	old := s.seen.State
	machines := differing(old.Machines, state.Machines)
	if !s.seen.Connected {
		s.log.Info("netbootd is connected", "version", state.Version)
	}
	if !s.seen.Connected || old.ConfigDigest != state.ConfigDigest || !slices.Equal(old.MissingBlobs, state.MissingBlobs) {
		machines = slices.Collect(maps.Keys(state.Machines))
	}
	s.seen.State, s.seen.Connected, s.seen.Error, s.seen.Untrusted = state, true, nil, false
	if state.ConfigDigest == s.seen.WantedDigest {
		s.seen.PushError = nil
	}
	if state.ConfigDigest == s.pushed || !state.StartedAt.Equal(s.pushedTo) {
		s.pushed = ""
	}
	s.mu.Unlock()
	nudge(s.work)
	nudge(s.upload)
	nudge(s.renewal)
	s.changed(s.id, machines)
}

func (s *session) disconnected(err error) {
	s.mu.Lock()
	was := s.seen.Connected
	// A server that is gone and one that hangs are different
	// news, as is one that is not trusted any more.
	news := was || s.seen.Error == nil || errors.Is(s.seen.Error, agent.ErrSilent) != errors.Is(err, agent.ErrSilent)
	var machines []string
	if was {
		s.log.Info("netbootd is gone", "error", err.Error())
		machines = differing(s.seen.State.Machines, nil)
	}
	untrusted := agent.IsUntrusted(err)
	news = news || untrusted != s.seen.Untrusted
	s.seen.Connected, s.seen.Error, s.seen.Untrusted = false, err, untrusted
	s.mu.Unlock()
	if news {
		s.changed(s.id, machines)
	}
}

// differing lists the machines whose state differs.
func differing(before, after map[string]agent.MachineState) []string {
	var out []string
	for uid, state := range after {
		if old, ok := before[uid]; !ok || !reflect.DeepEqual(old, state) {
			out = append(out, uid)
		}
	}
	for uid := range before {
		if _, ok := after[uid]; !ok {
			out = append(out, uid)
		}
	}
	return out
}

// push brings netbootd's document to what is wanted.
func (s *session) push(ctx context.Context) {
	for wait(ctx, s.work) {
		config, wanted, needed := s.toPush()
		if !needed {
			continue
		}
		_, err := s.client.PushConfig(ctx, config)
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		if err == nil {
			s.pushed, s.pushedTo = wanted, s.seen.State.StartedAt
		}
		again := s.seen.WantedDigest != wanted
		if !again {
			s.seen.PushError = err
		}
		s.mu.Unlock()
		if err != nil {
			s.log.Error(err, "Pushing the configuration failed")
			s.changed(s.id, s.machines())
			if !again {
				pause(ctx, retryEvery)
			}
			again = true
		}
		if again {
			nudge(s.work)
		}
	}
}

func (s *session) machines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.seen.State.Machines))
}

func (s *session) toPush() (config *agent.Config, wanted string, needed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted = s.seen.WantedDigest
	needed = s.seen.Connected && s.config != nil && s.seen.State.ConfigDigest != wanted &&
		s.pushed != wanted && !errors.Is(s.seen.PushError, agent.ErrInvalid)
	return s.config, wanted, needed
}

// send uploads the content that netbootd misses, one piece at a time. A piece
// that failed waits for the others.
func (s *session) send(ctx context.Context) {
	retry, failed := retryEvery, ""
	for wait(ctx, s.upload) {
		blob, path, ok := s.nextMissing(failed)
		if !ok {
			continue
		}
		err := s.sendBlob(ctx, blob, path)
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		if err == nil {
			s.seen.Upload = nil
			s.arrived(blob)
		} else {
			s.seen.Upload = &Upload{Blob: blob, Done: s.seen.Upload.Done, Error: err}
		}
		s.mu.Unlock()
		s.changed(s.id, s.machines())
		if err == nil {
			retry = retryEvery
		} else {
			failed = blob.Digest
			s.log.Error(err, "Sending content failed", "retryIn", retry)
			pause(ctx, retry)
			retry = min(2*retry, maxUploadPause)
		}
		nudge(s.upload)
	}
}

// arrived takes blob off the missing ones without waiting for the next state.
// The slice is shared with who observed it, so it is replaced.
func (s *session) arrived(blob agent.Blob) {
	var missing []agent.Blob
	for _, b := range s.seen.State.MissingBlobs {
		if b != blob {
			missing = append(missing, b)
		}
	}
	s.seen.State.MissingBlobs = missing
}

// nextMissing is what to send next: last is sent when nothing else is missing.
func (s *session) nextMissing(last string) (next agent.Blob, path string, found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.seen.Connected {
		return agent.Blob{}, "", false
	}
	for _, blob := range s.seen.State.MissingBlobs {
		here, ok := s.content[blob.Digest]
		if !ok || (found && blob.Digest == last) {
			continue
		}
		next, path, found = blob, here, true
		if blob.Digest != last {
			break
		}
	}
	switch {
	case !found:
		s.seen.Upload = nil
	// The error of the last attempt is shown until this one gets on.
	case s.seen.Upload == nil || s.seen.Upload.Blob != next:
		s.seen.Upload = &Upload{Blob: next}
	}
	return next, path, found
}

func (s *session) sendBlob(ctx context.Context, blob agent.Blob, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening %s: %w", blob.Digest, err)
	}
	defer file.Close()
	var told time.Time
	first := int64(-1) // what was there before this attempt
	return s.client.UploadBlob(ctx, blob, file, func(done int64) {
		if first < 0 {
			first = done
		}
		now := time.Now()
		if done == first || now.Sub(told) < tellEvery {
			return
		}
		told = now
		s.mu.Lock()
		s.seen.Upload = &Upload{Blob: blob, Done: done}
		s.mu.Unlock()
		s.changed(s.id, nil)
	})
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func wait(ctx context.Context, c chan struct{}) bool {
	select {
	case <-ctx.Done():
		return false
	case <-c:
		return true
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
