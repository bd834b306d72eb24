// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"fmt"
	"path/filepath"
	"sync"

	"github.com/pxelab/pxelab/internal/hostfs"
)

// noSpace turns an error that means a full disk into an *Error with the number
// of missing bytes, and returns other errors unchanged. need is the number of
// bytes that remained to be written, or 0 if unknown. The message requires at
// least retryMargin bytes more than are free, which is when shortages permits a
// retry.
func noSpace(err error, path string, need int64) error {
	if err == nil || !hostfs.IsNoSpace(err) {
		return err
	}
	dir := filepath.Dir(path)
	free, ferr := hostfs.FreeSpace(dir)
	if ferr != nil {
		return failf(ReasonNoSpace, err, "no space left in %s; free disk space", dir)
	}
	return spaceError(err, dir, max(need, free+retryMargin), free)
}

// checkSpace returns an error unless need bytes fit into dir and leave
// Options.Reserve free.
func (s *Store) checkSpace(dir string, need int64) error {
	free, err := s.freeFor(dir)
	if err != nil {
		return fmt.Errorf("determining the free space in %s: %w", dir, err)
	}
	if free -= s.opts.Reserve; need > free {
		return spaceError(nil, dir, need, max(0, free))
	}
	return nil
}

// shortages records which builds failed on a full disk, so that a retry fails at
// once until more space is free. Otherwise each retry of a conversion would fill
// the disk for minutes and fail again.
type shortages struct {
	mu  sync.Mutex
	all map[string]shortage
}

type shortage struct {
	free int64
	err  error
}

// retryMargin is by how many bytes the free space must have grown before a
// retry. It ignores small changes, such as a rotated log.
const retryMargin = 1 << 20

// check returns the error of the last build unless more space is free now.
func (s *shortages) check(key string, free int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, ok := s.all[key]
	if !ok || free > last.free+retryMargin {
		return nil
	}
	return last.err
}

// note records err if it means a full disk. free is the free space after the
// build's files were removed.
func (s *shortages) note(key string, err error, free int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !hostfs.IsNoSpace(err) {
		delete(s.all, key)
		return
	}
	if s.all == nil {
		s.all = map[string]shortage{}
	}
	s.all[key] = shortage{free, err}
}

func spaceError(cause error, dir string, need, free int64) error {
	return failf(ReasonNoSpace, cause,
		"no space left in %s: %d bytes are needed, %d are available; free %d bytes", dir, need, free, need-free)
}

func (s *Store) checkSize(c *checked, size int64) error {
	if size <= s.opts.MaxSize {
		return nil
	}
	return failf(ReasonTooLarge, nil, "%s has %d bytes, at most %d are accepted; use a smaller file", c, size, s.opts.MaxSize)
}
