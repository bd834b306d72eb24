// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"slices"
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// ReferredSource is a source to which a spec refers.
type ReferredSource struct {
	v1alpha1.ArtifactSource
	// Format is that of a disk image; empty for other files.
	Format string
}

// ArtifactReferences is what the objects refer to.
type ArtifactReferences struct {
	Sources []ReferredSource
	// Digests is the content that a status names.
	Digests []string
}

// References returns what profiles and servers refer to, by their spec and by their
// status. The status of a profile that was edited names content that is still served.
func References(profiles []v1alpha1.BootProfile, servers []v1alpha1.ProvisioningServer) ArtifactReferences {
	var refs ArtifactReferences
	add := func(src v1alpha1.ArtifactSource, format string) {
		refs.Sources = append(refs.Sources, ReferredSource{src, format})
	}
	for i := range profiles {
		p := &profiles[i]
		if i := p.Spec.Image; i != nil && i.Kernel != nil && i.Initrd != nil {
			add(*i.Kernel, "")
			add(*i.Initrd, "")
			add(i.Source.Artifact(), string(i.Source.Format))
		}
		for _, a := range p.Status.Artifacts {
			if a.Digest != "" {
				refs.Digests = append(refs.Digests, a.Digest)
			}
		}
	}
	for i := range servers {
		s := &servers[i]
		image := s.Spec.Machine.Image
		add(image.ArtifactSource, string(image.Format))
		for _, program := range s.Spec.IPXE {
			add(program.Source, "")
		}
	}
	return refs
}

// StoredArtifact is content in the artifact store.
type StoredArtifact struct {
	Digest string
	Bytes  int64 // disk space
	// UsedAt is when the content was stored or last requested.
	UsedAt time.Time
	// From is the content from which this was derived in a way that is still in use.
	From []string
}

// ArtifactRecentUse protects content that was used this recently. An object that refers
// to it may be newer than the list of references, and a converter may still read it.
const ArtifactRecentUse = 10 * time.Minute

// PruneInput is the input of UnusedArtifacts.
type PruneInput struct {
	Stored []StoredArtifact
	// Referred has the digests to which an object, a disk or a connection refers.
	Referred map[string]bool
	Now      time.Time
	// Grace is how long unused content stays; 0 is for ever.
	Grace time.Duration
	// Free is the free disk space. Below Floor, unused content is removed before
	// Grace has passed. A Floor of 0 is never reached.
	Free, Floor int64
}

// UnusedArtifacts returns the content to remove, least recently used first. It never
// returns content that is referred to or was derived from it, or that was used within
// ArtifactRecentUse.
func UnusedArtifacts(in PruneInput) []StoredArtifact {
	idle := func(a StoredArtifact) time.Duration { return in.Now.Sub(a.UsedAt) }
	needed := neededArtifacts(in.Stored, func(a StoredArtifact) bool { return in.Referred[a.Digest] || idle(a) < ArtifactRecentUse })
	unused := slices.DeleteFunc(slices.Clone(in.Stored), func(a StoredArtifact) bool { return needed[a.Digest] })
	slices.SortFunc(unused, func(a, b StoredArtifact) int {
		return cmp.Or(a.UsedAt.Compare(b.UsedAt), cmp.Compare(a.Digest, b.Digest))
	})
	free := in.Free
	for i, a := range unused {
		expired := in.Grace > 0 && idle(a) >= in.Grace
		if !expired && free >= in.Floor {
			return unused[:i] // all others are younger
		}
		free += a.Bytes
	}
	return unused
}

// neededArtifacts returns the digests of the content that is needed, and of all that was
// derived from it.
func neededArtifacts(stored []StoredArtifact, direct func(StoredArtifact) bool) map[string]bool {
	needed := map[string]bool{}
	for _, a := range stored {
		if direct(a) {
			needed[a.Digest] = true
		}
	}
	for changed := true; changed; {
		changed = false
		for _, a := range stored {
			if !needed[a.Digest] && slices.ContainsFunc(a.From, func(from string) bool { return needed[from] }) {
				needed[a.Digest] = true
				changed = true
			}
		}
	}
	return needed
}
