// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"github.com/pxelab/pxelab/internal/hostfs"
)

// Options configures a Store.
type Options struct {
	// Dir is the store's directory; Open creates it with mode 0700.
	Dir string
	// ImagesDir is the folder that Source.Path is relative to. It need not exist
	// yet. If empty, sources with a path are rejected.
	ImagesDir string
	// Network restricts where the default Client connects to.
	Network Network
	// Client sends the HTTP requests. The default has timeouts for connecting
	// and for response headers.
	Client *http.Client
	// MaxSize is the largest accepted file in bytes; 0 means 64 GiB.
	MaxSize int64
	// Attempts is how many times in a row a transfer may fail without progress
	// before Ensure gives up; 0 means 5.
	Attempts int
	// Backoff is the delay after the first failed attempt. It doubles with each
	// further one, up to 16 times the value; 0 means 500 ms.
	Backoff time.Duration
	// StallTimeout ends a transfer that receives almost nothing for this long; 0
	// means 30 s.
	StallTimeout time.Duration
	// Reserve is how many bytes downloads and copies leave free for other users
	// of the file system.
	Reserve int64
}

// Store is a directory of verified files. All methods are safe for concurrent
// use, also by several processes on the same directory. Files and directories in it may
// be deleted at any time: calls for content that was deleted fetch or derive it again.
type Store struct {
	opts    Options
	flights flights
	run     string       // scratch directory of this Store, below tmp
	dirs    sync.Mutex   // protects runLock and the creation of directories
	runLock *flock.Flock // held as long as run is in use
	own     *transport   // nil if Options.Client is set
	freeFor func(dir string) (int64, error)
	short   shortages
	held    holds

	// use is held for reading while content is looked up or recorded, and for
	// writing by Remove.
	use sync.RWMutex
}

// subdirs are the directories of a store.
var subdirs = []string{"sha256", "verified", "sources", "derived", "partial", "locks", "tmp"}

const (
	dirMode  = 0o700
	fileMode = 0o600
	blobMode = 0o400
	// stalePartial is how long a partial download is kept without being resumed.
	stalePartial = 7 * 24 * time.Hour
	lockPoll     = 100 * time.Millisecond
)

// Open opens the store, creates its directory if necessary, and removes the
// scratch files of dead processes. The caller must close the store.
func Open(opts Options) (*Store, error) {
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("opening artifact store: %w", err)
	}
	opts.Dir = dir
	setDefault(&opts.MaxSize, 64<<30)
	setDefault(&opts.Attempts, 5)
	setDefault(&opts.Backoff, 500*time.Millisecond)
	setDefault(&opts.StallTimeout, 30*time.Second)
	s := &Store{opts: opts, freeFor: hostfs.FreeSpace}
	if s.opts.Client == nil {
		if s.own, err = newTransport(opts.Network); err != nil {
			return nil, fmt.Errorf("opening artifact store: %w", err)
		}
		s.opts.Client = &http.Client{Transport: s.own}
	}
	if err := s.createDirs(); err != nil {
		return nil, err
	}
	if err := s.openScratch(); err != nil {
		return nil, fmt.Errorf("opening artifact store %s: %w", dir, err)
	}
	return s, nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// openScratch removes the scratch directories of dead processes and creates one
// for this store.
func (s *Store) openScratch() error {
	unlock, err := s.lock(context.Background(), "open", nil)
	if err != nil {
		return err
	}
	defer unlock()
	runs, err := os.ReadDir(s.path("tmp"))
	if err != nil {
		return err
	}
	for _, r := range runs {
		dir := s.path("tmp", r.Name())
		l := flock.New(filepath.Join(dir, "lock"))
		if ok, err := l.TryLock(); err == nil && !ok {
			continue // in use
		}
		err := os.RemoveAll(dir)
		_ = l.Close()
		if err != nil {
			return err
		}
	}
	s.dropStalePartials()
	if s.run, err = os.MkdirTemp(s.path("tmp"), "run-"); err != nil {
		return err
	}
	return s.lockScratch()
}

func (s *Store) lockScratch() error {
	s.runLock = flock.New(filepath.Join(s.run, "lock"))
	ok, err := s.runLock.TryLock()
	if err == nil && !ok {
		err = fmt.Errorf("scratch directory %s is locked by another process", s.run)
	}
	return err
}

func (s *Store) createDirs() error {
	for _, sub := range subdirs {
		if err := os.MkdirAll(s.path(sub), dirMode); err != nil {
			return fmt.Errorf("creating artifact store: %w", err)
		}
	}
	return nil
}

// restoreDirs creates the directories that were deleted since Open, as by a user who
// frees disk space.
func (s *Store) restoreDirs() error {
	s.dirs.Lock()
	defer s.dirs.Unlock()
	if err := s.createDirs(); err != nil {
		return err
	}
	err := os.Mkdir(s.run, dirMode)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		_ = s.runLock.Close() // the lock of the directory that was deleted
		err = s.lockScratch()
	}
	if err != nil {
		return fmt.Errorf("creating the scratch directory of the artifact store: %w", err)
	}
	return nil
}

// dropStalePartials removes downloads that were not resumed for a long time. It
// ignores errors, because stale downloads do not prevent using the store.
func (s *Store) dropStalePartials() {
	entries, err := os.ReadDir(s.path("partial"))
	if err != nil {
		return
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) < stalePartial {
			continue
		}
		_ = os.Remove(s.path("partial", e.Name()))
	}
}

// Close removes the scratch files of this store. All other calls must have
// returned.
func (s *Store) Close() error {
	if s.own != nil {
		s.own.CloseIdleConnections()
	}
	err := os.RemoveAll(s.run)
	return errors.Join(err, s.runLock.Close())
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.opts.Dir}, elem...)...)
}

