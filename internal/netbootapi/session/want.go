// SPDX-License-Identifier: Apache-2.0

package session

import (
	"cmp"
	"container/heap"
	"context"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// want is a blob that netbootd lacks. The lock of its server protects it.
type want struct {
	blob    netbootapi.Blob
	needers map[*item]bool
	program bool // a program of the server
	lane    *lane
	large   bool
	index   int // in the lane's queue, -1 if it is not in it

	sending bool
	abandon context.CancelFunc // ends the upload
	done    int64
	err     error
	failed  bool // the last attempt did
	timer   *time.Timer
	pause   time.Duration
	// published is when the machines' observers were called for the progress.
	published time.Time
}

// source returns where the content is.
func (w *want) source() (source, bool) {
	for i := range w.needers {
		if found, ok := i.source(w.blob.Digest); ok {
			return found, true
		}
	}
	return source{}, false
}

// resume ends the pause.
func (w *want) resume() {
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	w.pause = 0
}

func (w *want) upload() *Upload { return &Upload{Blob: w.blob, Done: w.done, Error: w.err} }

// wantQueue is a heap: the server's programs first, then the smallest; those that failed
// after all others.
type wantQueue []*want

func (q wantQueue) Len() int { return len(q) }

func (q wantQueue) Less(a, b int) bool {
	return cmp.Or(
		order(q[a].failed, q[b].failed),
		order(q[b].program, q[a].program),
		cmp.Compare(q[a].blob.Size, q[b].blob.Size),
		cmp.Compare(q[a].blob.Digest, q[b].blob.Digest),
	) < 0
}

// order puts false before true.
func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func (q wantQueue) Swap(a, b int) {
	q[a], q[b] = q[b], q[a]
	q[a].index = a
	q[b].index = b
}

// Push implements heap.Interface.
func (q *wantQueue) Push(x any) {
	w := x.(*want)
	w.index = len(*q)
	*q = append(*q, w)
}

// Pop implements heap.Interface.
func (q *wantQueue) Pop() any {
	last := len(*q) - 1
	w := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	w.index = -1
	return w
}

// syncNeeds makes the wants of an item those blobs that netbootd lacks for it.
func (s *server) syncNeeds(i *item) {
	missing := i.missing()
	if len(missing) == 0 && len(i.needs) == 0 {
		return
	}
	needed := map[string]bool{}
	for _, b := range missing {
		needed[b.Digest] = true
	}
	for digest, w := range i.needs {
		if !needed[digest] {
			s.release(i, w)
		}
	}
	for _, b := range missing {
		w := i.needs[b.Digest]
		if w == nil {
			w = s.need(i, b)
		}
		s.schedule(w)
	}
}

// keepNeeds keeps, until the next answer, the wants of an item that it may still need: an
// edit must not interrupt the upload of an image.
func (s *server) keepNeeds(i *item) {
	if i.due() == opNone {
		s.syncNeeds(i)
		return
	}
	for digest, w := range i.needs {
		if _, ok := i.source(digest); !ok {
			s.release(i, w)
		}
	}
}

// need adds an item to those that need a blob.
func (s *server) need(i *item, b netbootapi.Blob) *want {
	w := s.wants[b.Digest]
	if w == nil {
		w = &want{blob: b, needers: map[*item]bool{}, index: -1, lane: &s.lanes[laneSmall]}
		if w.large = b.Size > smallBlob && !b.IsText(); w.large {
			w.lane = &s.lanes[laneLarge]
		}
		s.wants[b.Digest] = w
	}
	w.needers[i] = true
	if i.needs == nil {
		i.needs = map[string]*want{}
	}
	i.needs[b.Digest] = w
	if i == s.config && !w.program {
		w.program = true
		if w.index >= 0 {
			heap.Fix(&w.lane.queue, w.index)
		}
	}
	return w
}

// release removes an item from those that need a blob; without any, it is not sent.
func (s *server) release(i *item, w *want) {
	delete(i.needs, w.blob.Digest)
	delete(w.needers, i)
	switch {
	case len(w.needers) > 0:
	case w.sending:
		w.abandon()
	default:
		s.forget(w)
	}
}

// forget removes a want that is not being sent.
func (s *server) forget(w *want) {
	delete(s.wants, w.blob.Digest)
	w.resume()
	if w.index >= 0 {
		heap.Remove(&w.lane.queue, w.index)
	}
	if w.lane.failed == w {
		w.lane.failed = nil
	}
}

// schedule queues a want that may be sent now.
func (s *server) schedule(w *want) {
	_, available := w.source()
	if w.index < 0 && !w.sending && w.timer == nil && available {
		heap.Push(&w.lane.queue, w)
		s.wake.Broadcast()
	}
}

// upload returns the upload that Observation reports.
func (s *server) upload() *Upload {
	large, small := &s.lanes[laneLarge], &s.lanes[laneSmall]
	for _, w := range []*want{large.current, large.failed, small.failed} {
		if w != nil {
			return w.upload()
		}
	}
	return nil
}

// upload returns the upload that Machine reports: a large one rather than a small one,
// one that is in progress rather than one that failed.
func (i *item) upload() *Upload {
	var best *want
	for _, w := range i.needs {
		if (w.sending || w.err != nil) && (best == nil || w.before(best)) {
			best = w
		}
	}
	if best == nil {
		return nil
	}
	return best.upload()
}

func (w *want) before(other *want) bool {
	return cmp.Or(
		order(other.sending, w.sending),
		order(other.large, w.large),
		cmp.Compare(w.blob.Digest, other.blob.Digest),
	) < 0
}
