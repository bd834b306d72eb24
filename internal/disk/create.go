// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// sector is what disk sizes are multiples of; QEMU rounds to it.
const sector = 512

// Overlay is a qcow2 file that holds what differs from a base.
type Overlay struct {
	Base       string // never written to; must stay where it is
	BaseFormat string // FormatQCOW2 or FormatRaw
	Path       string
	Size       int64 // bytes of the disk; at least the base's
}

// CreateOverlay makes an overlay. When Path is an overlay of the same base and
// size already, it is left alone with all that was written to it; anything else
// at Path is ReasonConflict and left alone too.
func (t *Tool) CreateOverlay(ctx context.Context, o Overlay) error {
	base, err := safePath(o.Base)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(o.Path); err == nil {
		return t.checkOverlay(ctx, o, base)
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("making overlay: %w", err)
	}
	if o.BaseFormat != FormatQCOW2 && o.BaseFormat != FormatRaw {
		return failf(ReasonUnsupportedFormat, nil, "%s is %s, a base must be qcow2 or raw", o.Base, o.BaseFormat)
	}
	info, err := t.Inspect(ctx, base, o.BaseFormat)
	if err != nil {
		return err
	}
	if err := checkDiskSize(o.Path, o.Size); err != nil {
		return err
	}
	if o.Size < info.VirtualSize {
		return failf(ReasonTooLarge, nil, "the image needs a disk of %d bytes, %s is to have %d; make the disk larger", info.VirtualSize, o.Path, o.Size)
	}
	if err := t.checkSize(o.Path, o.Size); err != nil {
		return err
	}
	err = writeNew(o.Path, func(tmp *os.File) error {
		_, err := t.run(ctx, limits{timeout: inspectTimeout, fileSize: o.Size, files: files{read: []string{base}, write: []string{tmp.Name()}}}, nil, "create", "-q", "-f", FormatQCOW2,
			"-o", "lazy_refcounts=on,extended_l2=off", "-b", base, "-F", o.BaseFormat, tmp.Name(), strconv.FormatInt(o.Size, 10))
		return err
	})
	var e *Error
	if errors.As(err, &e) && e.Reason == ReasonConflict { // somebody was faster
		return t.checkOverlay(ctx, o, base)
	}
	return err
}

// checkOverlay reports whether what is at the place of an overlay is it.
func (t *Tool) checkOverlay(ctx context.Context, o Overlay, base string) error {
	f, err := os.Open(o.Path)
	if err != nil {
		return fmt.Errorf("looking at overlay: %w", err)
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("looking at overlay: %w", err)
	}
	h, err := parseQCOW2(f, st.Size())
	if err != nil || h.DataFile {
		return failf(ReasonConflict, err, "%s exists and is not an overlay; move it away", o.Path)
	}
	abs, err := safePath(o.Path)
	if err != nil {
		return err
	}
	out, err := t.run(ctx, limits{timeout: inspectTimeout, files: files{read: []string{abs}}}, nil, "info", "--output=json", "-U", "-f", FormatQCOW2, abs)
	if err != nil {
		return damaged(o.Path, err)
	}
	var said struct {
		VirtualSize   int64  `json:"virtual-size"`
		Backing       string `json:"backing-filename"`
		BackingFormat string `json:"backing-filename-format"`
	}
	if err := json.Unmarshal(out, &said); err != nil {
		return fmt.Errorf("reading what qemu-img says of %s: %w", o.Path, err)
	}
	if said.Backing != base || said.BackingFormat != o.BaseFormat || said.VirtualSize != o.Size {
		return failf(ReasonConflict, nil, "%s exists with %d bytes over %q (%s), wanted %d over %q (%s); delete it to begin anew",
			o.Path, said.VirtualSize, said.Backing, said.BackingFormat, o.Size, base, o.BaseFormat)
	}
	return nil
}

// CreateBlank makes an empty disk: a sparse raw file, because that is the
// quickest there is. A write needs no tables and no allocation of ours, the
// file system does both, and discard punches holes, so the file takes what the
// guest uses. A smaller disk that is there already is grown, which keeps its
// content; one of the same size is left alone; a larger one is ReasonConflict.
// A disk that a machine has open must not be grown.
func CreateBlank(path string, size int64) error {
	if err := checkDiskSize(path, size); err != nil {
		return err
	}
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = writeNew(path, func(tmp *os.File) error { return tmp.Truncate(size) })
		var e *Error
		if errors.As(err, &e) && e.Reason == ReasonConflict {
			return CreateBlank(path, size)
		}
		return err
	case err != nil:
		return fmt.Errorf("making disk: %w", err)
	case !st.Mode().IsRegular():
		return failf(ReasonConflict, nil, "%s exists and is not a file; move it away", path)
	case st.Size() > size:
		return failf(ReasonConflict, nil, "%s has %d bytes, wanted %d; a disk cannot be made smaller, delete it to begin anew", path, st.Size(), size)
	case st.Size() < size:
		return noSpace(os.Truncate(path, size), path)
	}
	return nil
}

func checkDiskSize(path string, size int64) error {
	if size <= 0 || size%sector != 0 {
		return failf(ReasonInvalid, nil, "disk %s cannot have %d bytes; use a multiple of %d", filepath.Base(path), size, sector)
	}
	return nil
}