// lock locks key against other processes and against other stores in this
// process. It calls waiting, unless nil, if it has to wait. The lock's file exists
// only while it is held.
func (s *Store) lock(ctx context.Context, key string, waiting func()) (unlock func(), err error) {
	l := flock.New(s.path("locks", key), flock.SetPermissions(fileMode))
	for {
		ok, err := l.TryLock()
		if err == nil && !ok {
			if waiting != nil {
				waiting()
			}
			_, err = l.TryLockContext(ctx, lockPoll)
		}
		if err != nil {
			_ = l.Close()
			return nil, fmt.Errorf("locking %s: %w", key, err)
		}
		if isCurrent(l) {
			break
		}
		_ = l.Close() // the former holder has removed the file
	}
	return func() {
		// Others may still wait for this file. They notice that it was removed.
		_ = os.Remove(l.Path())
		_ = l.Close()
	}, nil
}

// isCurrent reports whether the locked file is the one that others would lock.
func isCurrent(l *flock.Flock) bool {
	locked, err := l.Stat()
	if err != nil {
		return false
	}
	current, err := os.Stat(l.Path())
	return err == nil && os.SameFile(locked, current)
}

// Ensure returns the content of src. If the content is not in the store, Ensure
// fetches, verifies and stores it. It blocks until done or ctx ends; concurrent
// calls for the same source share one transfer. This call or the next resumes an
// interrupted transfer. progress, unless nil, is called on the caller's
// goroutine. A source is resolved only once: later changes of a remote checksum
// file have no effect until Forget is called. Errors are *Error unless ctx ended
// or the store itself cannot be used.
func (s *Store) Ensure(ctx context.Context, src Source, progress func(Progress)) (Artifact, error) {
	c, err := src.check()
	if err != nil {
		return Artifact{}, err
	}
	a, ok := s.recall(c)
	if !ok {
		out, err := s.flights.do(ctx, c.key(), progress, func(ctx context.Context, report func(Progress)) (outcome, error) {
			a, err := s.fetch(ctx, c, newMeter(report))
			return outcome{artifact: a}, err
		})
		if err != nil {
			return Artifact{}, err
		}
		a = out.artifact
	}
	if err := checkContent(a.Path, src); err != nil {
		return Artifact{}, err
	}
	return a, nil
}

// Get returns content by its digest, if it is in the store and unchanged.
func (s *Store) Get(digest string) (Artifact, bool) {
	sum, err := parseChecksum(digest)
	if err != nil || sum.algo != "sha256" {
		return Artifact{}, false
	}
	s.use.RLock()
	defer s.use.RUnlock()
	a, state := s.observe(sum.hex)
	return a, state == blobGood
}

// Forget drops the content that a source was resolved to, so that the next
// Ensure reads the source's checksum file again. The content itself stays until Remove.
func (s *Store) Forget(src Source) error {
	err := os.Remove(s.path("sources", src.key()))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// recall returns the content of a source that was resolved before. It uses
// neither the network nor locks of other processes, and hashes nothing.
func (s *Store) recall(c *checked) (Artifact, bool) {
	s.use.RLock()
	defer s.use.RUnlock()
	digest, ok := s.resolved(c)
	if !ok {
		return Artifact{}, false
	}
	a, state := s.observe(digest)
	return a, state == blobGood
}

// fetch does the work of Ensure under the lock of the source.
func (s *Store) fetch(ctx context.Context, c *checked, m *meter) (Artifact, error) {
	if err := s.restoreDirs(); err != nil {
		return Artifact{}, err
	}
	unlock, err := s.lock(ctx, c.key(), func() { m.stage(StageWaiting, 0, 0) })
	if err != nil {
		return Artifact{}, err
	}
	defer unlock()
	if digest, ok := s.resolved(c); ok {
		if a, ok, err := s.recheck(ctx, digest, m); ok || err != nil {
			return a, err
		}
	}
	if c.Path != "" {
		return s.fetchFile(ctx, c, m)
	}
	return s.fetchURL(ctx, c, m)
}

// resolved returns the digest of the content that a source resolves to, if it is
// known: from the source itself, or from a record whose local files are
// unchanged.
func (s *Store) resolved(c *checked) (digest string, ok bool) {
	r, ok := s.record(c)
	if ok && c.sum.algo == "" && c.Path != "" && !s.sameFiles(c, &r) {
		return "", false
	}
	return r.Digest, ok
}

// record returns the record of a source. A source with a SHA-256 checksum needs none.
func (s *Store) record(c *checked) (r sourceRecord, ok bool) {
	switch c.sum.algo {
	case "sha256":
		return sourceRecord{Digest: c.sum.hex}, true
	case "sha512":
		ok = readRecord(s.path("sources", "sha512-"+c.sum.hex), &r)
	default:
		ok = readRecord(s.path("sources", c.key()), &r)
	}
	return r, ok
}

// adopt moves a verified file into the store under its digest, unless the store
// already has the content, and records that the source resolves to it. file must
// be on the store's file system; it does not exist afterwards.
func (s *Store) adopt(file string, sums digests, c *checked, files *localFiles) (Artifact, error) {
	defer s.hold("sha256:" + sums.sha256)()
	if err := s.insert(file, sums.sha256); err != nil {
		return Artifact{}, err
	}
	s.use.RLock()
	defer s.use.RUnlock()
	if err := s.remember(c, sums, files); err != nil {
		return Artifact{}, err
	}
	a, state := s.observe(sums.sha256)
	if state != blobGood {
		return Artifact{}, fmt.Errorf("artifact sha256:%s vanished from %s after it was stored", sums.sha256, s.opts.Dir)
	}
	return a, nil
}
