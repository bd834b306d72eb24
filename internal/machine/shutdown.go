// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// StopAll ends every machine that runs, all at the same time, and returns when
// all have ended; the error names those that have not. The caller must not start
// machines meanwhile. progress, unless nil, is called for each machine when its
// stop starts (with an empty method) and when it has ended, one call at a time.
func StopAll(ctx context.Context, r Runner, o StopOptions, progress func(State, StopMethod)) error {
	states, err := r.List(ctx)
	if err != nil {
		return fmt.Errorf("listing the machines: %w", err)
	}
	var mu sync.Mutex
	report := func(s State, how StopMethod) {
		mu.Lock()
		defer mu.Unlock()
		if progress != nil {
			progress(s, how)
		}
	}
	var all sync.WaitGroup
	errs := make([]error, len(states))
	for i, s := range states {
		if !s.Phase.Alive() {
			continue
		}
		report(s, "")
		all.Go(func() {
			how, err := r.Stop(ctx, s.ID, o)
			if err != nil {
				errs[i] = fmt.Errorf("stopping %s: %w", s.Name, err)
				return
			}
			report(s, how)
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	// Check the result: a machine may have been missed or restarted.
	states, err = r.List(ctx)
	for _, s := range states {
		if s.Phase.Alive() {
			err = errors.Join(err, fmt.Errorf("%s still runs as process %d", s.Name, s.PID))
		}
	}
	return err
}
