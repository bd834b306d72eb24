// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"runtime"
	"sync"
	"time"
)

const (
	// bootingPerProcessor and maxBooting determine the default of Options.Booting.
	bootingPerProcessor = 32
	maxBooting          = 256
	// longestBoot is how long a machine that is not up keeps its place: one that hangs,
	// or waits for a server, must not keep others from booting.
	longestBoot = time.Minute
)

// places limits how many machines boot at a time. A thousand that are started together
// would not be ready earlier if all of them booted at once: they would share the server and
// the switch, which would lose what they send, until their requests time out. Others wait
// in the order of their starts, as machines that are being started. It is safe for
// concurrent use.
type places struct {
	taken   chan struct{}
	longest time.Duration
}

func newPlaces(n int, longest time.Duration) *places {
	if n <= 0 {
		n = min(bootingPerProcessor*runtime.GOMAXPROCS(0), maxBooting)
	}
	return &places{taken: make(chan struct{}, n), longest: longest}
}

// enter waits for a place and returns the function that leaves it, which may be called
// more than once; nil if ctx ends before. The place is left by itself after a while.
func (p *places) enter(ctx context.Context) (leave func()) {
	select {
	case p.taken <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	free := sync.OnceFunc(func() { <-p.taken })
	timer := time.AfterFunc(p.longest, free)
	return func() {
		timer.Stop()
		free()
	}
}
