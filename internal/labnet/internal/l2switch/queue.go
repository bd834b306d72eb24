// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"sync"
	"sync/atomic"
	"time"
)

// queue is a FIFO of copied frames, bounded in frames and in the bytes of their buffers.
// It uses memory only for the frames it holds.
type queue struct {
	maxFrames, maxBytes int
	large               int // size of the largest frame
	budget              *budget

	items []item // a ring, grown as needed
	head  int
	count int
	bytes int
}

// budget bounds the buffers of all queues of a switch. Half of it belongs to the ports in
// equal parts, so that those whose machines do not read cannot use it up together; the
// other half is for those that need it first.
type budget struct {
	max   int64
	used  atomic.Int64
	share atomic.Int64 // a port's part; reserve if that is more
}

// reserve is what each queue may hold whatever the others do, however many they are.
const reserve = 32 << 10

// divide sets the number of ports, which is at least 1.
func (b *budget) divide(ports int) { b.share.Store(b.max / 2 / int64(ports)) }

// take reserves n bytes for a queue that holds held, and reports whether it may have them. A
// queue that holds nothing may always hold one frame, of any size.
func (b *budget) take(n, held int) bool {
	if b.used.Add(int64(n)) > b.max/2 && held > 0 && int64(held+n) > max(reserve, b.share.Load()) {
		b.used.Add(-int64(n))
		return false
	}
	return true
}

// item is a queued frame in a pooled buffer.
type item struct {
	buf *[]byte
	n   int
	// size is what the buffer counts for.
	size int
	due  time.Time
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
	size := smallFrame
	if len(frame) > smallFrame {
		size = q.large
	}
	if q.count >= q.maxFrames*room || q.bytes+size > q.maxBytes*room || !q.budget.take(size, q.bytes) {
		return false
	}
	if q.count == len(q.items) {
		q.grow()
	}
	it := item{n: len(frame), size: size, due: due}
	if size == smallFrame {
		it.buf = smallBuffers.Get().(*[]byte)
	} else {
		it.buf = largeBuffers.Get().(*[]byte)
		if len(*it.buf) < size {
			*it.buf = make([]byte, size)
		}
	}
	copy(*it.buf, frame)
	q.items[(q.head+q.count)%len(q.items)] = it
	q.count++
	q.bytes += size
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
	q.bytes -= q.items[q.head].size
	q.items[q.head] = item{}
	q.head = (q.head + 1) % len(q.items)
	q.count--
}

func (q *queue) release(it item) {
	q.budget.used.Add(-int64(it.size))
	if it.size == smallFrame {
		smallBuffers.Put(it.buf)
		return
	}
	largeBuffers.Put(it.buf)
}

// trim drops the oldest frames until the queue holds no more than its reserve, and returns
// their number.
func (q *queue) trim() (dropped uint64) {
	for ; q.count > 0 && q.bytes > reserve; dropped++ {
		it, _ := q.front()
		q.pop()
		q.release(it)
	}
	return dropped
}

func (q *queue) clear() {
	for q.count > 0 {
		it, _ := q.front()
		q.pop()
		q.release(it)
	}
	q.items, q.head = nil, 0
}

// idleItems is the size of the ring that an empty queue keeps.
const idleItems = 64

// shrink gives up the ring of an empty queue if it is large.
func (q *queue) shrink() {
	if q.count == 0 && len(q.items) > idleItems {
		q.items, q.head = nil, 0
	}
}

func (q *queue) grow() {
	grown := make([]item, max(16, 2*len(q.items)))
	for i := range q.count {
		grown[i] = q.items[(q.head+i)%len(q.items)]
	}
	q.items, q.head = grown, 0
}
