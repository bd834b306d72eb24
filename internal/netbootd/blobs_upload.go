// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/registry"
)

// offset returns how many bytes of a blob are stored, and whether it is whole. The error
// wraps ErrInvalid for one that cannot be uploaded, or that is stored with another size.
func (b *blobStore) offset(blob netbootapi.Blob) (int64, bool, error) {
	if err := registry.CheckBlob(blob); err != nil {
		return 0, false, err
	}
	b.mu.Lock()
	size, whole := b.have[blob.Digest]
	damaged := b.state.blobDamaged(blob)
	b.mu.Unlock()
	if damaged {
		return 0, false, nil
	}
	if whole && size != blob.Size {
		return 0, false, fmt.Errorf("%w: %s has %d bytes, not %d", netbootapi.ErrInvalid, blob.Digest, size, blob.Size)
	}
	if whole {
		return size, true, nil
	}
	info, err := os.Stat(b.path(blob.Digest) + partSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	return min(info.Size(), blob.Size), false, nil
}

// write appends r to the stored part and, once it is complete, verifies it.
func (b *blobStore) write(ctx context.Context, blob netbootapi.Blob, offset int64, r io.Reader) error {
	if err := registry.CheckBlob(blob); err != nil {
		return err
	}
	var key []byte
	if blob.IsText() {
		var err error
		if key, err = b.state.textKey(); err != nil {
			return err
		}
	}
	if err := b.removeDamaged(blob); err != nil {
		return err
	}
	p, err := b.lock(ctx, blob.Digest)
	if err != nil {
		return err
	}
	defer func() { <-p.lock }()
	if _, whole, err := b.offset(blob); whole || err != nil {
		return err
	}
	if !bytes.Equal(p.key, key) {
		p.key, p.sum = key, nil
	}
	err = b.append(p, blob, offset, r)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unnamed[blob.Digest] = b.now()
	if err != nil {
		return err
	}
	delete(b.parts, blob.Digest)
	b.have[blob.Digest] = blob.Size
	b.state.blobStored(blob.Digest, blob.Size)
	return nil
}

// removeDamaged removes what is stored in place of a blob.
func (b *blobStore) removeDamaged(blob netbootapi.Blob) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.state.blobDamaged(blob) {
		return nil
	}
	return b.remove(blob.Digest)
}

// lock locks the part of a blob. An earlier upload whose client died holds the lock until
// its read times out.
func (b *blobStore) lock(ctx context.Context, digest string) (*part, error) {
	for {
		b.mu.Lock()
		p := b.parts[digest]
		if p == nil {
			p = newPart()
			if _, whole := b.have[digest]; !whole {
				b.parts[digest] = p
			}
		}
		b.mu.Unlock()
		select {
		case p.lock <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		b.mu.Lock()
		_, whole := b.have[digest]
		current := b.parts[digest] == p
		b.mu.Unlock()
		if current || whole {
			return p, nil
		}
		<-p.lock // the part was removed meanwhile
	}
}

func (b *blobStore) append(p *part, blob netbootapi.Blob, offset int64, r io.Reader) (err error) {
	path := b.path(blob.Digest)
	f, err := os.OpenFile(path+partSuffix, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return noSpace(fmt.Errorf("storing %s: %w", blob.Digest, err))
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := p.resume(f, blob); err != nil {
		return fmt.Errorf("reading the stored part of %s: %w", blob.Digest, err)
	}
	if offset != p.size {
		return fmt.Errorf("%w: got offset %d, want %d", netbootapi.ErrOffset, offset, p.size)
	}
	need := blob.Size - offset + spareOf(blob)
	if free, err := b.room(need, blob.Digest); err == nil && free < need {
		return fmt.Errorf("%w: %d MB needed, at most %d MB can be freed; give the provisioning server a larger disk",
			netbootapi.ErrNoSpace, need>>20, free>>20)
	}
	if err := p.copy(f, r, blob.Size-offset); err != nil {
		return noSpace(fmt.Errorf("storing %s: %w", blob.Digest, err))
	}
	if p.size < blob.Size {
		return fmt.Errorf("storing %s: the upload ended after %d of %d bytes: %w", blob.Digest, p.size, blob.Size, io.ErrUnexpectedEOF)
	}
	if sum := netbootapi.BlobDigest(blob.Digest, p.sum); sum != blob.Digest {
		p.sum, p.size = nil, 0
		return errors.Join(fmt.Errorf("%w: got %s, want %s", netbootapi.ErrDigest, sum, blob.Digest), os.Remove(path+partSuffix))
	}
	// A file without the suffix must be verified content even after a power
	// failure.
	if err := f.Sync(); err != nil {
		return noSpace(fmt.Errorf("storing %s: %w", blob.Digest, err))
	}
	return os.Rename(path+partSuffix, path)
}

// resume makes sum and file agree: after a restart it reads the file, after a
// failed write it truncates the file to the bytes that are in sum.
func (p *part) resume(f *os.File, blob netbootapi.Blob) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if p.sum == nil || info.Size() < p.size || p.size > blob.Size {
		p.sum, p.size = netbootapi.BlobHash(blob.Digest, p.key), 0
		n, err := io.Copy(p.sum, io.LimitReader(f, blob.Size))
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
