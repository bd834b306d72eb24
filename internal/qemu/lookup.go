// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"sync"

	"github.com/pxelab/pxelab/internal/machine"
)

// lookup finds a value of the host once for each architecture. A search that takes
// long delays only those that need its result. The zero lookup is ready to use.
type lookup[T any] struct {
	mu       sync.Mutex
	searches map[machine.Architecture]*search[T]
}

// search is a search that is under way or has succeeded.
type search[T any] struct {
	done  chan struct{} // closed when value and err are set
	value T
	err   error
}

// get returns the value, and waits for it until ctx ends. The search itself runs in
// the background until it ends or l is closed, because others wait for it as well. A
// failed search is repeated by the next call.
func (k *lookup[T]) get(ctx context.Context, l *Local, arch machine.Architecture, find func(context.Context) (T, error)) (T, error) {
	s, err := k.search(l, arch, find)
	if err != nil {
		var none T
		return none, err
	}
	select {
	case <-s.done:
		return s.value, s.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

func (k *lookup[T]) search(l *Local, arch machine.Architecture, find func(context.Context) (T, error)) (*search[T], error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.searches[arch]; s != nil {
		return s, nil
	}
	s := &search[T]{done: make(chan struct{})}
	err := l.run(func() {
		if s.value, s.err = find(l.ctx); s.err != nil {
			k.drop(arch)
		}
		close(s.done)
	})
	if err != nil {
		return nil, err
	}
	if k.searches == nil {
		k.searches = map[machine.Architecture]*search[T]{}
	}
	k.searches[arch] = s
	return s, nil
}

// drop forgets the value of an architecture.
func (k *lookup[T]) drop(arch machine.Architecture) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.searches, arch)
}
