// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/pxelab/pxelab/internal/hostfs"
)

// Stored is content in the store, as Inventory found it.
type Stored struct {
	Digest string // "sha256:<hex>"
	Bytes  int64  // disk space
	// UsedAt is when the content was stored or last returned to a caller.
	UsedAt time.Time
	// From has the digests of the content that this was derived from.
	From []string
}

// Removed is the result of Remove.
type Removed struct {
	Files int
	Bytes int64 // disk space
}

// Inventory lists the content of the store, without downloads in progress and scratch
// files. current reports whether a recipe is one that this program derives content with;
// content that was derived with another recipe has no From for it.
func (s *Store) Inventory(current func(recipe string) bool) ([]Stored, error) {
	from := map[string][]string{}
	for _, r := range s.derivedRecords() {
		if current(r.Recipe) {
			from[r.Digest] = append(from[r.Digest], r.From)
		}
	}
	entries, err := os.ReadDir(s.path("sha256"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // it may have been deleted
		return nil, fmt.Errorf("listing artifacts: %w", err)
	}
	var all []Stored
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since
		}
		if err != nil {
			return nil, fmt.Errorf("listing artifacts: %w", err)
		}
		all = append(all, Stored{
			Digest: "sha256:" + e.Name(), Bytes: hostfs.AllocatedBytes(info),
			UsedAt: s.usedAt(e.Name(), info), From: from[e.Name()],
		})
	}
	return all, nil
}

// Recorded returns the digest of the content that a source was resolved to, whether
// or not the content is in the store and the source is unchanged. It uses no network.
func (s *Store) Recorded(src Source) (digest string, ok bool) {
	c, err := src.check()
	if err != nil {
		return "", false
	}
	r, ok := s.record(c)
	if !ok {
		return "", false
	}
	return "sha256:" + r.Digest, true
}

// FreeSpace returns how many bytes can be written to the store's file system.
func (s *Store) FreeSpace() (int64, error) { return s.freeFor(s.opts.Dir) }

// Remove removes content that Inventory listed, unless it was used since, is being
// stored, or other content is being derived from it. It also removes the records of missing content and
// downloads that were not resumed for a week. Readers that have a removed file open can
// still read it. Calls for the same content fetch it again.
func (s *Store) Remove(ctx context.Context, unused []Stored) (Removed, error) {
	var done Removed
	var errs []error
	for _, u := range unused {
		if ctx.Err() != nil {
			errs = append(errs, ctx.Err())
			break
		}
		removed, err := s.removeUnused(u)
		if err != nil {
			errs = append(errs, fmt.Errorf("removing artifact: %w", err))
		}
		if removed {
			done.Files++
			done.Bytes += u.Bytes
		}
	}
	s.dropRecords()
	s.dropStalePartials()
	return done, errors.Join(errs...)
}

// removeUnused removes content that was not used since it was listed.
func (s *Store) removeUnused(u Stored) (bool, error) {
	digest := strings.TrimPrefix(u.Digest, "sha256:")
	s.use.Lock()
	defer s.use.Unlock()
	info, err := os.Stat(s.path("sha256", digest))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if s.held.has(u.Digest) || !s.usedAt(digest, info).Equal(u.UsedAt) {
		return false, nil
	}
	if err := os.Remove(s.path("sha256", digest)); err != nil {
		return false, err
	}
	_ = os.Remove(s.path("verified", digest)) // ignored without the content
	return true, nil
}

// usedAt returns when content was stored or last returned to a caller.
func (s *Store) usedAt(digest string, info os.FileInfo) time.Time {
	stored := stampTime(info)
	used, err := os.Stat(s.path("verified", digest))
	if err != nil || used.ModTime().Before(stored) {
		return stored
	}
	return used.ModTime()
}

func (s *Store) derivedRecords() map[string]derivedRecord {
	records := map[string]derivedRecord{}
	entries, err := os.ReadDir(s.path("derived"))
	if err != nil {
		return records
	}
	for _, e := range entries {
		var r derivedRecord
		if readRecord(s.path("derived", e.Name()), &r) {
			records[e.Name()] = r
		}
	}
	return records
}

// dropRecords removes records that refer to missing content. A record that
// remains by mistake is detected when it is used.
func (s *Store) dropRecords() {
	s.use.Lock()
	defer s.use.Unlock()
	missing := func(digest string) bool {
		_, err := os.Stat(s.path("sha256", digest))
		return errors.Is(err, fs.ErrNotExist)
	}
	for key, r := range s.derivedRecords() {
		if missing(r.Digest) {
			_ = os.Remove(s.path("derived", key))
		}
	}
	entries, err := os.ReadDir(s.path("sources"))
	if err != nil {
		return
	}
	for _, e := range entries {
		var r sourceRecord
		if readRecord(s.path("sources", e.Name()), &r) && missing(r.Digest) {
			_ = os.Remove(s.path("sources", e.Name()))
		}
	}
}

// hold protects content from Remove until release is called.
func (s *Store) hold(digest string) (release func()) {
	// Remove checks and removes under this lock.
	s.use.RLock()
	defer s.use.RUnlock()
	return s.held.hold(digest)
}

// holds are the digests of content that is being stored or read. The zero value is
// empty; it is safe for concurrent use.
type holds struct {
	mu  sync.Mutex
	all map[string]int
}

func (h *holds) hold(digest string) (release func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all == nil {
		h.all = map[string]int{}
	}
	h.all[digest]++
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.all[digest]--; h.all[digest] == 0 {
			delete(h.all, digest)
		}
	}
}

func (h *holds) has(digest string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all[digest] > 0
}
