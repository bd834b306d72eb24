// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	// maxRenderings is how many files are rendered at a time: each may need tens of
	// megabytes, and seconds of a processor.
	maxRenderings = 2
	// maxInLine bounds the requests of one machine for rendered files that wait or are
	// being answered.
	maxInLine = 4
	// maxExtra bounds those of all machines together, except the first one of each: a
	// machine that makes one request after the other is never refused because of others.
	maxExtra = 256
	// renderWait is how long a request may wait, renderRetry when one that is refused
	// should be repeated.
	renderWait  = 30 * time.Second
	renderRetry = 5 * time.Second
	// textLimit is how long sending a rendered file may take. No other one is rendered for
	// its machine meanwhile.
	textLimit = 20 * time.Second
)

// errBusy is the answer to a request for a rendered file while there are too many.
var errBusy = errors.New("too many files are being rendered; repeat the request later")

// renderings decides when a file is rendered: one at a time for each machine, and
// maxRenderings at a time in all, each machine in its turn. A machine with many requests,
// or with templates that take long, delays another machine by one rendering at most.
type renderings struct {
	// slots has an element for each rendering in progress. The runtime serves the senders
	// that wait in the order of their arrival, of which each machine has one.
	slots chan struct{}

	mu    sync.Mutex
	lines map[string]*renderLine // by UID, of machines with requests
	extra int                    // requests, except the first one of each machine
}

// renderLine is the requests of one machine.
type renderLine struct {
	turn     chan struct{} // has an element while one of them has the turn
	requests int
}

func newRenderings() *renderings {
	return &renderings{slots: make(chan struct{}, maxRenderings), lines: map[string]*renderLine{}}
}

// enter waits until a request has its machine's turn, which leave ends. The error is
// errBusy if it must not wait, or if ctx ends first.
func (q *renderings) enter(ctx context.Context, uid string) (leave func(), err error) {
	line := q.join(uid)
	if line == nil {
		return nil, errBusy
	}
	select {
	case line.turn <- struct{}{}:
		return func() {
			<-line.turn
			q.quit(uid, line)
		}, nil
	case <-ctx.Done():
		q.quit(uid, line)
		return nil, errBusy
	}
}

// join adds a request to those of its machine. It returns nil if there are too many.
func (q *renderings) join(uid string) *renderLine {
	q.mu.Lock()
	defer q.mu.Unlock()
	line := q.lines[uid]
	switch {
	case line == nil:
		line = &renderLine{turn: make(chan struct{}, 1)}
		q.lines[uid] = line
	case line.requests >= maxInLine || q.extra >= maxExtra:
		return nil
	default:
		q.extra++
	}
	line.requests++
	return line
}

func (q *renderings) quit(uid string, line *renderLine) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if line.requests--; line.requests == 0 {
		delete(q.lines, uid)
	} else {
		q.extra--
	}
}

// render calls do, for a request that has its machine's turn, as one of maxRenderings. The
// error is errBusy if ctx ends before.
func (q *renderings) render(ctx context.Context, do func()) error {
	select {
	case q.slots <- struct{}{}:
	case <-ctx.Done():
		return errBusy
	}
	defer func() { <-q.slots }()
	do()
	return nil
}

// inTurn answers the requests of each machine for rendered files one after the other.
func (h *labHandler) inTurn(serve func(*labRequest)) func(*labRequest) {
	return func(r *labRequest) {
		ctx, cancel := context.WithTimeout(r.r.Context(), renderWait)
		defer cancel()
		r.waiting = ctx
		r.lift()
		leave, err := h.renderings.enter(ctx, r.machine.UID)
		if err != nil {
			h.busy(r)
			return
		}
		defer leave()
		r.limit(requestLimit)
		serve(r)
	}
}

// render calls do, which renders a file, when the request may. It reports false if it has
// answered the request, because too many others are being rendered.
func (h *labHandler) render(r *labRequest, do func()) bool {
	r.lift()
	if err := h.renderings.render(r.waiting, do); err != nil {
		h.busy(r)
		return false
	}
	r.limit(textLimit)
	return true
}

// busy answers a request that cannot wait any longer.
func (h *labHandler) busy(r *labRequest) {
	r.limit(textLimit)
	h.state.refuse("HTTPTooManyRenderings")
	r.w.Header().Set("Retry-After", strconv.Itoa(int(renderRetry.Seconds())))
	http.Error(r.w, errBusy.Error(), http.StatusServiceUnavailable)
}

// lift removes the limit for reading a request, which would end it while it waits: its
// wait has a limit of its own.
func (r *labRequest) lift() {
	_ = http.NewResponseController(r.w).SetReadDeadline(time.Time{})
}

// limit bounds the rest of a request.
func (r *labRequest) limit(d time.Duration) {
	control := http.NewResponseController(r.w)
	deadline := time.Now().Add(d)
	_ = control.SetReadDeadline(deadline)
	_ = control.SetWriteDeadline(deadline)
}
