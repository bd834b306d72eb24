// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

func TestReferences(t *testing.T) {
	source := func(name string) v1alpha1.ArtifactSource {
		return v1alpha1.ArtifactSource{Path: v1alpha1.ArtifactPath(name), Checksum: "SHA256SUMS"}
	}
	kernel, initrd := source("kernel"), source("initrd")
	profile := v1alpha1.BootProfile{
		Spec: v1alpha1.BootProfileSpec{Image: &v1alpha1.ImageBoot{
			Source: v1alpha1.BootImageSource{Path: "image", Checksum: "SHA256SUMS", Format: "qcow2"},
			Kernel: &kernel, Initrd: &initrd,
		}},
		Status: v1alpha1.BootProfileStatus{Artifacts: []v1alpha1.ArtifactStatus{
			{Name: ArtifactKernel, Digest: "sha256:1"}, {Name: ArtifactImage, State: v1alpha1.ReasonConverting},
		}},
	}
	server := v1alpha1.ProvisioningServer{Spec: v1alpha1.ProvisioningServerSpec{
		Machine: v1alpha1.ServerMachine{Image: v1alpha1.ImageSource{ArtifactSource: source("server"), Format: "raw.xz"}},
		IPXE:    []v1alpha1.IPXEProgram{{Architecture: v1alpha1.ArchitectureX86_64, Source: source("ipxe")}},
	}}
	want := ArtifactReferences{
		Sources: []ReferredSource{
			{source("kernel"), ""}, {source("initrd"), ""}, {source("image"), "qcow2"},
			{source("server"), "raw.xz"}, {source("ipxe"), ""},
		},
		Digests: []string{"sha256:1"},
	}
	got := References([]v1alpha1.BootProfile{profile}, []v1alpha1.ProvisioningServer{server})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("references (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(ArtifactReferences{}, References(nil, nil)); diff != "" {
		t.Errorf("references of nothing (-want +got):\n%s", diff)
	}
}

func TestUnusedArtifacts(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	stored := func(digest string, idle time.Duration, from ...string) StoredArtifact {
		return StoredArtifact{Digest: digest, Bytes: 10, UsedAt: now.Add(-idle), From: from}
	}
	const day = 24 * time.Hour
	for _, c := range []struct {
		name  string
		in    PruneInput
		want  []string
		grace time.Duration
	}{
		{
			name: "unused content is removed after the grace period",
			in:   PruneInput{Stored: []StoredArtifact{stored("old", day), stored("new", day-time.Second)}},
			want: []string{"old"},
		},
		{
			name: "content that is referred to stays",
			in:   PruneInput{Stored: []StoredArtifact{stored("old", 9*day), stored("used", 9*day)}, Referred: map[string]bool{"used": true}},
			want: []string{"old"},
		},
		{
			name: "conversions of content that is referred to stay",
			in: PruneInput{
				Stored:   []StoredArtifact{stored("stream of raw", 9*day, "raw"), stored("raw", 9*day, "image"), stored("image", 9*day)},
				Referred: map[string]bool{"image": true},
			},
		},
		{
			name: "conversions of an earlier program go although their origin stays",
			in: PruneInput{
				Stored:   []StoredArtifact{stored("earlier stream", 2*day), stored("image", 9*day)},
				Referred: map[string]bool{"image": true},
			},
			want: []string{"earlier stream"},
		},
		{
			name: "the origin of content that is referred to goes unless a spec refers to it",
			in: PruneInput{
				Stored:   []StoredArtifact{stored("stream", 2*day, "image"), stored("image", 2*day)},
				Referred: map[string]bool{"stream": true},
			},
			want: []string{"image"},
		},
		{
			name: "conversions of unused content go with it, least recently used first",
			in:   PruneInput{Stored: []StoredArtifact{stored("stream", 2*day, "image"), stored("image", 3*day)}},
			want: []string{"image", "stream"},
		},
		{
			name: "a short disk ends the grace period of as much as is needed, oldest first",
			in: PruneInput{
				Stored: []StoredArtifact{stored("c", time.Hour), stored("a", 3*time.Hour), stored("b", 2*time.Hour)},
				Free:   85, Floor: 100,
			},
			want: []string{"a", "b"},
		},
		{
			name: "a short disk does not remove what is referred to or in recent use",
			in: PruneInput{
				Stored: []StoredArtifact{
					stored("used", 9*day), stored("recent", ArtifactRecentUse-time.Second),
					stored("derived from recent", time.Hour, "recent"), stored("idle", ArtifactRecentUse),
				},
				Referred: map[string]bool{"used": true},
				Floor:    1000,
			},
			want: []string{"idle"},
		},
		{
			name: "what has expired counts towards the floor",
			in:   PruneInput{Stored: []StoredArtifact{stored("expired", 2*day), stored("idle", time.Hour)}, Free: 95, Floor: 100},
			want: []string{"expired"},
		},
		{
			name:  "a grace period of less than recent use does not end that",
			in:    PruneInput{Stored: []StoredArtifact{stored("recent", time.Minute)}},
			grace: time.Second,
		},
		{
			name: "content from the future stays",
			in:   PruneInput{Stored: []StoredArtifact{stored("future", -day)}, Floor: 1000},
		},
		{name: "an empty store", in: PruneInput{Floor: 1000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.in.Now = now
			c.in.Grace = day
			if c.grace > 0 {
				c.in.Grace = c.grace
			}
			var got []string
			for _, a := range UnusedArtifacts(c.in) {
				got = append(got, a.Digest)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("content to remove (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUnusedArtifactsWithoutGraceOrFloor(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	in := PruneInput{Stored: []StoredArtifact{{Digest: "old", Bytes: 10, UsedAt: now.AddDate(-1, 0, 0)}}, Now: now}
	if got := UnusedArtifacts(in); len(got) != 0 {
		t.Errorf("got %v to remove without a grace period and a floor, want nothing", got)
	}
	in.Floor = 1
	if got := UnusedArtifacts(in); len(got) != 1 {
		t.Errorf("got %v to remove on a full disk, want the unused content", got)
	}
}
