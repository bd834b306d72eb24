// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"sync"
	"time"
)

// queue holds copies of frames until they can leave, first in first out. It is
// bounded in frames and in bytes, and takes memory only for what it holds.
type queue struct {
	maxFrames, maxBytes int
	large               int // size of the largest frame

	items []item // a ring, grown as needed
	head  int
	count int
	bytes int
}

// item is a queued frame in a pooled buffer.
type item struct {
	buf *[]byte
	n   int
	due time.Time
}

func (it item) frame() []byte { return (*it.buf)[:it.n] }

// Two sizes of buffers, so that a queue of small frames does not cost what a
// queue of jumbo frames does.
const smallFrame = 2048

var (
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, smallFrame); return &b }}
	largeBuffers = sync.Pool{New: func() any { b := []byte{}; return &b }}
)

func (q *queue) len() int { return q.count }

// push copies the frame, unless the queue is full; room multiplies its bounds.
func (q *queue) push(frame []byte, due time.Time, room int) bool {
	if q.count >= q.maxFrames*room || q.bytes+len(frame) > q.maxBytes*room {
		return false
	}
	if q.count == len(q.items) {
		q.grow()
	}
	it := item{n: len(frame), due: due}
	if len(frame) <= smallFrame {
		it.buf = smallBuffers.Get().(*[]byte)
	} else {
		it.buf = largeBuffers.Get().(*[]byte)
		if len(*it.buf) < len(frame) {
			*it.buf = make([]byte, q.large)
		}
	}
	copy(*it.buf, frame)
	q.items[(q.head+q.count)%len(q.items)] = it
	q.count++
	q.bytes += it.n
	return true
}

func (q *queue) front() (item, bool) {
	if q.count == 0 {
		return item{}, false
	}
	return q.items[q.head], true
}

// pop takes the front off; its buffer is the caller's to release.
func (q *queue) pop() {
	q.bytes -= q.items[q.head].n
	q.items[q.head] = item{}
	q.head = (q.head + 1) % len(q.items)
	q.count--
}

func (q *queue) release(it item) {
	if len(*it.buf) == smallFrame {
		smallBuffers.Put(it.buf)
		return
	}
	largeBuffers.Put(it.buf)
}

func (q *queue) clear() {
	for q.count > 0 {
		it, _ := q.front()
		q.pop()
		q.release(it)
	}
}

func (q *queue) grow() {
	grown := make([]item, max(16, 2*len(q.items)))
	for i := range q.count {
		grown[i] = q.items[(q.head+i)%len(q.items)]
	}
	q.items, q.head = grown, 0
}
