// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"
)

// Pruned is what Prune removed.
type Pruned struct {
	Files int
	Bytes int64
}

// Prune removes content for which keep returns false, given its digest
// ("sha256:<hex>"). What was derived from kept content stays, as does what was
// handed out within Options.Grace by any process. Only one process should
// decide what to keep. Content that somebody has open stays readable to them.
func (s *Store) Prune(ctx context.Context, keep func(digest string) bool) (Pruned, error) {
	s.use.Lock()
	defer s.use.Unlock()
	derived := s.derivedRecords()
	keeps := s.closure(keep, derived)
	entries, err := os.ReadDir(s.path("sha256"))
	if err != nil {
		return Pruned{}, err
	}
	var done Pruned
	var errs []error
	for _, e := range entries {
		if ctx.Err() != nil {
			errs = append(errs, ctx.Err())
			break
		}
		digest := e.Name()
		info, err := e.Info()
		if err != nil || keeps[digest] || s.recent(digest, info) {
			continue
		}
		if err := os.Remove(s.path("sha256", digest)); err != nil {
			errs = append(errs, err)
			continue
		}
		done.Files++
		done.Bytes += diskBytes(info)
		_ = os.Remove(s.path("verified", digest)) // of no meaning without the content
	}
	s.dropRecords(derived)
	return done, errors.Join(errs...)
}

// recent reports whether content was stored or handed out within the grace.
func (s *Store) recent(digest string, info os.FileInfo) bool {
	if time.Since(stampTime(info)) < s.opts.Grace {
		return true
	}
	used, err := os.Stat(s.path("verified", digest))
	return err == nil && time.Since(used.ModTime()) < s.opts.Grace
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

// closure is all content to keep, with what was derived from it.
func (s *Store) closure(keep func(string) bool, derived map[string]derivedRecord) map[string]bool {
	keeps := map[string]bool{}
	entries, err := os.ReadDir(s.path("sha256"))
	if err != nil {
		return keeps
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && (keep("sha256:"+e.Name()) || s.recent(e.Name(), info)) {
			keeps[e.Name()] = true
		}
	}
	for again := true; again; {
		again = false
		for _, r := range derived {
			if keeps[strings.TrimPrefix(r.From, "sha256:")] && !keeps[r.Digest] {
				keeps[r.Digest], again = true, true
			}
		}
	}
	return keeps
}

// dropRecords forgets what led to content that is gone. A record that stays by
// mistake is found out when it is used.
func (s *Store) dropRecords(derived map[string]derivedRecord) {
	for key, r := range derived {
		if _, err := os.Stat(s.path("sha256", r.Digest)); errors.Is(err, os.ErrNotExist) {
			_ = os.Remove(s.path("derived", key))
		}
	}
	entries, err := os.ReadDir(s.path("sources"))
	if err != nil {
		return
	}
	for _, e := range entries {
		var r sourceRecord
		if !readRecord(s.path("sources", e.Name()), &r) {
			continue
		}
		if _, err := os.Stat(s.path("sha256", r.Digest)); errors.Is(err, os.ErrNotExist) {
			_ = os.Remove(s.path("sources", e.Name()))
		}
	}
}
