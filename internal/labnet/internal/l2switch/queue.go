// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"sync"
	"time"
)

// queue is a FIFO of copied frames, bounded in frames and in bytes. It uses memory
// only for the frames it holds.
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

// smallFrame is the smaller of two buffer sizes, so that a queue of small frames
// does not use the memory of a queue of jumbo frames.
const smallFrame = 2048

var (
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, smallFrame); return &b }}
	largeBuffers = sync.Pool{New: func() any { b := []byte{}; return &b }}
)

func (q *queue) len() int { return q.count }

// push copies the frame into the queue, or returns false if the queue is full.
// room multiplies its bounds.
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

// pop removes the front item. The caller must release its buffer.
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
