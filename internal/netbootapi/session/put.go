// SPDX-License-Identifier: Apache-2.0

package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

const (
	// putters is how many requests for entries are made at a time.
	putters = 4
	// retryEvery is the pause after a failure, doubled by each that follows. It is
	// short because the whole lab waits for the first response of a booting guest, and
	// a refused attempt costs nothing.
	retryEvery = time.Second
	// maxPutPause limits the pause between failed requests of one item.
	maxPutPause = 30 * time.Second
	// shownWithin is how long after its acceptance netbootd should report an entry:
	// at the next heartbeat at the latest.
	shownWithin = 25 * time.Second
	// maxLacking is how many requests in a row may lack content that was uploaded for
	// them: netbootd may have deleted some of it meanwhile.
	maxLacking = 2
)

// request is one request for an item and the circumstances in which it was made.
type request struct {
	item       *item
	op         operation
	desired    *desired
	base       base
	generation int
}

// put makes the requests that are due, one at a time, until ctx ends.
func (l *link) put(ctx context.Context) {
	for {
		r, ok := l.server.nextRequest(ctx)
		if !ok {
			return
		}
		err := l.send(ctx, r)
		if ctx.Err() != nil {
			return
		}
		l.server.answered(l, r, err)
	}
}

func (l *link) send(ctx context.Context, r request) error {
	switch {
	case r.op == opDelete:
		return l.client.DeleteMachine(ctx, r.item.uid)
	case r.item.uid == "":
		return l.client.PutServer(ctx, r.desired.entry.Content)
	case r.op == opPutControl:
		return l.client.PutMachine(ctx, r.item.uid, netbootapi.Entry{Control: r.desired.entry.Control})
	}
	return l.client.PutMachine(ctx, r.item.uid, r.desired.entry)
}

// check queues the request of an item if one is due and nothing has to be awaited.
func (s *server) check(i *item) {
	op := i.due()
	if op == opNone && i.desired != nil {
		i.reset()
	}
	if op == opNone || !s.connected || i.busy || i.queued || i.timer != nil || i.refused || len(i.waits) > 0 {
		return
	}
	i.queued = true
	if i != s.config {
		s.queue = append(s.queue, i)
	}
	s.wake.Broadcast()
}

// nextRequest blocks until a request may be made. It returns false when ctx ends.
func (s *server) nextRequest(ctx context.Context) (request, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ctx.Err() == nil {
		i := s.pop()
		if i == nil {
			s.wake.Wait()
			continue
		}
		op := i.due()
		if op == opNone {
			continue
		}
		i.busy = true
		return request{i, op, i.desired, s.base, s.generation}, true
	}
	return request{}, false
}

// pop returns the next item with a request that is due. The machines wait for the
// server's config, unless it fails and netbootd has another one.
func (s *server) pop() *item {
	if !s.connected {
		return nil
	}
	if s.config.queued {
		s.config.queued = false
		return s.config
	}
	if s.config.busy || s.config.have().content == "" || len(s.queue) == 0 {
		return nil
	}
	i := s.queue[0]
	s.queue = s.queue[1:]
	i.queued = false
	return i
}

// answered records how a request ended.
func (s *server) answered(l *link, r request, err error) {
	s.mu.Lock()
	if s.link != l {
		s.mu.Unlock()
		return
	}
	i := r.item
	var c changes
	before, served, needed, wants := fmt.Sprint(i.problem()), i.inForce(), len(i.needs), len(s.wants)
	i.busy = false
	switch {
	case err == nil:
		s.accept(r)
	case i.desired != r.desired:
		s.doubt(r, err)
	default:
		s.doubt(r, err)
		s.failed(r, err)
	}
	s.check(i)
	s.prune(i)
	if fmt.Sprint(i.problem()) != before || len(i.needs) != needed || i.inForce() != served {
		c.add(i)
	}
	c.server = c.server || len(s.wants) != wants
	s.wake.Broadcast() // the machines may have waited for the config
	s.mu.Unlock()
	s.report(c)
}

