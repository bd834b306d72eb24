// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"context"
	"errors"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

const (
	// saveEvery is the minimum time for which a change of the state is in memory only.
	saveEvery = time.Second
	// saveShare bounds the part of the time that is spent saving to one in this many.
	saveShare = 10
	// maxSavePause limits the pause between saves that fail.
	maxSavePause = time.Minute
	// publishEvery is how often deferred changes are looked at.
	publishEvery = time.Second
)

// publishDeferred publishes what need not be published at once, until ctx ends.
func (s *Server) publishDeferred(ctx context.Context) {
	every(ctx, publishEvery, func() {
		if s.state.mayPublishDeferred() {
			s.publishLeases()
			s.state.publishDeferred()
		}
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
		saved := s.persist(false)
		pause = pauseAfterSave(pause, time.Since(start), saved)
	}
}

// pauseAfterSave returns the pause after a save that took a while, and that had followed
// the last pause. It doubles while saves fail, as they do when the disk is full.
func pauseAfterSave(last, took time.Duration, saved bool) time.Duration {
	if saved {
		return max(saveEvery, saveShare*took)
	}
	return min(max(2*last, saveShare*took), maxSavePause)
}

// persist saves what changed; also what may wait, if the server is ending. It reports
// whether all of it was saved: the rest remains changed.
func (s *Server) persist(ending bool) (saved bool) {
	var errs []error
	uids := s.state.takeUnsaved(ending)
	failed := 0
	for i, uid := range uids {
		err := s.persistMachine(uid)
		if err == nil {
			continue
		}
		if failed++; failed == 1 {
			errs = append(errs, err)
		}
		if errors.Is(err, netbootapi.ErrNoSpace) { // all others fail alike
			s.state.retrySave(uids[i+1:]...)
			failed = len(uids) - i
			break
		}
	}
	if unknown, changed := s.state.takeUnknown(); changed || ending {
		if err := s.store.save(fileUnknown, unknown); err != nil {
			s.state.retryUnknown()
			errs = append(errs, err)
		}
	}
	if leases, changed := s.leases.takeUnsaved(); changed {
		if err := s.store.saveLeases(leases); err != nil {
			s.leases.unsaved.Store(true)
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		s.reportUnsaved(err, "machines", failed)
		return false
	}
	if s.unsaved.Swap(false) {
		s.log.Info("the state is saved again")
	}
	return true
}

// reportUnsaved logs the first failure to save since the last success.
func (s *Server) reportUnsaved(err error, details ...any) {
	if !s.unsaved.Swap(true) {
		s.log.Error("saving the state failed; it is tried again", append([]any{"error", err}, details...)...)
	}
}

// persistNow saves the observed state of one machine, before an answer that promises that
// it is recorded. A state that cannot be saved is served from memory: refusing the request
// would not help the machine.
func (s *Server) persistNow(uid string) {
	if err := s.persistMachine(uid); err != nil {
		s.reportUnsaved(err, "uid", uid)
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
