// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"os"
)

// room removes unnamed content, the longest unnamed first and what is reserved last, until
// need bytes are free, and returns how many are. If all of it is not enough it removes
// nothing, and returns how many could be. It keeps the blob that needs the room, and what
// is reserved together with it.
func (b *blobStore) room(need int64, digest string) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	free, err := b.free(b.dir)
	if err != nil || free >= need {
		return free, err
	}
	evictable := b.evictable(digest)
	possible := free
	for _, digest := range evictable {
		possible += b.evictableBytes(digest)
	}
	if possible < need {
		return possible, nil
	}
	for _, digest := range evictable {
		if err := b.remove(digest); err != nil {
			return free, err
		}
		if free, err = b.free(b.dir); err != nil || free >= need {
			return free, err
		}
	}
	return free, nil
}

// evictable returns what may be removed for a blob, in this order; callers hold mu.
func (b *blobStore) evictable(blob string) []string {
	now := b.now()
	held, with := b.held(now), b.heldWith(blob)
	var unreserved, reserved []string
	for _, digest := range b.candidates(now) {
		switch {
		case digest == blob || with[digest]:
		case held[digest]:
			reserved = append(reserved, digest)
		default:
			unreserved = append(unreserved, digest)
		}
	}
	return append(unreserved, reserved...)
}

// evictableBytes returns how many bytes the removal of a blob or a part would free;
// callers hold mu.
func (b *blobStore) evictableBytes(digest string) int64 {
	path := b.path(digest)
	if _, whole := b.have[digest]; !whole {
		if b.uploading(digest) {
			return 0
		}
		path += partSuffix
	}
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// uploading reports whether an upload of a blob is in progress; callers hold mu.
func (b *blobStore) uploading(digest string) bool {
	p := b.parts[digest]
	return p != nil && len(p.lock) > 0
}
