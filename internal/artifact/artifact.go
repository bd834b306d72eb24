// SPDX-License-Identifier: Apache-2.0

// Package artifact keeps files that came from elsewhere: images, kernels,
// initrds, boot programs, and what is derived from them. A file is verified
// before anybody sees it, stored once under the SHA-256 of its content, and
// shared by all who ask for that content, in this process and in others that
// use the same directory.
//
// The package does not look inside files beyond their first bytes, does not
// convert anything itself, and hands out nothing that has no checksum.
//
// In the store's directory:
//
//	sha256/<hex>      verified content, never written to again
//	sources/<key>     what a source was resolved to, so that nothing is fetched
//	                  or hashed twice
//	derived/<key>     what was made from which content
//	partial/<key>     downloads to be gone on with, and their validators
//	locks/<key>       one at a time, across processes
//	tmp/<run>/        files being made; of dead runs removed by Open
package artifact

import (
	"fmt"
)

// Formats of images which a Source may name. Other formats, and the empty one,
// are files that are used as they are (kernels, initrds, boot programs).
const (
	FormatQCOW2   = "qcow2"
	FormatRaw     = "raw"
	FormatRawGzip = "raw.gz"
	FormatRawXZ   = "raw.xz"
	FormatRawZstd = "raw.zst"
)

// Source says where a file comes from and how it is known to be the right one.
// Exactly one of URL and Path is set.
type Source struct {
	// URL is an http or https address.
	URL string
	// Path is a file below the images folder, with slashes, relative to it. It
	// must not lead out of the folder, by symbolic links neither.
	Path string
	// Checksum is "sha256:<hex>", "sha512:<hex>", or the place of a SHA256SUMS
	// or SHA512SUMS file: its address when URL is set, its path below the
	// images folder when Path is.
	Checksum string
	// Format is one of the Format constants, or empty for a file whose inside
	// does not matter here. A file that begins like another format is refused.
	Format string
}

// String names the source for people.
func (s Source) String() string {
	if s.URL != "" {
		return s.URL
	}
	return s.Path
}

// Artifact is verified content in the store. Path may be read and linked to,
// never written.
type Artifact struct {
	Digest string // "sha256:<hex>"
	Path   string // absolute
	Size   int64  // bytes
}

// Stage is what Ensure is doing.
type Stage string

// The stages, in the order in which they can occur.
const (
	StageWaiting     Stage = "Waiting"     // another process works on the same file
	StageChecksum    Stage = "Checksum"    // the checksum file is read
	StageDownloading Stage = "Downloading" // bytes come in
	StageCopying     Stage = "Copying"     // a local file is copied
	StageVerifying   Stage = "Verifying"   // the content is hashed
	StageConverting  Stage = "Converting"  // a derived file is made; its maker chooses the unit
)

// Progress tells how far a call is. It is reported when the stage changes and
// a few times a second in between.
type Progress struct {
	Stage      Stage
	BytesDone  int64
	BytesTotal int64   // 0 when not known
	Rate       float64 // bytes a second over the last seconds, 0 when not known
}

// Percent is 0 to 100, rounded down; 0 when the total is not known.
func (p Progress) Percent() int {
	if p.BytesTotal <= 0 {
		return 0
	}
	return int(min(p.BytesDone*100/p.BytesTotal, 100))
}

// Reason is why a call failed, for conditions and for deciding what to do.
type Reason string

// The reasons. Those for which Error.Transient is true may go away by
// themselves; the others want the source to be changed.
const (
	ReasonUnreachable       Reason = "Unreachable"
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

// Error is what Ensure fails with unless the context ended or the store itself
// is broken. Message says what happened to what, and what to change.
type Error struct {
	Reason  Reason
	Message string
	// StatusCode is the answer of the server for ReasonHTTPStatus.
	StatusCode int
	Err        error // cause, may be nil
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Transient tells whether trying again later, with nothing changed, can help.
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
