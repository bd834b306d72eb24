// SPDX-License-Identifier: Apache-2.0

// Package disk inspects, converts and makes disk images, with qemu-img where
// qcow2 is concerned. Images come from strangers: a file is never opened by
// qemu-img with a format to be guessed, never before its header was read here,
// and always with limits on time, processor, memory and output. Images that
// refer to other files are refused.
//
// The package does not look inside file systems and knows no machines.
package disk

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Formats of images. Overlays and bases are qcow2 or raw.
const (
	FormatQCOW2   = "qcow2"
	FormatRaw     = "raw"
	FormatRawGzip = "raw.gz"
	FormatRawXZ   = "raw.xz"
	FormatRawZstd = "raw.zst"
)

// Reason is why an operation failed.
type Reason string

// The reasons.
const (
	ReasonUnsupportedFormat Reason = "UnsupportedFormat" // another image is needed
	ReasonTooLarge          Reason = "TooLarge"          // beyond the limits
	ReasonDamaged           Reason = "Damaged"           // cannot be read to its end
	ReasonConflict          Reason = "Conflict"          // another file is there already
	ReasonNoSpace           Reason = "NoSpace"
	ReasonTimeout           Reason = "Timeout"
	ReasonNoTool            Reason = "NoTool" // qemu-img is missing
	ReasonInvalid           Reason = "Invalid"
)

// Error is what operations fail with unless the context ended or the file
// system is broken. Message says what happened to what and what to change.
type Error struct {
	Reason  Reason
	Message string
	Err     error // cause, may be nil
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func failf(reason Reason, cause error, format string, args ...any) *Error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...), Err: cause}
}

// Options make a Tool. The zero value is right for a lab.
type Options struct {
	// Binary is qemu-img; empty looks it up in PATH.
	Binary string
	// MaxVirtualSize is the largest disk accepted in bytes; 0 means 2 TiB.
	MaxVirtualSize int64
	// Timeout ends one run of qemu-img; 0 means one hour. Inspection has a
	// minute at most.
	Timeout time.Duration
	// MaxMemory is the address space of qemu-img in bytes; 0 means 4 GiB. It
	// holds on Linux; macOS knows no such limit.
	MaxMemory int64
}

// Tool works on disk images. Its methods may be called concurrently and leave
// nothing behind when they fail or the process dies, but for files with ".tmp"
// in their name.
type Tool struct {
	opts Options
}

// New returns a tool; it fails when qemu-img cannot be found.
func New(opts Options) (*Tool, error) {
	if opts.Binary == "" {
		opts.Binary = "qemu-img"
	}
	bin, err := exec.LookPath(opts.Binary)
	if err == nil {
		bin, err = filepath.Abs(bin)
	}
	if err != nil {
		return nil, failf(ReasonNoTool, err, "qemu-img was not found; install QEMU's tools (Debian: qemu-utils, Fedora: qemu-img, Homebrew: qemu)")
	}
	opts.Binary = bin
	if opts.MaxVirtualSize == 0 {
		opts.MaxVirtualSize = 2 << 40
	}
	if opts.Timeout == 0 {
		opts.Timeout = time.Hour
	}
	if opts.MaxMemory == 0 {
		opts.MaxMemory = 4 << 30
	}
	return &Tool{opts}, nil
}

func noSpace(err error, path string) error { return noSpaceFor(err, path, 0) }

// noSpaceFor explains an error that means a full disk; need is about what was
// still to be written, 0 when nobody knows. Others are returned as they are.
func noSpaceFor(err error, path string, need int64) error {
	var told *Error
	if errors.As(err, &told) || !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	return full(err, path, need)
}

func full(cause error, path string, need int64) *Error {
	// What fails is one buffer of the copy at least.
	return failf(ReasonNoSpace, cause, "no space left in %s: up to %d bytes are missing; free them", filepath.Dir(path), max(need, copySize))
}

func (t *Tool) checkSize(path string, size int64) error {
	if size > t.opts.MaxVirtualSize {
		return failf(ReasonTooLarge, nil, "%s describes a disk of %d bytes, at most %d are accepted; use a smaller image", path, size, t.opts.MaxVirtualSize)
	}
	return nil
}
