// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"sync"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// Events keeps the last events of one run. It is safe for concurrent use; no method
// blocks but for its lock.
type Events struct {
	store string

	mu sync.Mutex
	// ring has the event with sequence n at n modulo its size; last is that of the
	// latest.
	ring    []netbootapi.Event
	last    uint64
	changed chan struct{} // nil if no reader waits
}

const (
	// maxBatch bounds what After returns.
	maxBatch = 256
	// maxName, maxDetail and maxClient bound the texts of an event in bytes of their
	// JSON encoding, so that its record has less than netbootapi.MaxEventBytes.
	maxName   = 512
	maxDetail = 2048
	maxClient = 128
)

// NewEvents returns the events of a run that keeps at most size of them.
func NewEvents(store string, size int) *Events {
	return &Events{store: store, ring: make([]netbootapi.Event, size)}
}

// Add records an event: it sets its Sequence and cuts its texts, which clients may have
// chosen.
func (e *Events) Add(event netbootapi.Event) {
	event.Machine = Clip(event.Machine, maxClient)
	event.MAC = Clip(event.MAC, maxClient)
	event.Address = Clip(event.Address, maxClient)
	event.Name = Clip(event.Name, maxName)
	event.Detail = Clip(event.Detail, maxDetail)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last++
	event.Sequence = e.last
	e.ring[e.last%uint64(len(e.ring))] = event
	if e.changed != nil {
		close(e.changed)
		e.changed = nil
	}
}

// After returns the first events after a position, how many before them are gone, and a
// channel that is closed at the next event. Of a position that is not one of this run
// everything that is kept follows, and everything else of the run is gone.
func (e *Events) After(p netbootapi.Position) (events []netbootapi.Event, lost uint64, changed <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.changed == nil {
		e.changed = make(chan struct{})
	}
	since := p.Sequence
	if p.Store != e.store || since > e.last {
		since = 0
	}
	if size := uint64(len(e.ring)); e.last-since > size {
		lost = e.last - size - since
		since += lost
	}
	for n := since + 1; n <= e.last && len(events) < maxBatch; n++ {
		events = append(events, e.ring[n%uint64(len(e.ring))])
	}
	return events, lost, e.changed
}
