// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

func available(name string) ArtifactObservation {
	return ArtifactObservation{Status: v1alpha1.ArtifactStatus{Name: name, State: v1alpha1.ReasonAvailable, Digest: "sha256:" + name}}
}

func downloading(name string) ArtifactObservation {
	return ArtifactObservation{Status: v1alpha1.ArtifactStatus{Name: name, State: v1alpha1.ReasonDownloading, Progress: "10%"}}
}

func failedArtifact(name, reason string, retry time.Duration) ArtifactObservation {
	return ArtifactObservation{
		Status:        v1alpha1.ArtifactStatus{Name: name, State: v1alpha1.ReasonFailed, Message: "broken"},
		FailureReason: reason, RetryAfter: retry,
	}
}

func recordedArtifact(name string) ArtifactObservation {
	o, was := downloading(name), available(name).Status
	o.Recorded = &was
	return o
}

func TestProfileReportsWarnings(t *testing.T) {
	o := ProfileObservation{Warnings: []string{"line 2: a", "line 3: b"}}
	valid := Profile(profile(), o).Conditions[0]
	if valid.Status != metav1.ConditionTrue || valid.Message != "the spec is valid; check: line 2: a; line 3: b" {
		t.Errorf("got %+v, want the warnings in the condition Valid", valid)
	}
}

func TestProfile(t *testing.T) {
	type artifacts = []ArtifactObservation
	badTemplate := invalid(v1alpha1.ReasonBadTemplate, "spec.userData: bad")
	for name, c := range map[string]struct {
		invalid   error
		artifacts artifacts
		reasons   []string // of Valid, ArtifactsReady and Ready
		message   string   // of Ready
		progress  string
		retry     time.Duration
		ready     bool
	}{
		"ready": {
			nil, artifacts{available("kernel"), available("image")},
			[]string{v1alpha1.ReasonValid, v1alpha1.ReasonAvailable, v1alpha1.ReasonReady}, "targets can be installed", "", 0, true,
		},
		"recorded_content_is_looked_up_again": {
			nil, artifacts{available("kernel"), recordedArtifact("image")},
			[]string{v1alpha1.ReasonValid, v1alpha1.ReasonAvailable, v1alpha1.ReasonReady}, "targets can be installed", "", 0, true,
		},
		"downloading": {
			nil, artifacts{downloading("kernel"), downloading("image")},
			[]string{v1alpha1.ReasonValid, v1alpha1.ReasonDownloading, v1alpha1.ReasonDownloading},
			"being fetched: kernel 10%, image 10%", "kernel 10%, image 10%", 0, false,
		},
		"failure_precedes_progress": {
			nil, artifacts{downloading("kernel"), failedArtifact("image", v1alpha1.ReasonTruncated, 5*time.Second)},
			[]string{v1alpha1.ReasonValid, v1alpha1.ReasonTruncated, v1alpha1.ReasonTruncated},
			"image: broken", "kernel 10%", 5 * time.Second, false,
		},
		"first_failure_counts_earliest_retry_counts": {
			nil, artifacts{
				failedArtifact("kernel", v1alpha1.ReasonUnreachable, time.Minute), failedArtifact("image", v1alpha1.ReasonTruncated, -time.Second),
			},
			[]string{v1alpha1.ReasonValid, v1alpha1.ReasonUnreachable, v1alpha1.ReasonUnreachable}, "kernel: broken", "", time.Second, false,
		},
		"invalid": {
			badTemplate, artifacts{available("kernel")},
			[]string{v1alpha1.ReasonBadTemplate, v1alpha1.ReasonAvailable, v1alpha1.ReasonBadTemplate}, badTemplate.Error(), "", 0, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			out := Profile(&v1alpha1.BootProfile{}, ProfileObservation{Invalid: c.invalid, Artifacts: c.artifacts})
			var reasons []string
			for _, condition := range out.Conditions {
				reasons = append(reasons, condition.Reason)
			}
			if diff := cmp.Diff(c.reasons, reasons); diff != "" {
				t.Errorf("reasons (-want +got):\n%s", diff)
			}
			ready := out.Conditions[len(out.Conditions)-1]
			if ready.Message != c.message {
				t.Errorf("condition Ready: got message %q, want %q", ready.Message, c.message)
			}
			if got := ready.Status == metav1.ConditionTrue; got != c.ready {
				t.Errorf("condition Ready: got status %s, want it to be True: %t", ready.Status, c.ready)
			}
			if got := out.Digest != ""; got != c.ready {
				t.Errorf("got digest %q, want one: %t", out.Digest, c.ready)
			}
			if out.Progress != c.progress {
				t.Errorf("got progress %q, want %q", out.Progress, c.progress)
			}
			if out.RetryAfter != c.retry {
				t.Errorf("got retry after %v, want %v", out.RetryAfter, c.retry)
			}
			if len(out.Artifacts) != len(c.artifacts) {
				t.Errorf("got %d artifacts, want %d", len(out.Artifacts), len(c.artifacts))
			}
		})
	}
}

