// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"fmt"
	"path/filepath"
	"sync"
)

// noSpace turns an error that means a full disk into an *Error that says how
// many bytes are missing; need is what was still to be written, 0 when not
// known. What failed wants more than is free, as shortages wait for. Other
// errors are returned as they are.
func noSpace(err error, path string, need int64) error {
	if err == nil || !isNoSpace(err) {
		return err
	}
	dir := filepath.Dir(path)
	free, ferr := freeSpace(dir)
	if ferr != nil {
		return failf(ReasonNoSpace, err, "no space left in %s; free some", dir)
	}
	return spaceError(err, dir, max(need, free+moreRoom), free)
}

// room refuses to begin what the disk has no space for.
func (s *Store) room(dir string, need int64) error {
	free, err := s.freeFor(dir)
	if err != nil {
		return fmt.Errorf("looking for free space in %s: %w", dir, err)
	}
	if free -= s.opts.Reserve; need > free {
		return spaceError(nil, dir, need, max(0, free))
	}
	return nil
}

// shortages remembers which work found the disk full, so that trying again costs
// nothing until there is more room than then: a conversion would fill the disk
// for minutes, each time, only to fail.
type shortages struct {
	mu  sync.Mutex
	all map[string]shortage
}

type shortage struct {
	free int64
	err  error
}

// moreRoom is what must have become free at least: logs come and go.
const moreRoom = 1 << 20

// check returns the error of the last time unless there is more room now.
func (s *shortages) check(key string, free int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, ok := s.all[key]
	if !ok || free > last.free+moreRoom {
		return nil
	}
	return last.err
}

// note keeps err when it means a full disk. free is what there is once all that
// the work wrote was removed.
func (s *shortages) note(key string, err error, free int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !isNoSpace(err) {
		delete(s.all, key)
		return
	}
	if s.all == nil {
		s.all = map[string]shortage{}
	}
	s.all[key] = shortage{free, err}
}

func spaceError(cause error, dir string, need, free int64) error {
	return failf(ReasonNoSpace, cause, "no space left in %s: %d bytes are needed, %d are free; free %d bytes", dir, need, free, need-free)
}

func (s *Store) tooLarge(c *checked, size int64) error {
	if size <= s.opts.MaxSize {
		return nil
	}
	return failf(ReasonTooLarge, nil, "%s has %d bytes, at most %d are accepted", c, size, s.opts.MaxSize)
}
