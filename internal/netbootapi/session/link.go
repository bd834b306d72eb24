// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// link is the session with the netbootd of a server at one address.
type link struct {
	server  *server
	address string
	trust   netbootapi.Trust
	client  *netbootapi.Client
	cancel  context.CancelFunc
	renewal chan struct{} // wakes renew
}

// run runs the session until ctx ends.
func (l *link) run(ctx context.Context) {
	s := l.server
	var wg sync.WaitGroup
	work := []func(context.Context){l.watch, l.renew}
	for range putters {
		work = append(work, l.put)
	}
	for n := range s.lanes {
		work = append(work, func(ctx context.Context) { l.uploads(ctx, &s.lanes[n]) })
	}
	if s.options.Event != nil {
		work = append(work, l.readEvents)
	}
	for _, f := range work {
		wg.Go(func() { f(ctx) })
	}
	<-ctx.Done()
	s.mu.Lock()
	s.wake.Broadcast()
	s.mu.Unlock()
	wg.Wait()
	l.client.Close()
}

func (s *server) isConnectedTo(address string, trust netbootapi.Trust) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.link != nil && s.link.address == address && reflect.DeepEqual(s.link.trust, trust)
}

// setLink replaces the link, before the new one runs.
func (s *server) setLink(l *link) changes {
	s.mu.Lock()
	defer s.mu.Unlock()
	var c changes
	if s.link != nil {
		s.link.cancel()
		if s.connected {
			c = s.disconnect()
		}
	}
	s.link = l
	s.renewErr = nil
	s.queue = nil
	for i := range s.items() {
		i.uncertain = i.uncertain || i.busy
		i.busy = false
		i.queued = false
	}
	s.restartUploads()
	return c
}

// disconnect records the end of a connection. What was accepted before it is in the
// first State of the next one.
func (s *server) disconnect() changes {
	s.connected = false
	for i := range s.items() {
		i.accepted = nil
	}
	clear(s.unshown)
	return changes{server: true, machines: s.uids()}
}

// watch receives netbootd's state, and reconnects, until ctx ends.
func (l *link) watch(ctx context.Context) {
	s := l.server
	for ctx.Err() == nil {
		s.mu.Lock()
		after := s.observed.Position
		s.mu.Unlock()
		err := l.client.Watch(ctx, after, l.observed)
		if ctx.Err() != nil {
			return // the session has ended
		}
		l.disconnected(err)
		pause(ctx, retryEvery)
	}
}

// errReplaced ends the stream of a link that was replaced.
var errReplaced = errors.New("the session was replaced")

// observed applies an Update.
func (l *link) observed(u netbootapi.Update) error {
	s := l.server
	s.mu.Lock()
	if s.link != l {
		s.mu.Unlock()
		return errReplaced
	}
	if err := s.observed.Apply(u); err != nil {
		s.observed.Position = netbootapi.Position{} // the next connection starts with the whole state
		s.mu.Unlock()
		return err
	}
	c := s.apply(u)
	if !s.connected {
		c = s.connect()
	}
	if u.Server != nil {
		s.rebase()
	}
	s.mu.Unlock()
	nudge(l.renewal)
	s.report(c)
	return nil
}

// apply records what an Update shows of each item.
func (s *server) apply(u netbootapi.Update) changes {
	now := time.Now()
	var c changes
	if u.Server != nil {
		c.server = true
		s.config.shown.content = u.Server.Server
		s.config.lost = u.Server.MissingBlobs
		s.shown(s.config, now)
	}
	if u.Snapshot {
		for uid, i := range s.machines {
			if _, has := u.Machines[uid]; !has && i.state != nil {
				s.setState(i, nil, now)
				c.add(i)
			}
		}
	}
	for uid, state := range u.Machines {
		if i := s.machines[uid]; state != nil || i != nil {
			s.setState(s.item(uid), state, now)
			c.machines = append(c.machines, uid)
		}
	}
	for i := range s.unshown {
		s.settle(i, now)
		s.check(i)
	}
	return c
}

func (s *server) setState(i *item, state *netbootapi.MachineState, now time.Time) {
	i.state = state
	i.shown, i.lost = digests{}, nil
	if state != nil {
		i.shown = digests{state.Content, state.Control}
		i.lost = state.MissingBlobs
	}
	s.shown(i, now)
	s.watchOrphan(i)
	s.prune(i)
}

// shown acts on what netbootd shows of an item.
func (s *server) shown(i *item, now time.Time) {
	i.arrived = nil
	if !i.stocks() {
		i.stock = nil
	}
	s.settle(i, now)
	s.dropKept(i)
	s.check(i)
	s.syncNeeds(i)
}

// connect records that a connection is established.
func (s *server) connect() changes {
	s.log.Info("netbootd is connected", "version", s.observed.State.Version)
	s.connected = true
	s.generation++
	s.err = nil
	s.untrusted = false
	for i := range s.items() {
		i.waits = nil // the next answer has what this netbootd lacks
		if i.stocks() {
			i.stock = nil
			s.syncNeeds(i)
		}
	}
	s.rebase()
	s.resume()
	c := changes{server: true, machines: s.uids()}
	for _, i := range s.machines {
		s.prune(i)
	}
	s.wake.Broadcast()
	return c
}

func (l *link) disconnected(err error) {
	s := l.server
	s.mu.Lock()
	if s.link != l {
		s.mu.Unlock()
		return
	}
	var c changes
	c.server = s.err == nil || failureOf(s.err) != failureOf(err) // only a transition is reported
	if s.connected {
		s.log.Info("netbootd is disconnected", "error", err.Error())
		c = s.disconnect()
	}
	s.err = err
	s.untrusted = netbootapi.IsUntrusted(err)
	s.mu.Unlock()
	s.report(c)
}

// failure is what is distinguished of errors of a connection: a netbootd that is
// unreachable, hangs, is not trusted, or has another API, which a restart replaces.
type failure struct{ silent, untrusted, otherVersion bool }

func failureOf(err error) failure {
	return failure{
		silent:       errors.Is(err, netbootapi.ErrSilent),
		untrusted:    netbootapi.IsUntrusted(err),
		otherVersion: errors.Is(err, netbootapi.ErrVersion),
	}
}

// nudge wakes the receiver of c, which has capacity 1, without blocking.
func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// wait reports false when ctx ends before c is nudged.
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
