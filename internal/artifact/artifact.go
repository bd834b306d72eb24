// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"fmt"

	"github.com/pxelab/pxelab/internal/bootfile"
)

// Source is the location of a file and the checksum that verifies it. Exactly
// one of URL and Path must be set.
type Source struct {
	// URL is an http or https address.
	URL string
	// Path is a slash-separated file path relative to the images folder. It
	// must not lead out of the folder, not even through a symbolic link.
	Path string
	// Checksum is "sha256:<hex>", "sha512:<hex>", or the location of a
	// checksum file that contains one of these: an http or https URL or, when
	// Path is set, a path relative to the images folder.
	Checksum string
	// Format is a format of package imageformat, or empty for a file that is not a
	// disk image. A file whose first bytes belong to another format is rejected.
	Format string
	// Boot is what a kernel, initrd or boot program must be; the zero value accepts
	// any file.
	Boot bootfile.Expectation
}

// String returns the URL, without its password, or the path of the source, for messages.
func (s Source) String() string {
	if s.URL != "" {
		return redact(s.URL)
	}
	return s.Path
}

// Artifact is verified content in the store. Callers may read and link to Path
// but must never write to it.
type Artifact struct {
	Digest string // "sha256:<hex>"
	Path   string // absolute
	Size   int64  // bytes
}

// Stage is the current step of Ensure or Derive.
type Stage string

// The stages, in the order in which they can occur.
const (
	StageWaiting     Stage = "Waiting"     // for other work: on the same file, or for a place
	StageChecksum    Stage = "Checksum"    // the checksum file is being read
	StageDownloading Stage = "Downloading" // the file is being downloaded
	StageCopying     Stage = "Copying"     // a local file is being copied
	StageVerifying   Stage = "Verifying"   // the content is being hashed
	StageConverting  Stage = "Converting"  // a derived file is being built; the build function chooses the unit
)

// Progress is the progress of a call. It is reported when the stage changes and
// a few times a second in between.
type Progress struct {
	Stage      Stage
	BytesDone  int64
	BytesTotal int64   // 0 if unknown
	Rate       float64 // bytes per second over the last few seconds; 0 if unknown
}

// Percent returns the progress from 0 to 100, rounded down; 0 if the total is
// unknown.
func (p Progress) Percent() int {
	if p.BytesTotal <= 0 {
		return 0
	}
	return int(min(p.BytesDone*100/p.BytesTotal, 100))
}

// Reason classifies a failure, for conditions and retry decisions.
type Reason string

// The reasons. Failures for which Error.Transient is true may disappear without
// intervention; the others require a change to the source.
const (
	ReasonUnreachable       Reason = "Unreachable"
	ReasonForbidden         Reason = "Forbidden"
	ReasonHTTPStatus        Reason = "HTTPStatus"
	ReasonTruncated         Reason = "Truncated"
	ReasonChecksumMismatch  Reason = "ChecksumMismatch"
	ReasonNoChecksumEntry   Reason = "NoChecksumEntry"
	ReasonUnsupportedFormat Reason = "UnsupportedFormat"
	ReasonNoSpace           Reason = "NoSpace"
	ReasonNotFound          Reason = "NotFound"
	ReasonTooLarge          Reason = "TooLarge"
	ReasonInvalid           Reason = "Invalid"
)

// Error is the error of Ensure unless the context ended or the store itself is
// broken. Message describes the failure and its remedy.
type Error struct {
	Reason  Reason
	Message string
	// StatusCode is the HTTP status code of the response, for ReasonHTTPStatus.
	StatusCode int
	Err        error // cause, may be nil
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Transient reports whether a later retry of the unchanged source can succeed.
func (e *Error) Transient() bool {
	switch e.Reason {
	case ReasonUnreachable, ReasonTruncated, ReasonNoSpace:
		return true
	case ReasonHTTPStatus:
		return retryableStatus(e.StatusCode)
	default:
		return false
	}
}

func failf(reason Reason, cause error, format string, args ...any) *Error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...), Err: cause}
}
