// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"fmt"
	"path/filepath"
)

// noSpace turns an error that means a full disk into an *Error that says how
// many bytes are missing; need is what was still to be written, 0 when not
// known. Other errors are returned as they are.
func noSpace(err error, path string, need int64) error {
	if err == nil || !isNoSpace(err) {
		return err
	}
	dir := filepath.Dir(path)
	free, ferr := freeSpace(dir)
	if ferr != nil || need <= free {
		return failf(ReasonNoSpace, err, "no space left in %s; free some", dir)
	}
	return spaceError(err, dir, need, free)
}

// room refuses to begin what the disk has no space for.
func (s *Store) room(dir string, need int64) error {
	free, err := s.freeFor(dir)
	if err != nil {
		return fmt.Errorf("looking for free space in %s: %w", dir, err)
	}
	if need > free {
		return spaceError(nil, dir, need, free)
	}
	return nil
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
