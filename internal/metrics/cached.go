// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"sync"
	"time"
)

// cached keeps what a slow source returned, so that scrapes neither load the source nor
// wait for one that hangs. It is safe for concurrent use.
type cached[T any] struct {
	fetch func(context.Context) (T, error)
	// fresh is how long a result is not fetched again, patience how long get waits for
	// the source, limit when a fetch is cancelled, and keep how long a result is returned
	// while the source fails.
	fresh, patience, limit, keep time.Duration

	mu       sync.Mutex
	value    T
	at       time.Time // when value was fetched; zero before
	tried    time.Time // when the last fetch began; zero before
	failed   bool      // the last fetch
	fetching chan struct{}
}

// get returns the last result. known is false if there is none that is recent enough, and
// current if the source did not return it when it was asked last.
func (c *cached[T]) get() (value T, known, current bool) {
	if fetching := c.begin(); fetching != nil {
		timer := time.NewTimer(c.patience)
		defer timer.Stop()
		select {
		case <-fetching:
		case <-timer.C:
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	known = !c.at.IsZero() && time.Since(c.at) < c.keep
	return c.value, known, known && !c.failed && c.fetching == nil
}

// begin starts a fetch unless the result is fresh or one is in progress. It returns a
// channel that is closed at the end of the fetch; nil if there is none.
func (c *cached[T]) begin() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fetching != nil {
		return c.fetching
	}
	if !c.tried.IsZero() && time.Since(c.tried) < c.fresh {
		return nil
	}
	c.tried = time.Now()
	c.fetching = make(chan struct{})
	go c.run(c.fetching)
	return c.fetching
}

func (c *cached[T]) run(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), c.limit)
	defer cancel()
	value, err := c.fetch(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.value = value
		c.at = time.Now()
	}
	c.failed = err != nil
	c.fetching = nil
	close(done)
}