func TestRecordedArtifact(t *testing.T) {
	p := &v1alpha1.BootProfile{Status: v1alpha1.BootProfileStatus{Artifacts: []v1alpha1.ArtifactStatus{
		available("kernel").Status, downloading("image").Status,
	}}}
	for name, want := range map[string]bool{"kernel": true, "image": false, "initrd": false} {
		if _, got := RecordedArtifact(p, name); got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	p.Generation = 1
	if _, got := RecordedArtifact(p, "kernel"); got {
		t.Error("an artifact of an earlier generation: got true, want false")
	}
}

var digestKey = []byte("the key of a data directory")

func TestProfileContent(t *testing.T) {
	texts := Templates{UserData: "#cloud-config"}
	p := &v1alpha1.BootProfile{}
	if got := ProfileContent(digestKey, p, texts); got != nil {
		t.Errorf("a profile that is not ready: got %+v, want nil", got)
	}
	image := available(ArtifactImage).Status
	image.Pin = "pin"
	image.DiskBytes = 7
	p.Status.Artifacts = []v1alpha1.ArtifactStatus{available(ArtifactKernel).Status, image}
	p.Status.Digest = ProfileDigest(digestKey, &p.Spec, p.Status.Artifacts, texts)
	got := ProfileContent(digestKey, p, texts)
	if got == nil {
		t.Fatal("a ready profile: got nil, want its content")
	}
	if got.Digest != p.Status.Digest {
		t.Errorf("got digest %s, want %s of the status", got.Digest, p.Status.Digest)
	}
	if got.Kernel.Digest != "sha256:kernel" {
		t.Errorf("got kernel %s, want sha256:kernel", got.Kernel.Digest)
	}
	if got.Image.Digest != "sha256:image" {
		t.Errorf("got image %s, want sha256:image", got.Image.Digest)
	}
	if got.ImagePin != "pin" {
		t.Errorf("got pin %q, want \"pin\"", got.ImagePin)
	}
	if got.DiskBytes != 7 {
		t.Errorf("got an image of %d bytes, want 7", got.DiskBytes)
	}
	// A Secret that was edited after the profile read it, as of a profile that is
	// paused: what would be served is not what would be recorded.
	if got := ProfileContent(digestKey, p, Templates{UserData: "#cloud-config\n# edited"}); got != nil {
		t.Errorf("a profile with other templates than it resolved: got %+v, want nil", got)
	}
	p.Generation = 1
	if got := ProfileContent(digestKey, p, texts); got != nil {
		t.Errorf("a profile whose spec changed: got %+v, want nil", got)
	}
}

// The installer and the encoding of the image are not part of the digest: an upgrade
// of the manager must not change it.
func TestProfileDigest(t *testing.T) {
	spec := &v1alpha1.BootProfileSpec{}
	artifacts := func(edit func([]v1alpha1.ArtifactStatus)) []v1alpha1.ArtifactStatus {
		all := []v1alpha1.ArtifactStatus{
			available(ArtifactKernel).Status, available(ArtifactInitrd).Status, available(ArtifactImage).Status, available(ArtifactOverlay).Status,
		}
		edit(all)
		return all
	}
	base := ProfileDigest(digestKey, spec, artifacts(func([]v1alpha1.ArtifactStatus) {}), Templates{})
	for name, c := range map[string]struct {
		edit    func([]v1alpha1.ArtifactStatus)
		texts   Templates
		changes bool
	}{
		"kernel":         {func(a []v1alpha1.ArtifactStatus) { a[0].Digest = "other" }, Templates{}, true},
		"image_pin":      {func(a []v1alpha1.ArtifactStatus) { a[2].Pin = "other" }, Templates{}, true},
		"image_encoding": {func(a []v1alpha1.ArtifactStatus) { a[2].Digest = "other" }, Templates{}, false},
		"installer":      {func(a []v1alpha1.ArtifactStatus) { a[3].Digest = "other" }, Templates{}, false},
		"user_data":      {func([]v1alpha1.ArtifactStatus) {}, Templates{UserData: "#cloud-config"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := ProfileDigest(digestKey, spec, artifacts(c.edit), c.texts) != base; got != c.changes {
				t.Errorf("digest changed: got %v, want %v", got, c.changes)
			}
		})
	}
	withRoot := &v1alpha1.BootProfileSpec{Image: &v1alpha1.ImageBoot{Root: &v1alpha1.RootPartition{Number: 2}}}
	if got := ProfileDigest(digestKey, withRoot, artifacts(func([]v1alpha1.ArtifactStatus) {}), Templates{}); got == base {
		t.Errorf("another root partition: got the same digest %s, want another one", got)
	}
	// It is shown in statuses, and the templates may be secrets that can be guessed.
	if other := ProfileDigest([]byte("another key"), spec, artifacts(func([]v1alpha1.ArtifactStatus) {}), Templates{}); other == base {
		t.Errorf("another key: got the same digest %s, want another one", other)
	}
}
