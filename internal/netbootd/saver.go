// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"context"
	"errors"
	"time"
)

const (
	// saveEvery is the minimum time for which a change of the state is in memory only.
	saveEvery = time.Second
	// saveShare bounds the part of the time that is spent saving to one in this many.
	saveShare = 10
	// publishEvery is how often deferred changes are looked at.
	publishEvery = time.Second
)

// publishDeferred publishes what need not be published at once, until ctx ends.
func (s *Server) publishDeferred(ctx context.Context) {
	every(ctx, publishEvery, func() {
		s.publishLeases()
		s.state.publishDeferred()
	})
}

// sweepBlobs removes content that nothing names, until ctx ends.
func (s *Server) sweepBlobs(ctx context.Context) {
	every(ctx, min(time.Minute, max(s.options.BlobGrace/2, time.Millisecond)), func() {
		if err := s.blobs.sweep(); err != nil {
			s.log.Error("removing content that nothing names", "error", err)
		}
	})
}

// every calls do at an interval until ctx ends.
func every(ctx context.Context, interval time.Duration, do func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		do()
	}
}

// saveOnChange saves changes until ctx ends. However many machines change, it leaves
// most of the disk's time to uploads and downloads.
func (s *Server) saveOnChange(ctx context.Context) {
	pause := saveEvery
	for {
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		start := time.Now()
		s.persist(false)
		pause = max(saveEvery, saveShare*time.Since(start))
	}
}

// persist saves what changed; also what may wait, if the server is ending.
func (s *Server) persist(ending bool) {
	var errs []error
	failed := 0
	for _, uid := range s.state.takeUnsaved(ending) {
		// All machines fail alike when the disk is full.
		if err := s.persistMachine(uid); err != nil {
			if failed++; failed == 1 {
				errs = append(errs, err)
			}
		}
	}
	if unknown, changed := s.state.takeUnknown(); changed || ending {
		errs = append(errs, s.store.save(fileUnknown, unknown))
	}
	if leases, changed := s.leases.takeUnsaved(); changed {
		errs = append(errs, s.store.saveLeases(leases))
	}
	if err := errors.Join(errs...); err != nil {
		s.log.Error("saving the state", "error", err, "machines", failed)
	}
}

// persistMachine saves the observed state of one machine. What it cannot save is tried
// again later.
func (s *Server) persistMachine(uid string) error {
	// A slower write of an older state must not replace a newer one.
	s.saving.Lock()
	defer s.saving.Unlock()
	m, state := s.state.machine(uid)
	if m == nil {
		return nil // deleted
	}
	err := s.store.save(observedFile(uid), state)
	if err != nil {
		s.state.retrySave(uid)
	}
	return err
}
