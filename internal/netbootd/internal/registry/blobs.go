// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"fmt"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// MaxFileBytes limits one uploaded file. It is far above that of any image and keeps
// sums of sizes from overflowing.
const MaxFileBytes = 1 << 50

// CheckBlob returns an error, which wraps ErrInvalid, if b cannot be uploaded.
func CheckBlob(b netbootapi.Blob) error {
	limit := int64(MaxFileBytes)
	switch {
	case netbootapi.ValidTextDigest(b.Digest):
		limit = netbootapi.MaxKeysBytes
	case !netbootapi.ValidDigest(b.Digest):
		return fmt.Errorf("%w: the digest is neither sha256:<64 hex digits> nor hmac-sha256:<64 hex digits>", netbootapi.ErrInvalid)
	}
	if b.Size <= 0 || b.Size > limit {
		return fmt.Errorf("%w: the size %d is not between 1 and %d", netbootapi.ErrInvalid, b.Size, limit)
	}
	return nil
}

// Has reports whether a blob is stored whole.
func (r *Registry) Has(digest string) bool {
	_, stored := r.stored[digest]
	return stored
}

// Damaged reports whether a blob must be uploaded again because what is stored under its
// digest has another size. If something in force names the digest, its size is that which
// is stored, and it is b that is wrong.
func (r *Registry) Damaged(b netbootapi.Blob) bool {
	size, stored := r.stored[b.Digest]
	return stored && size != b.Size && !r.Named(b.Digest)
}

// Whole reports whether a blob is stored whole. The error wraps ErrInvalid if it cannot
// be uploaded, or is stored with another size.
func (r *Registry) Whole(b netbootapi.Blob) (bool, error) {
	if err := CheckBlob(b); err != nil {
		return false, err
	}
	return r.Has(b.Digest) && !r.Damaged(b), r.sizes([]netbootapi.Blob{b})
}

// Stored records that a blob of size bytes is stored whole, and publishes if that
// concerns the state.
func (r *Registry) Stored(digest string, size int64) {
	r.stored[digest] = size
	r.blobChanged(digest)
}

// Lost records that a blob is not stored any more.
func (r *Registry) Lost(digest string) {
	delete(r.stored, digest)
	r.blobChanged(digest)
}

func (r *Registry) blobChanged(digest string) {
	users := r.named[digest]
	for uid := range users {
		if m := r.machines[uid]; m != nil {
			r.touch(m)
		}
	}
	if _, program := users[forServer]; program {
		r.EditServer(func(*netbootapi.State) {})
	}
	if len(users) > 0 {
		r.Publish()
	}
}

// Named reports whether the configuration or an entry names a blob.
func (r *Registry) Named(digest string) bool { return len(r.named[digest]) > 0 }

func (r *Registry) name(user string, blobs []netbootapi.Blob) {
	for _, b := range blobs {
		if r.named[b.Digest] == nil {
			r.named[b.Digest] = map[string]struct{}{}
		}
		r.named[b.Digest][user] = struct{}{}
	}
}

func (r *Registry) unname(user string, blobs []netbootapi.Blob) {
	for _, b := range blobs {
		delete(r.named[b.Digest], user)
		if len(r.named[b.Digest]) == 0 {
			delete(r.named, b.Digest)
		}
	}
}

// TextKey returns the key with which texts are verified; the error is ErrNoServer before
// the first configuration.
func (r *Registry) TextKey() ([]byte, error) {
	if r.config == nil {
		return nil, netbootapi.ErrNoServer
	}
	return r.config.TextKey, nil
}
