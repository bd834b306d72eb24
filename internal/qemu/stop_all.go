// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// StopAll ends every machine that runs, all at the same time, and returns when
// none does; the error names those that could not be ended. Nobody may start
// machines meanwhile. told is called for each machine as it is begun with (an
// empty method) and when it has ended, one call at a time; nil for silence.
func StopAll(ctx context.Context, r Runner, o StopOptions, told func(State, StopMethod)) error {
	states, err := r.List(ctx)
	if err != nil {
		return fmt.Errorf("listing the machines: %w", err)
	}
	var mu sync.Mutex
	tell := func(s State, how StopMethod) {
		mu.Lock()
		defer mu.Unlock()
		if told != nil {
			told(s, how)
		}
	}
	var all sync.WaitGroup
	errs := make([]error, len(states))
	for i, s := range states {
		if !s.Phase.Alive() {
			continue
		}
		tell(s, "")
		all.Go(func() {
			how, err := r.Stop(ctx, s.ID, o)
			if err != nil {
				errs[i] = fmt.Errorf("stopping %s: %w", s.Name, err)
				return
			}
			tell(s, how)
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	// Trust nobody: look again.
	states, err = r.List(ctx)
	for _, s := range states {
		if s.Phase.Alive() {
			err = errors.Join(err, fmt.Errorf("%s still runs as process %d", s.Name, s.PID))
		}
	}
	return err
}
