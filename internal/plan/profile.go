// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// Names of a profile's artifacts.
const (
	ArtifactKernel  = "kernel"
	ArtifactInitrd  = "initrd"
	ArtifactImage   = "image"
	ArtifactOverlay = "overlay"
)

// ArtifactObservation is the observed state of one of a profile's artifacts.
type ArtifactObservation struct {
	// Status is the state of the work: Available, Failed, or in progress.
	Status v1alpha1.ArtifactStatus
	// FailureReason is the condition's reason if the work failed, and RetryAfter
	// the time until the next attempt.
	FailureReason string
	RetryAfter    time.Duration
	// Recorded is the result of RecordedArtifact if its content is in the store;
	// else nil.
	Recorded *v1alpha1.ArtifactStatus
}

// ProfileObservation is the input of Profile.
type ProfileObservation struct {
	// Invalid is nil, or an *InvalidError.
	Invalid error
	// Warnings are what is valid and probably not what was meant.
	Warnings []string
	// DigestKey is the key of the profile's digest (ProfileDigest).
	DigestKey []byte
	Templates Templates
	Artifacts []ArtifactObservation
}

// ProfileOutcome is a profile's status.
type ProfileOutcome struct {
	Artifacts []v1alpha1.ArtifactStatus
	// Progress is human-readable; empty when no artifact is in progress.
	Progress string
	// Digest identifies what the profile resolves to; empty while it is not ready.
	Digest string
	// Conditions has Ready last.
	Conditions []Condition
	// RetryAfter is the time until the next attempt at an artifact that failed; 0
	// is never.
	RetryAfter time.Duration
}

// Profile computes a profile's status.
func Profile(p *v1alpha1.BootProfile, o ProfileObservation) ProfileOutcome {
	out := ProfileOutcome{Artifacts: make([]v1alpha1.ArtifactStatus, 0, len(o.Artifacts))}
	var failed *ArtifactObservation
	var waiting []string
	for i := range o.Artifacts {
		a := &o.Artifacts[i]
		status := a.current()
		out.Artifacts = append(out.Artifacts, status)
		switch status.State {
		case v1alpha1.ReasonAvailable:
		case v1alpha1.ReasonFailed:
			if failed == nil {
				failed = a
			}
			out.retryAfter(a.RetryAfter)
		default:
			waiting = append(waiting, status.Name+" "+status.Progress)
		}
	}
	out.Progress = strings.Join(waiting, ", ")
	artifacts := artifactsCondition(failed, out.Progress)
	ready := condition(v1alpha1.ConditionReady, true, v1alpha1.ReasonReady, "targets can be installed")
	switch {
	case o.Invalid != nil:
		ready = ValidCondition(o.Invalid)
	case artifacts.Reason != v1alpha1.ReasonAvailable:
		ready = artifacts
	default:
		out.Digest = ProfileDigest(o.DigestKey, &p.Spec, out.Artifacts, o.Templates)
	}
	ready.Type = v1alpha1.ConditionReady
	valid := ValidCondition(o.Invalid)
	if o.Invalid == nil && len(o.Warnings) > 0 {
		valid.Message += "; check: " + strings.Join(o.Warnings, "; ")
	}
	out.Conditions = []Condition{valid, artifacts, ready}
	return out
}

// current returns the artifact's state. A manager that has just started looks up all
// content again; until then what the status records holds, so that no machine loses
// the content from which it is being installed.
func (a *ArtifactObservation) current() v1alpha1.ArtifactStatus {
	inProgress := a.Status.State != v1alpha1.ReasonAvailable && a.Status.State != v1alpha1.ReasonFailed
	if inProgress && a.Recorded != nil {
		return *a.Recorded
	}
	return a.Status
}

// retryAfter lowers RetryAfter to d, at least a second.
func (out *ProfileOutcome) retryAfter(d time.Duration) {
	d = max(d, time.Second)
	if out.RetryAfter == 0 || d < out.RetryAfter {
		out.RetryAfter = d
	}
}

