// SPDX-License-Identifier: Apache-2.0

package qemuimg

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/pxelab/pxelab/internal/hostfs"
)

// Reason classifies a failure.
type Reason string

// The reasons.
const (
	ReasonUnsupportedFormat Reason = "UnsupportedFormat" // the image cannot be used
	ReasonUnsupportedLayout Reason = "UnsupportedLayout" // the image holds no system that can be installed
	ReasonTooLarge          Reason = "TooLarge"          // the disk exceeds a limit
	ReasonDamaged           Reason = "Damaged"           // the image cannot be read completely
	ReasonConflict          Reason = "Conflict"          // another file exists at the path
	ReasonNoSpace           Reason = "NoSpace"           // the file system is full
	ReasonTimeout           Reason = "Timeout"           // qemu-img exceeded its time limit
	ReasonNoTool            Reason = "NoTool"            // qemu-img is not installed
	ReasonInvalid           Reason = "Invalid"           // an argument is invalid
)

// Error is the error of all operations unless the context ended or the file
// system is broken. Message describes the failure and its remedy.
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

// Options configures a Tool. The zero value is suitable for a lab.
type Options struct {
	// Binary is the path of qemu-img; if empty, it is looked up in PATH.
	Binary string
	// MaxVirtualSize is the largest accepted disk in bytes; 0 means 2 TiB.
	MaxVirtualSize int64
	// Timeout limits one run of qemu-img; 0 means one hour. An inspection is
	// limited to one minute.
	Timeout time.Duration
	// MaxMemory limits the address space of qemu-img in bytes; 0 means 4 GiB. It
	// has no effect on macOS, which has no such limit.
	MaxMemory int64
}

// Tool works on disk images. Its methods are safe for concurrent use. When a
// method fails or the process dies, it leaves only files with ".tmp" in their
// name.
type Tool struct {
	opts Options
}

// New returns a Tool. It fails if qemu-img is not installed.
func New(opts Options) (*Tool, error) {
	if opts.Binary == "" {
		opts.Binary = "qemu-img"
	}
	bin, err := exec.LookPath(opts.Binary)
	if err == nil {
		bin, err = filepath.Abs(bin)
	}
	if err != nil {
		return nil, failf(ReasonNoTool, err,
			"qemu-img was not found; install QEMU's tools (Debian: qemu-utils, Fedora: qemu-img, Homebrew: qemu)")
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

// noSpaceFor turns an error that means a full disk into an *Error, and returns
// other errors unchanged. need is an estimate of the bytes that remained to be
// written, or 0 if unknown.
func noSpaceFor(err error, path string, need int64) error {
	var classified *Error
	if errors.As(err, &classified) || !hostfs.IsNoSpace(err) {
		return err
	}
	return full(err, path, need)
}

func full(cause error, path string, need int64) *Error {
	// At least one copy buffer could not be written.
	missing := max(need, copySize)
	return failf(ReasonNoSpace, cause,
		"no space left in %s: up to %d more bytes are needed; free disk space", filepath.Dir(path), missing)
}

func (t *Tool) checkSize(path string, size int64) error {
	if size > t.opts.MaxVirtualSize {
		return failf(ReasonTooLarge, nil,
			"%s describes a disk of %d bytes, at most %d are accepted; use a smaller image", path, size, t.opts.MaxVirtualSize)
	}
	return nil
}
