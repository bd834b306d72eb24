// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Derived is content that was made from other content.
type Derived struct {
	Artifact
	// Meta is what its maker noted about it.
	Meta map[string]string
}

// Build is what a maker of derived content works with.
type Build struct {
	// Dir is a scratch directory on the store's file system, removed afterwards.
	Dir string
	// Path is where the content is to be put. It does not exist yet.
	Path string
	// Report tells how far the maker is; cheap enough to call often.
	Report func(stage Stage, done, total int64)
}

// derivedRecord is kept in derived/<key>.
type derivedRecord struct {
	From   string // digest, "sha256:<hex>"
	Recipe string
	Digest string // hex
	Meta   map[string]string
}

// Derive returns what build makes of from, building it only when no earlier
// call with the same content and recipe did. recipe names the way of making,
// its version included. It blocks like Ensure and shares work like it.
// Errors of build are returned as they are, full disks as *Error.
func (s *Store) Derive(ctx context.Context, from Artifact, recipe string, progress func(Progress), build func(context.Context, *Build) (map[string]string, error)) (Derived, error) {
	key := keyOf("derived", from.Digest, recipe)
	if d, ok := s.recallDerived(key); ok {
		return d, nil
	}
	out, err := s.flights.do(ctx, key, progress, func(ctx context.Context, report func(Progress)) (outcome, error) {
		return s.derive(ctx, key, from, recipe, newMeter(report), build)
	})
	return Derived{out.artifact, out.meta}, err
}

func (s *Store) recallDerived(key string) (Derived, bool) {
	s.use.RLock()
	defer s.use.RUnlock()
	var r derivedRecord
	if !readRecord(s.path("derived", key), &r) {
		return Derived{}, false
	}
	a, state := s.observe(r.Digest)
	return Derived{a, r.Meta}, state == blobGood
}

func (s *Store) derive(ctx context.Context, key string, from Artifact, recipe string, m *meter, build func(context.Context, *Build) (map[string]string, error)) (outcome, error) {
	unlock, err := s.lock(ctx, key, func() { m.stage(StageWaiting, 0, 0) })
	if err != nil {
		return outcome{}, err
	}
	defer unlock()
	var r derivedRecord
	if readRecord(s.path("derived", key), &r) {
		a, ok, err := s.recheck(ctx, r.Digest, m)
		if ok || err != nil {
			return outcome{a, r.Meta}, err
		}
	}
	free, err := s.freeFor(s.run)
	if err != nil {
		return outcome{}, fmt.Errorf("looking for free space in %s: %w", s.run, err)
	}
	if err := s.short.check(key, free); err != nil {
		return outcome{}, err
	}
	out, err := s.build(ctx, key, from, recipe, m, build)
	if free, ferr := s.freeFor(s.run); ferr == nil {
		s.short.note(key, err, free)
	}
	return out, err
}

// build has derived content made in a scratch directory, and stores it.
func (s *Store) build(ctx context.Context, key string, from Artifact, recipe string, m *meter, build func(context.Context, *Build) (map[string]string, error)) (_ outcome, err error) {
	dir, err := os.MkdirTemp(s.run, "derive-")
	if err != nil {
		return outcome{}, noSpace(err, s.run, from.Size)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "out")
	meta, err := build(ctx, &Build{Dir: dir, Path: path, Report: func(stage Stage, done, total int64) {
		if m.p.Stage != stage || m.p.BytesTotal != total {
			m.stage(stage, done, total)
			return
		}
		m.at(done)
	}})
	if err != nil {
		// What is made of content is taken to be about as large.
		return outcome{}, noSpace(err, path, from.Size-sizeOf(path))
	}
	sums, err := hashFile(ctx, path, false, m)
	if err != nil {
		return outcome{}, err
	}
	if err := s.insert(path, sums.sha256); err != nil {
		return outcome{}, err
	}
	r := derivedRecord{From: from.Digest, Recipe: recipe, Digest: sums.sha256, Meta: meta}
	if err := s.writeRecord(s.path("derived", key), r); err != nil {
		return outcome{}, err
	}
	a, state := s.observe(r.Digest)
	if state != blobGood {
		return outcome{}, fmt.Errorf("what was made from %s vanished from the store", from.Digest)
	}
	return outcome{a, meta}, nil
}

// sizeOf is the length of a file, 0 when there is none.
func sizeOf(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}