func artifactsCondition(failed *ArtifactObservation, progress string) Condition {
	const kind = v1alpha1.ConditionArtifactsReady
	switch {
	case failed != nil:
		return condition(kind, false, failed.FailureReason, failed.Status.Name+": "+failed.Status.Message)
	case progress != "":
		return condition(kind, false, v1alpha1.ReasonDownloading, "being fetched: "+progress)
	default:
		return condition(kind, true, v1alpha1.ReasonAvailable, "kernel, initrd and image are available and verified")
	}
}

// RecordedArtifact returns an artifact that the profile's status records as
// available for the current spec.
func RecordedArtifact(p *v1alpha1.BootProfile, name string) (v1alpha1.ArtifactStatus, bool) {
	if p.Status.ObservedGeneration != p.Generation {
		return v1alpha1.ArtifactStatus{}, false
	}
	for _, a := range p.Status.Artifacts {
		if a.Name == name && a.State == v1alpha1.ReasonAvailable {
			return a, true
		}
	}
	return v1alpha1.ArtifactStatus{}, false
}

// ProfileContent returns the content of a profile that is ready with the given templates;
// nil while it is not. The templates may have been read before or after the profile
// resolved them, so they are compared by the digest that will be recorded.
func ProfileContent(key []byte, p *v1alpha1.BootProfile, templates Templates) *Content {
	if p.Status.Digest == "" || p.Status.ObservedGeneration != p.Generation ||
		p.Status.Digest != ProfileDigest(key, &p.Spec, p.Status.Artifacts, templates) {
		return nil
	}
	c := &Content{Digest: p.Status.Digest}
	for _, a := range p.Status.Artifacts {
		blob := netbootapi.Blob{Digest: a.Digest, Size: a.SizeBytes}
		switch a.Name {
		case ArtifactKernel:
			c.Kernel = blob
		case ArtifactInitrd:
			c.Initrd = blob
		case ArtifactOverlay:
			c.Overlay = blob
		case ArtifactImage:
			c.Image = blob
			c.ImagePin = a.Pin
			c.DiskBytes = a.DiskBytes
		}
	}
	return c
}

// ProfileDigest identifies what a profile resolves to: its spec and the content that
// was fetched for it. It leaves out what depends on the manager's version, the
// installer and the encoding of the image, so that an upgrade changes no profile. It is
// an HMAC, because it is shown in statuses and the templates may be secrets. It contains
// an ID of the key, because only digests with the same key can be compared; see
// profileChanged.
func ProfileDigest(key []byte, spec *v1alpha1.BootProfileSpec, artifacts []v1alpha1.ArtifactStatus, templates Templates) string {
	var parts []string
	for _, a := range artifacts {
		switch a.Name {
		case ArtifactImage:
			parts = append(parts, a.Name, a.Pin)
		case ArtifactKernel, ArtifactInitrd:
			parts = append(parts, a.Name, a.Digest)
		}
	}
	image := spec.Image
	if image == nil {
		image = &v1alpha1.ImageBoot{}
	}
	mac := hmac.New(sha256.New, key)
	content := []any{
		parts, sha256.Sum256([]byte(templates.UserData)), sha256.Sum256([]byte(templates.NetworkConfig)),
		image.KernelArgs, spec.IPXETemplate, image.Handoff, spec.SSHUser,
	}
	if image.Root != nil { // the digest of a profile without it is that of earlier versions
		content = append(content, image.Root)
	}
	mac.Write(encode(content))
	return "hmac-sha256:" + keyID(key) + ":" + hex.EncodeToString(mac.Sum(nil))
}

// keyID returns what distinguishes a key from others.
func keyID(key []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("ID of a key of profile digests"))
	return hex.EncodeToString(mac.Sum(nil)[:8])
}

// profileChanged reports whether two digests are known to be those of different profiles.
func profileChanged(a, b string) bool { return comparableDigests(a, b) && a != b }

// comparableDigests reports whether two digests of profiles are known and were computed in
// the same way and with the same key.
func comparableDigests(a, b string) bool {
	kind := func(digest string) string { return digest[:strings.LastIndexByte(digest, ':')+1] }
	return a != "" && b != "" && kind(a) == kind(b)
}

// DigestOf returns the SHA-256 digest of a value's JSON encoding. It panics if the
// value cannot be encoded.
func DigestOf(v any) string {
	sum := sha256.Sum256(encode(v))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func encode(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("marshalling %T: %v", v, err)) // values of the API always marshal
	}
	return raw
}
