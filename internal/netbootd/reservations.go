// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"slices"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/registry"
)

// reservation is the content that a refused config or entry names. It is likely to be put
// again once the rest was uploaded, or its fault was corrected.
type reservation struct {
	digests []string
	at      time.Time // of the refusal
}

// reserve keeps what a refused config (an empty uid) or entry names for the grace period.
func (b *blobStore) reserve(uid string, blobs []netbootapi.Blob) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := reservation{at: b.now()}
	for _, blob := range blobs {
		if registry.CheckBlob(blob) == nil {
			r.digests = append(r.digests, blob.Digest)
		}
	}
	if _, known := b.reserved[uid]; known || len(b.reserved) <= netbootapi.MaxMachines {
		b.reserved[uid] = r
	}
}

// unreserve ends a reservation: its entry was accepted, which names the content now, or
// its machine was removed.
func (b *blobStore) unreserve(uid string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.reserved, uid)
}

// held returns what is reserved, and ends the reservations whose period is over; callers
// hold mu. A reservation does not end while some of its content is being uploaded, which
// may take longer than the period.
func (b *blobStore) held(now time.Time) map[string]bool {
	held := map[string]bool{}
	for uid, r := range b.reserved {
		if now.Sub(r.at) >= b.grace && !slices.ContainsFunc(r.digests, b.uploading) {
			delete(b.reserved, uid)
			continue
		}
		for _, digest := range r.digests {
			held[digest] = true
		}
	}
	return held
}

// heldWith returns what is reserved together with a blob; callers hold mu.
func (b *blobStore) heldWith(digest string) map[string]bool {
	with := map[string]bool{}
	for _, r := range b.reserved {
		if slices.Contains(r.digests, digest) {
			for _, d := range r.digests {
				with[d] = true
			}
		}
	}
	return with
}
