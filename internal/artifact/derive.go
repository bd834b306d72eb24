// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pxelab/pxelab/internal/hostfs"
)

// Derived is content that was built from other content.
type Derived struct {
	Artifact
	// Meta is the metadata that the build function returned.
	Meta map[string]string
}

// Build is the environment of a build function.
type Build struct {
	// Dir is a scratch directory on the store's file system. It is removed when
	// the build function has returned.
	Dir string
	// Path is the file that the build function creates. It does not exist yet.
	Path string
	// Report reports progress. It is cheap enough to call often.
	Report func(stage Stage, done, total int64)
}

// buildFunc builds derived content.
type buildFunc = func(context.Context, *Build) (map[string]string, error)

// derivation is a call of Derive.
type derivation struct {
	key    string
	from   Artifact
	recipe string
	build  buildFunc
}

// derivedRecord is the content of derived/<key>.
type derivedRecord struct {
	From   string // digest, "sha256:<hex>"
	Recipe string
	Digest string // hex
	Meta   map[string]string
}

// Derive returns the content that build creates from from. It calls build only
// if no content with the same from and recipe is in the store. recipe identifies
// the conversion, including its version. Like Ensure, it blocks and shares work
// between concurrent calls. It returns the errors of build unchanged, except for
// a full disk, which is an *Error.
func (s *Store) Derive(
	ctx context.Context, from Artifact, recipe string, progress func(Progress),
	build func(context.Context, *Build) (map[string]string, error),
) (Derived, error) {
	key := keyOf("derived", from.Digest, recipe)
	if d, ok := s.recallDerived(key); ok {
		return d, nil
	}
	out, err := s.flights.do(ctx, key, progress, func(ctx context.Context, report func(Progress)) (outcome, error) {
		return s.derive(ctx, derivation{key, from, recipe, build}, newMeter(report))
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

func (s *Store) derive(ctx context.Context, d derivation, m *meter) (outcome, error) {
	if err := s.restoreDirs(); err != nil {
		return outcome{}, err
	}
	unlock, err := s.lock(ctx, d.key, func() { m.stage(StageWaiting, 0, 0) })
	if err != nil {
		return outcome{}, err
	}
	defer unlock()
	var r derivedRecord
	if readRecord(s.path("derived", d.key), &r) {
		a, ok, err := s.recheck(ctx, r.Digest, m)
		if ok || err != nil {
			return outcome{a, r.Meta}, err
		}
	}
	free, err := s.freeFor(s.run)
	if err != nil {
		return outcome{}, fmt.Errorf("determining the free space in %s: %w", s.run, err)
	}
	if err := s.short.check(d.key, free); err != nil {
		return outcome{}, err
	}
	defer s.hold(d.from.Digest)()
	out, err := s.build(ctx, d, m)
	if free, ferr := s.freeFor(s.run); ferr == nil {
		s.short.note(d.key, err, free)
	}
	return out, err
}

// build calls the build function with a scratch directory and stores its result.
func (s *Store) build(ctx context.Context, d derivation, m *meter) (_ outcome, err error) {
	dir, err := os.MkdirTemp(s.run, "derive-")
	if err != nil {
		return outcome{}, noSpace(err, s.run, d.from.Size)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "out")
	meta, err := d.build(ctx, &Build{Dir: dir, Path: path, Report: func(stage Stage, done, total int64) {
		if m.p.Stage != stage || m.p.BytesTotal != total {
			m.stage(stage, done, total)
			return
		}
		m.at(done)
	}})
	if err != nil {
		// Derived content is assumed to be about as large as its origin.
		return outcome{}, noSpace(err, path, d.from.Size-hostfs.FileSize(path))
	}
	sums, err := hashFile(ctx, path, false, m)
	if err != nil {
		return outcome{}, err
	}
	defer s.hold("sha256:" + sums.sha256)()
	if err := s.insert(path, sums.sha256); err != nil {
		return outcome{}, err
	}
	s.use.RLock()
	defer s.use.RUnlock()
	r := derivedRecord{From: d.from.Digest, Recipe: d.recipe, Digest: sums.sha256, Meta: meta}
	if err := s.writeRecord(s.path("derived", d.key), r); err != nil {
		return outcome{}, err
	}
	a, state := s.observe(r.Digest)
	if state != blobGood {
		return outcome{}, fmt.Errorf("artifact sha256:%s, derived from %s, vanished from %s after it was stored",
			r.Digest, d.from.Digest, s.opts.Dir)
	}
	return outcome{a, meta}, nil
}
