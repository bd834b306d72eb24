// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gofrs/flock"
)

// Options make a store.
type Options struct {
	// Dir is the store's directory; it is made with mode 0700.
	Dir string
	// ImagesDir is where Source.Path is looked up. It may not exist yet; empty
	// refuses all paths.
	ImagesDir string
	// Client fetches; nil means one with time limits on connecting and on the
	// answer, and with the proxy from the environment.
	Client *http.Client
	// MaxSize is the largest file accepted in bytes; 0 means 64 GiB.
	MaxSize int64
	// Attempts is how often a transfer is begun without getting on before
	// Ensure gives up; 0 means 5.
	Attempts int
	// Backoff is the pause behind the first failed attempt, doubled up to
	// 16-fold; 0 means half a second.
	Backoff time.Duration
	// StallTimeout ends a transfer in which next to nothing arrives for so long; 0
	// means 30 s.
	StallTimeout time.Duration
	// Grace protects what was handed out this recently from Prune, whatever it
	// is told to keep; 0 means 10 minutes.
	Grace time.Duration
	// Reserve is how many bytes downloads and copies leave free, for what else
	// lives on the file system and cannot wait.
	Reserve int64
}

// Store is a directory of verified files. All methods may be called
// concurrently, and from several processes on one directory.
type Store struct {
	opts    Options
	flights flights
	run     string       // scratch directory of this store, below tmp
	runLock *flock.Flock // held as long as run is in use
	own     *http.Transport
	freeFor func(dir string) (int64, error)
	short   shortages

	// use is held for reading while something is handed out and for writing
	// while Prune removes.
	use sync.RWMutex
}

const (
	dirMode  = 0o700
	fileMode = 0o600
	blobMode = 0o400
	// stalePartial is how long a download that nobody goes on with is kept.
	stalePartial = 7 * 24 * time.Hour
	lockPoll     = 100 * time.Millisecond
)

// Open makes the directory when it is not there and removes what interrupted
// runs left behind. Close the store after use.
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
	setDefault(&opts.Grace, 10*time.Minute)
	s := &Store{opts: opts, freeFor: freeSpace}
	for _, sub := range []string{"sha256", "verified", "sources", "derived", "partial", "locks", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), dirMode); err != nil {
			return nil, fmt.Errorf("making artifact store: %w", err)
		}
	}
	if s.opts.Client == nil {
		s.own = newTransport()
		s.opts.Client = &http.Client{Transport: s.own}
	}
	if err := s.begin(); err != nil {
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

// begin removes what dead runs left and makes a scratch directory for this one.
func (s *Store) begin() error {
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
	s.runLock = flock.New(filepath.Join(s.run, "lock"))
	ok, err := s.runLock.TryLock()
	if err == nil && !ok {
		err = errors.New("a new scratch directory is locked by somebody else")
	}
	return err
}

// dropStalePartials removes downloads that nobody went on with for long. That
// they cannot be removed is no reason not to open the store.
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

// Close removes the scratch files of this store. Calls must have returned.
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

// lock takes the lock of key against other processes and other stores in this
// one. waiting, when not nil, is called when it is not free at once.
func (s *Store) lock(ctx context.Context, key string, waiting func()) (unlock func(), err error) {
	l := flock.New(s.path("locks", key), flock.SetPermissions(fileMode))
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
	return func() { _ = l.Close() }, nil
}

// Ensure returns the content of src, fetching, verifying and storing it first
// when it is not there. It blocks until done or ctx ends; calls for the same
// source share one transfer. A transfer that breaks off is gone on with, by
// this call or the next. progress, when not nil, is called on the caller's
// goroutine. A source that was resolved once is not asked for again: a remote
// checksum file that changes later does not change what a source means.
// Errors are *Error unless ctx ended or the store itself cannot be used.
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
	if err := checkFormat(a.Path, src.Format, src); err != nil {
		return Artifact{}, err
	}
	return a, nil
}

// Get returns content by its digest when it is in the store and unchanged.
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

// Forget drops what a source was resolved to, so that the next Ensure reads
// its checksum file again. Content stays.
func (s *Store) Forget(src Source) error {
	err := os.Remove(s.path("sources", src.key()))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// recall answers from what is known, without a network, a lock or a hash.
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

// fetch is the work of Ensure, under the lock of the source.
func (s *Store) fetch(ctx context.Context, c *checked, m *meter) (Artifact, error) {
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

// resolved tells which content a source stands for, if that is known: because
// the source says so or because it was found out before and the local files
// are still the same.
func (s *Store) resolved(c *checked) (digest string, ok bool) {
	if c.sum.algo == "sha256" {
		return c.sum.hex, true
	}
	var r sourceRecord
	if c.sum.algo == "sha512" {
		if !readRecord(s.path("sources", "sha512-"+c.sum.hex), &r) {
			return "", false
		}
		return r.Digest, true
	}
	if !readRecord(s.path("sources", c.key()), &r) {
		return "", false
	}
	if c.Path != "" && !s.sameFiles(c, &r) {
		return "", false
	}
	return r.Digest, true
}

// adopt moves a verified file into the store under its digest, unless good
// content is there already, and remembers what the source stands for. file
// must be on the store's file system and is gone afterwards.
func (s *Store) adopt(file string, sums digests, c *checked, files *localFiles) (Artifact, error) {
	if err := s.insert(file, sums.sha256); err != nil {
		return Artifact{}, err
	}
	if err := s.remember(c, sums, files); err != nil {
		return Artifact{}, err
	}
	a, state := s.observe(sums.sha256)
	if state != blobGood {
		return Artifact{}, fmt.Errorf("artifact sha256:%s vanished from %s right after it was stored", sums.sha256, s.opts.Dir)
	}
	return a, nil
}
