// SPDX-License-Identifier: Apache-2.0

package qemuimg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/pxelab/pxelab/internal/imageformat"
)

// sector is the unit of disk sizes; QEMU rounds to it.
const sector = 512

// Overlay is a qcow2 file that contains the differences from a base.
type Overlay struct {
	Base       string // never written to; must not be moved
	BaseFormat string // imageformat.QCOW2 or imageformat.Raw
	Path       string
	Size       int64 // bytes of the disk; at least the size of the base
}

// CreateOverlay creates an overlay. It is idempotent: an existing overlay of the
// same base and size remains unchanged, with all data written to it. Any other
// existing file also remains unchanged and is ReasonConflict.
func (t *Tool) CreateOverlay(ctx context.Context, o Overlay) error {
	base, err := safePath(o.Base)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(o.Path); err == nil {
		return t.checkOverlay(ctx, o, base)
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("creating overlay: %w", err)
	}
	if o.BaseFormat != imageformat.QCOW2 && o.BaseFormat != imageformat.Raw {
		return failf(ReasonUnsupportedFormat, nil, "base %s has format %q; use a qcow2 or raw image", o.Base, o.BaseFormat)
	}
	info, err := t.Inspect(ctx, base, o.BaseFormat)
	if err != nil {
		return err
	}
	if err := checkDiskSize(o.Path, o.Size); err != nil {
		return err
	}
	if o.Size < info.VirtualSize {
		return failf(ReasonTooLarge, nil,
			"disk %s of %d bytes is smaller than its image, which needs %d; make the disk larger", o.Path, o.Size, info.VirtualSize)
	}
	if err := t.checkSize(o.Path, o.Size); err != nil {
		return err
	}
	err = writeNew(o.Path, func(tmp *os.File) error {
		l := limits{timeout: inspectTimeout, fileSize: o.Size, files: files{read: []string{base}, write: []string{tmp.Name()}}}
		_, err := t.run(ctx, l, nil, "create", "-q", "-f", imageformat.QCOW2,
			"-o", "lazy_refcounts=on,extended_l2=off", "-b", base, "-F", o.BaseFormat, tmp.Name(), strconv.FormatInt(o.Size, 10))
		return err
	})
	var e *Error
	if errors.As(err, &e) && e.Reason == ReasonConflict { // created by another process in the meantime
		return t.checkOverlay(ctx, o, base)
	}
	return err
}

// checkOverlay returns an error unless o.Path is already the overlay o.
func (t *Tool) checkOverlay(ctx context.Context, o Overlay, base string) error {
	f, err := os.Open(o.Path)
	if err != nil {
		return fmt.Errorf("inspecting overlay: %w", err)
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("inspecting overlay: %w", err)
	}
	h, err := parseQCOW2(f, st.Size())
	if err != nil || h.DataFile {
		return failf(ReasonConflict, err, "%s exists and is not an overlay; move it away", o.Path)
	}
	abs, err := safePath(o.Path)
	if err != nil {
		return err
	}
	out, err := t.run(ctx, limits{timeout: inspectTimeout, files: files{read: []string{abs}}}, nil,
		"info", "--output=json", "-U", "-f", imageformat.QCOW2, abs)
	if err != nil {
		return damaged(o.Path, err)
	}
	var info struct {
		VirtualSize   int64  `json:"virtual-size"`
		Backing       string `json:"backing-filename"`
		BackingFormat string `json:"backing-filename-format"`
	}
	if err := json.Unmarshal(out, &info); err != nil {
		return fmt.Errorf("parsing the output of qemu-img info for %s: %w", o.Path, err)
	}
	if info.Backing != base || info.BackingFormat != o.BaseFormat || info.VirtualSize != o.Size {
		return failf(ReasonConflict, nil,
			"%s exists with %d bytes and backing file %q (%s), want %d bytes and %q (%s); delete it to start from scratch",
			o.Path, info.VirtualSize, info.Backing, info.BackingFormat, o.Size, base, o.BaseFormat)
	}
	return nil
}

func checkDiskSize(path string, size int64) error {
	if size <= 0 || size%sector != 0 {
		return failf(ReasonInvalid, nil, "disk %s has an invalid size of %d bytes; use a multiple of %d", filepath.Base(path), size, sector)
	}
	return nil
}