// accept records that netbootd carried out a request.
func (s *server) accept(r request) {
	i := r.item
	had := i.have()
	i.resume()
	i.err = nil
	i.waits = nil
	s.syncNeeds(i)
	i.uncertain = false
	if s.generation != r.generation || !s.connected {
		return // another netbootd may be running, whose State shows what it has
	}
	var a acceptance
	a.at = time.Now()
	if r.op != opDelete {
		a.digests = r.desired.digests
		if r.op == opPutControl || a.content == "" {
			a.content = cmp.Or(had.content, anyContent)
		}
	}
	i.accepted = &a
	s.settle(i, a.at)
	if i == s.config {
		s.rebase()
	}
	s.log.V(1).Info("netbootd accepted a request", "uid", i.uid, "deleted", r.op == opDelete)
}

func (s *server) settle(i *item, now time.Time) {
	i.settle(now)
	if i.accepted != nil {
		s.unshown[i] = true
	} else {
		delete(s.unshown, i)
	}
}

// doubt records that netbootd may have carried out a request that failed.
func (s *server) doubt(r request, err error) {
	var refused *netbootapi.RefusedError
	if r.op != opDelete && !errors.As(err, &refused) && !errors.Is(err, netbootapi.ErrMissing) {
		r.item.uncertain = true
	}
}

// failed records why a request failed, and when it is made again.
func (s *server) failed(r request, err error) {
	i := r.item
	first := i.err == nil
	var missing *netbootapi.MissingError
	switch {
	case errors.As(err, &missing):
		s.lack(i, missing)
		return
	case errors.Is(err, netbootapi.ErrInvalid) && r.base != s.base:
		return // it was judged by another config of the server than that in force
	case errors.Is(err, netbootapi.ErrInvalid):
		i.refused = true
		s.syncNeeds(i)
	case errors.Is(err, netbootapi.ErrFenced):
		i.pause = maxPutPause
		s.delay(i)
	case errors.Is(err, netbootapi.ErrConflict):
		s.endGrace()
		s.delay(i)
	default:
		s.delay(i)
	}
	i.err = err
	if first {
		s.log.Error(err, "netbootd did not accept a request", "uid", i.uid)
	}
}

// lack records that a request needs content first. A netbootd that lacks content again
// after all of it was uploaded is asked at growing intervals. So is one that lacks content
// which is not available here, because it may have it from elsewhere.
func (s *server) lack(i *item, missing *netbootapi.MissingError) {
	i.err = nil
	i.waits = nil
	for _, b := range missing.Blobs {
		if validBlob(b) && len(i.waits) < maxNeeds {
			i.waits = append(i.waits, b)
		}
	}
	s.syncNeeds(i)
	if slices.ContainsFunc(i.waits, i.absent) {
		s.delay(i)
		return
	}
	if i.lacking++; i.lacking > maxLacking || len(i.waits) == 0 {
		i.err = missing
		s.delay(i)
	}
}

// delay makes the request wait for a pause.
func (s *server) delay(i *item) {
	if i.timer != nil {
		i.timer.Stop()
	}
	i.pause = min(max(i.pause, retryEvery), maxPutPause)
	i.timer = s.after(i.pause, &i.timer, func() {
		i.waits = slices.DeleteFunc(i.waits, i.absent)
		s.check(i)
	})
	i.pause *= 2
}

// rebase tries again what was refused if netbootd judges by something else now.
func (s *server) rebase() {
	next := base{s.observed.State.StartedAt, s.config.have().content}
	if next == s.base {
		return
	}
	s.base = next
	for i := range s.items() {
		i.refused = false
	}
	s.resume()
}

// resume ends all pauses.
func (s *server) resume() {
	for i := range s.items() {
		i.resume()
		s.check(i)
	}
	for _, w := range s.wants {
		w.resume()
		s.schedule(w)
	}
}
