// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/content"
	"github.com/pxelab/pxelab/internal/disk"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/task"
)

// maxMessage bounds a condition's message; the API allows 32768.
const maxMessage = 4096

func set(conditions *[]metav1.Condition, generation int64, c plan.Condition) {
	meta.SetStatusCondition(conditions, metav1.Condition{
		Type: c.Type, Status: c.Status, Reason: c.Reason, Message: clip(c.Message, maxMessage), ObservedGeneration: generation,
	})
}

func yes(kind, reason, message string) plan.Condition {
	return plan.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: reason, Message: message}
}

func no(kind, reason, message string) plan.Condition {
	return plan.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: message}
}

// validCondition says whether a declaration makes sense; err is nil or wraps
// *plan.InvalidError.
func validCondition(err error) plan.Condition {
	if err == nil {
		return yes(v1alpha1.ConditionValid, v1alpha1.ReasonValid, "the declaration makes sense")
	}
	var invalid *plan.InvalidError
	if errors.As(err, &invalid) {
		return no(v1alpha1.ConditionValid, invalid.Reason, err.Error())
	}
	return no(v1alpha1.ConditionValid, v1alpha1.ReasonInvalid, err.Error())
}

// artifactReasons translates the store's words into the API's.
var artifactReasons = map[artifact.Reason]string{
	artifact.ReasonUnreachable:       v1alpha1.ReasonUnreachable,
	artifact.ReasonHTTPStatus:        v1alpha1.ReasonUnreachable,
	artifact.ReasonTruncated:         v1alpha1.ReasonTruncated,
	artifact.ReasonChecksumMismatch:  v1alpha1.ReasonChecksumMismatch,
	artifact.ReasonNoChecksumEntry:   v1alpha1.ReasonChecksumMismatch,
	artifact.ReasonUnsupportedFormat: v1alpha1.ReasonUnsupported,
	artifact.ReasonNoSpace:           v1alpha1.ReasonNoSpace,
	artifact.ReasonNotFound:          v1alpha1.ReasonNotFound,
	artifact.ReasonTooLarge:          v1alpha1.ReasonTooLarge,
	artifact.ReasonInvalid:           v1alpha1.ReasonInvalid,
}

// diskReasons translates the words of who converts images.
var diskReasons = map[disk.Reason]string{
	disk.ReasonUnsupportedFormat: v1alpha1.ReasonUnsupported,
	disk.ReasonDamaged:           v1alpha1.ReasonUnsupported,
	disk.ReasonTooLarge:          v1alpha1.ReasonTooLarge,
	disk.ReasonNoSpace:           v1alpha1.ReasonNoSpace,
	disk.ReasonInvalid:           v1alpha1.ReasonInvalid,
}

func artifactReason(err error) string {
	var image *disk.Error
	if errors.As(err, &image) {
		if reason, ok := diskReasons[image.Reason]; ok {
			return reason
		}
		return v1alpha1.ReasonArtifactError
	}
	var typed *artifact.Error
	if errors.As(err, &typed) {
		if reason, ok := artifactReasons[typed.Reason]; ok {
			return reason
		}
	}
	return v1alpha1.ReasonArtifactError
}

// longestPause is how long to wait at most until content is tried again. Room on
// a disk comes all at once, by somebody's hand who then looks what happens, and
// to look for it costs next to nothing.
func longestPause(err error) time.Duration {
	if artifactReason(err) == v1alpha1.ReasonNoSpace {
		return 10 * time.Second
	}
	return 0
}

// artifactStatus tells how far a piece of content is.
func artifactStatus(name string, s task.Status[artifact.Progress, content.Blob]) v1alpha1.ArtifactStatus {
	out := v1alpha1.ArtifactStatus{Name: name}
	switch {
	case s.Done:
		out.State, out.Digest, out.SizeBytes = v1alpha1.ReasonAvailable, s.Result.Digest, s.Result.Size
		out.DiskBytes, out.Pin = s.Result.DiskBytes, s.Result.Pin
	case s.Err != nil:
		out.State, out.Message = v1alpha1.ReasonFailed, clip(s.Err.Error(), maxMessage)
	default:
		out.State, out.Progress = progressReason(s.Progress), progressText(s.Progress)
	}
	return out
}

func progressReason(p artifact.Progress) string {
	if p.Stage == artifact.StageConverting {
		return v1alpha1.ReasonConverting
	}
	return v1alpha1.ReasonDownloading
}

func progressText(p artifact.Progress) string {
	switch {
	case p.Stage == "":
		return "starting"
	case p.Stage == artifact.StageConverting:
		// A conversion counts in parts, not in bytes.
		return fmt.Sprintf("%s %d%%", p.Stage, p.Percent())
	case p.BytesTotal > 0 && p.Rate > 0:
		return fmt.Sprintf("%s %d%% of %d MB, %.1f MB/s", p.Stage, p.Percent(), p.BytesTotal/1e6, p.Rate/1e6)
	case p.BytesTotal > 0:
		return fmt.Sprintf("%s %d%% of %d MB", p.Stage, p.Percent(), p.BytesTotal/1e6)
	case p.BytesDone > 0:
		return fmt.Sprintf("%s %d MB", p.Stage, p.BytesDone/1e6)
	default:
		return string(p.Stage)
	}
}

func artifactSource(s v1alpha1.ArtifactSource, format v1alpha1.ImageFormat) artifact.Source {
	return artifact.Source{URL: s.URL, Path: s.Path, Checksum: s.Checksum, Format: string(format)}
}
