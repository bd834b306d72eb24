// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/pxelab/pxelab/internal/agent"
)

const (
	partSuffix = ".part"
	// spare is left free for the system beside a blob.
	spare = 64 << 20
)

// blobStore keeps uploaded content under its digest: <hex> once whole and
// verified, <hex>.part before. Only blobs that the configuration names are
// kept.
type blobStore struct {
	dir string
	// changed is called, without any lock held, when a blob came or went.
	changed func(have map[string]bool)

	mu     sync.Mutex
	wanted map[string]agent.Blob
	have   map[string]bool
	parts  map[string]*part
}

// part is an upload under way or broken off. Its lock is a channel, so that
// one who waits for it can give up.
type part struct {
	lock chan struct{}
	// sum is the hash of the first size bytes of the file; nil after a
	// restart, until they are read again.
	sum  hash.Hash
	size int64
}

func openBlobs(dir string, changed func(map[string]bool)) (*blobStore, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the blob directory: %w", err)
	}
	return &blobStore{
		dir: dir, changed: changed,
		wanted: map[string]agent.Blob{}, have: map[string]bool{}, parts: map[string]*part{},
	}, nil
}

// path of a valid digest's content.
func (b *blobStore) path(digest string) string {
	return filepath.Join(b.dir, strings.TrimPrefix(digest, "sha256:"))
}

// want makes blobs the ones to keep and removes all others.
func (b *blobStore) want(blobs []agent.Blob) error {
	b.mu.Lock()
	b.wanted = map[string]agent.Blob{}
	for _, blob := range blobs {
		b.wanted[blob.Digest] = blob
	}
	err := b.collect()
	have := b.copyHave()
	b.mu.Unlock()
	b.changed(have)
	return err
}

// collect compares the directory with what is wanted; callers hold mu.
func (b *blobStore) collect() error {
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return fmt.Errorf("listing blobs: %w", err)
	}
	b.have = map[string]bool{}
	var errs []error
	for _, e := range entries {
		digest := "sha256:" + strings.TrimSuffix(e.Name(), partSuffix)
		blob, wanted := b.wanted[digest]
		whole := !strings.HasSuffix(e.Name(), partSuffix)
		if info, err := e.Info(); wanted && whole && err == nil {
			b.have[digest] = info.Size() == blob.Size
			wanted = b.have[digest]
		}
		if !wanted {
			// A part keeps its entry, and with it its lock: an upload may
			// still be writing to it.
			errs = append(errs, os.Remove(filepath.Join(b.dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

func (b *blobStore) copyHave() map[string]bool {
	have := map[string]bool{}
	for digest, whole := range b.have {
		if whole {
			have[digest] = true
		}
	}
	return have
}

// open opens a blob that is here whole.
func (b *blobStore) open(digest string) (*os.File, error) {
	b.mu.Lock()
	whole := b.have[digest]
	b.mu.Unlock()
	if !whole {
		return nil, fmt.Errorf("blob %s: %w", digest, fs.ErrNotExist)
	}
	return os.Open(b.path(digest))
}

func (b *blobStore) offset(digest string) (int64, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	blob, wanted := b.wanted[digest]
	if !wanted {
		return 0, false, agent.ErrUnknownBlob
	}
	if b.have[digest] {
		return blob.Size, true, nil
	}
	info, err := os.Stat(b.path(digest) + partSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	return min(info.Size(), blob.Size), false, nil
}

// write appends r to the part that is here, and verifies and keeps the whole.
func (b *blobStore) write(ctx context.Context, digest string, offset int64, r io.Reader) error {
	b.mu.Lock()
	blob, wanted := b.wanted[digest]
	p := b.parts[digest]
	if wanted && p == nil {
		p = &part{lock: make(chan struct{}, 1)}
		b.parts[digest] = p
	}
	b.mu.Unlock()
	if !wanted {
		return fmt.Errorf("%w: %s", agent.ErrUnknownBlob, digest)
	}
	// An earlier upload whose peer died holds the part until it runs into its
	// own deadline.
	select {
	case p.lock <- struct{}{}:
		defer func() { <-p.lock }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if _, whole, _ := b.offset(digest); whole {
		return nil
	}
	if err := b.append(p, blob, offset, r); err != nil {
		return err
	}
	b.mu.Lock()
	if _, wanted = b.wanted[digest]; wanted {
		b.have[digest] = true
	}
	delete(b.parts, digest)
	have := b.copyHave()
	b.mu.Unlock()
	b.changed(have)
	return nil
}

func (b *blobStore) append(p *part, blob agent.Blob, offset int64, r io.Reader) (err error) {
	path := b.path(blob.Digest)
	f, err := os.OpenFile(path+partSuffix, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return noSpace(fmt.Errorf("storing %s: %w", blob.Digest, err))
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := p.resume(f, blob.Size); err != nil {
		return fmt.Errorf("reading the stored part of %s: %w", blob.Digest, err)
	}
	if offset != p.size {
		return fmt.Errorf("%w: at %d, not %d", agent.ErrOffset, p.size, offset)
	}
	if free, err := freeBytes(b.dir); err == nil && free < blob.Size-offset+spare {
		return fmt.Errorf("%w: %d MB are needed and %d MB free: give the provisioning server a larger disk",
			agent.ErrNoSpace, (blob.Size-offset+spare)>>20, free>>20)
	}
	if err := p.copy(f, r, blob.Size-offset); err != nil {
		return noSpace(fmt.Errorf("storing %s: %w", blob.Digest, err))
	}
	if p.size < blob.Size {
		return fmt.Errorf("storing %s: the upload ended after %d of %d bytes: %w", blob.Digest, p.size, blob.Size, io.ErrUnexpectedEOF)
	}
	sum := "sha256:" + hex.EncodeToString(p.sum.Sum(nil))
	if sum != blob.Digest {
		p.sum, p.size = nil, 0
		return errors.Join(fmt.Errorf("%w: expected %s, got %s", agent.ErrDigest, blob.Digest, sum), os.Remove(path+partSuffix))
	}
	// The name without suffix says verified, also after a power cut.
	if err := f.Sync(); err != nil {
		return noSpace(fmt.Errorf("storing %s: %w", blob.Digest, err))
	}
	return os.Rename(path+partSuffix, path)
}

// resume makes sum and file agree: after a restart by reading what is there,
// after a failed write by cutting off what was not counted.
func (p *part) resume(f *os.File, limit int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if p.sum == nil || info.Size() < p.size {
		p.sum, p.size = sha256.New(), 0
		n, err := io.Copy(p.sum, io.LimitReader(f, limit))
		p.size = n
		if err != nil {
			p.sum = nil
			return err
		}
	}
	if err := f.Truncate(p.size); err != nil {
		return err
	}
	_, err = f.Seek(p.size, io.SeekStart)
	return err
}

func (p *part) copy(f *os.File, r io.Reader, limit int64) error {
	buf := make([]byte, 256<<10)
	r = io.LimitReader(r, limit)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := f.Write(buf[:n]); err != nil {
				return err
			}
			p.sum.Write(buf[:n])
			p.size += int64(n)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
