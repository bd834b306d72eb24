// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers/internal/task"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/content"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/qemuimg"
)

// maxMessage bounds a condition's message; the API allows 32768.
const maxMessage = 4096

func setCondition(conditions *[]metav1.Condition, generation int64, c plan.Condition) {
	meta.SetStatusCondition(conditions, metav1.Condition{
		Type: c.Type, Status: c.Status, Reason: c.Reason, Message: clip(c.Message, maxMessage), ObservedGeneration: generation,
	})
}

func conditionTrue(kind, reason, message string) plan.Condition {
	return plan.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: reason, Message: message}
}

func conditionFalse(kind, reason, message string) plan.Condition {
	return plan.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: message}
}

// artifactReasons maps the reasons of the artifact store to those of the API.
var artifactReasons = map[artifact.Reason]string{
	artifact.ReasonUnreachable:       v1alpha1.ReasonUnreachable,
	artifact.ReasonHTTPStatus:        v1alpha1.ReasonUnreachable,
	artifact.ReasonForbidden:         v1alpha1.ReasonForbiddenAddress,
	artifact.ReasonTruncated:         v1alpha1.ReasonTruncated,
	artifact.ReasonChecksumMismatch:  v1alpha1.ReasonChecksumMismatch,
	artifact.ReasonNoChecksumEntry:   v1alpha1.ReasonChecksumMismatch,
	artifact.ReasonUnsupportedFormat: v1alpha1.ReasonUnsupported,
	artifact.ReasonNoSpace:           v1alpha1.ReasonNoSpace,
	artifact.ReasonNotFound:          v1alpha1.ReasonNotFound,
	artifact.ReasonTooLarge:          v1alpha1.ReasonTooLarge,
	artifact.ReasonInvalid:           v1alpha1.ReasonInvalid,
}

// diskReasons maps the reasons of the image conversion to those of the API.
var diskReasons = map[qemuimg.Reason]string{
	qemuimg.ReasonUnsupportedFormat: v1alpha1.ReasonUnsupported,
	qemuimg.ReasonUnsupportedLayout: v1alpha1.ReasonUnsupportedLayout,
	qemuimg.ReasonDamaged:           v1alpha1.ReasonUnsupported,
	qemuimg.ReasonTooLarge:          v1alpha1.ReasonTooLarge,
	qemuimg.ReasonNoSpace:           v1alpha1.ReasonNoSpace,
	qemuimg.ReasonInvalid:           v1alpha1.ReasonInvalid,
}

func artifactReason(err error) string {
	var image *qemuimg.Error
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

// longestPause returns an upper bound for the backoff after a failed fetch; 0 is none.
// Operators free disk space by hand and then watch for the effect; checking is cheap,
// so retry soon.
func longestPause(err error) time.Duration {
	if artifactReason(err) == v1alpha1.ReasonNoSpace {
		return 10 * time.Second
	}
	return 0
}

// artifactStatus returns the state of an artifact for a profile's status.
func artifactStatus(name string, s task.Status[artifact.Progress, content.Blob]) v1alpha1.ArtifactStatus {
	out := v1alpha1.ArtifactStatus{Name: name}
	switch {
	case s.Done:
		out.State = v1alpha1.ReasonAvailable
		out.Digest = s.Result.Digest
		out.SizeBytes = s.Result.Size
		out.DiskBytes = s.Result.DiskBytes
		out.Pin = s.Result.Pin
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
		// The progress of a conversion is in parts, not in bytes.
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
	return artifact.Source{URL: string(s.URL), Path: string(s.Path), Checksum: string(s.Checksum), Format: string(format)}
}
