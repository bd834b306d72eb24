// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"cmp"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

const (
	partSuffix = ".part"
	// spare is the space in bytes that the upload of a file leaves free: for texts, entries
	// and observations. spareOfTexts is what that of a text leaves free of it.
	spare        = 64 << 20
	spareOfTexts = 8 << 20
)

// spareOf returns the space in bytes that the upload of a blob leaves free. An image that
// fills the disk must not keep out the text that another machine needs.
func spareOf(blob netbootapi.Blob) int64 {
	if blob.IsText() {
		return spareOfTexts
	}
	return spare
}

// blobStore stores uploaded content under its digest: as <kind>-<hex>.part until it is
// complete and verified, then as <kind>-<hex>. It removes what has neither been named nor
// reserved for a while, or earlier when an upload needs the space.
type blobStore struct {
	dir   string
	grace time.Duration
	now   func() time.Time
	// free returns the free space in a directory.
	free func(dir string) (int64, error)
	// state records what is stored and decides what is named. Its lock is taken while
	// mu is held, never the other way round.
	state *stateStore

	mu sync.Mutex
	// have holds the size of each whole blob.
	have  map[string]int64
	parts map[string]*part
	// unnamed holds since when a whole blob or a part has not been named, or written.
	unnamed map[string]time.Time
	// reserved holds what refused entries name, by UID, and under "" a refused config.
	reserved map[string]reservation
}

// part is an upload that is in progress or interrupted. Its lock is a channel,
// so that waiting for it can be cancelled.
type part struct {
	lock chan struct{}
	// sum is the hash, under key, of the first size bytes of the file; nil after a
	// restart until resume reads them.
	sum  hash.Hash
	key  []byte
	size int64
}

// openBlobs opens the directory, and reports to state what is stored.
func openBlobs(dir string, grace time.Duration, k *stateStore) (*blobStore, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the blob directory: %w", err)
	}
	b := &blobStore{
		dir: dir, grace: grace, now: k.now, free: hostfs.FreeSpace, state: k,
		have: map[string]int64{}, parts: map[string]*part{}, unnamed: map[string]time.Time{},
		reserved: map[string]reservation{},
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("listing blobs: %w", err)
	}
	for _, e := range entries {
		name, partial := strings.CutSuffix(e.Name(), partSuffix)
		digest := name
		if at := strings.LastIndexByte(name, '-'); at >= 0 {
			digest = name[:at] + ":" + name[at+1:]
		}
		info, err := e.Info()
		switch {
		case err != nil || !validDigest(digest):
			err = os.RemoveAll(filepath.Join(dir, e.Name()))
			if err != nil {
				return nil, fmt.Errorf("removing a file that is not a blob: %w", err)
			}
		case partial:
			b.parts[digest] = newPart()
		default:
			b.have[digest] = info.Size()
			k.blobStored(digest, info.Size())
		}
	}
	return b, nil
}

func newPart() *part { return &part{lock: make(chan struct{}, 1)} }

func validDigest(digest string) bool {
	return netbootapi.ValidDigest(digest) || netbootapi.ValidTextDigest(digest)
}

// path returns the file of a valid digest.
func (b *blobStore) path(digest string) string {
	return filepath.Join(b.dir, strings.Replace(digest, ":", "-", 1))
}

// sweep removes what has neither been named nor reserved for the grace period. It is
// called regularly.
func (b *blobStore) sweep() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	held := b.held(now)
	var errs []error
	for _, digest := range b.candidates(now) {
		if !held[digest] && now.Sub(b.unnamed[digest]) >= b.grace {
			errs = append(errs, b.remove(digest))
		}
	}
	return errors.Join(errs...)
}

// candidates returns what is not named, the longest unnamed first, and notes since when
// it is; callers hold mu.
func (b *blobStore) candidates(now time.Time) []string {
	var out []string
	add := func(digest string) {
		if b.state.blobNamed(digest) {
			delete(b.unnamed, digest)
			return
		}
		if _, noted := b.unnamed[digest]; !noted {
			b.unnamed[digest] = now
		}
		out = append(out, digest)
	}
	for digest := range b.have {
		add(digest)
	}
	for digest := range b.parts {
		if _, whole := b.have[digest]; !whole {
			add(digest)
		}
	}
	slices.SortFunc(out, func(x, y string) int {
		return cmp.Or(b.unnamed[x].Compare(b.unnamed[y]), cmp.Compare(x, y))
	})
	return out
}

// released notes that blobs were named until now.
func (b *blobStore) released(blobs []netbootapi.Blob) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	for _, blob := range blobs {
		if _, whole := b.have[blob.Digest]; whole && !b.state.blobNamed(blob.Digest) {
			b.unnamed[blob.Digest] = now
		}
	}
}

// remove removes a blob or a part that is not being written; callers hold mu.
func (b *blobStore) remove(digest string) error {
	path := b.path(digest)
	if p := b.parts[digest]; p != nil {
		select {
		case p.lock <- struct{}{}:
			defer func() { <-p.lock }()
		default:
			return nil // an upload is in progress
		}
		// An upload that waits for the lock starts over.
		p.sum, p.size = nil, 0
		delete(b.parts, digest)
		path += partSuffix
	}
	if _, whole := b.have[digest]; whole {
		path = b.path(digest)
		delete(b.have, digest)
		b.state.blobLost(digest)
	}
	delete(b.unnamed, digest)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", digest, err)
	}
	return nil
}

// expect removes a stored blob of another size than an entry names: the file is damaged.
func (b *blobStore) expect(blobs []netbootapi.Blob) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for _, blob := range blobs {
		if size, whole := b.have[blob.Digest]; whole && size != blob.Size {
			errs = append(errs, b.remove(blob.Digest))
		}
	}
	return errors.Join(errs...)
}

// open opens a blob that is stored completely. A blob whose file was lost, or has another
// size, is not stored any more, so that it is uploaded again.
func (b *blobStore) open(digest string) (*os.File, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	size, whole := b.have[digest]
	if !whole {
		return nil, fmt.Errorf("blob %s: %w", digest, fs.ErrNotExist)
	}
	f, err := os.Open(b.path(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(err, b.remove(digest))
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != size {
		err = errors.Join(fmt.Errorf("blob %s has %d bytes instead of %d", digest, info.Size(), size), b.remove(digest))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// text returns a text; "" for the zero Blob.
func (b *blobStore) text(blob netbootapi.Blob) (string, error) {
	if blob == (netbootapi.Blob{}) {
		return "", nil
	}
	f, err := b.open(blob.Digest)
	if err != nil {
		return "", err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, netbootapi.MaxKeysBytes))
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", blob.Digest, err)
	}
	return string(raw), nil
}
