// SPDX-License-Identifier: Apache-2.0

package qemuimg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/pxelab/pxelab/internal/imageformat"
)

// Info describes an image.
type Info struct {
	Format       string
	VirtualSize  int64 // bytes of the disk; 0 for compressed images
	ActualSize   int64 // bytes that the file uses on the host
	HasBacking   bool
	ExternalData bool
	Encrypted    bool
}

// sniff detects the format of a file.
func sniff(f io.ReaderAt) (string, error) {
	head := make([]byte, imageformat.HeadSize)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return imageformat.Detect(head[:n]), nil
}

// Inspect checks that the image at path has the given format, refers to no other
// file and is within the limits. For a rejected image it returns an *Error and
// the Info known so far.
func (t *Tool) Inspect(ctx context.Context, path, format string) (Info, error) {
	info := Info{Format: format}
	f, err := os.Open(path)
	if err != nil {
		return info, fmt.Errorf("inspecting image: %w", err)
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return info, fmt.Errorf("inspecting image: %w", err)
	}
	if !st.Mode().IsRegular() || st.Size() == 0 {
		return info, failf(ReasonUnsupportedFormat, nil, "%s is empty or not a regular file; use a disk image", path)
	}
	info.ActualSize = st.Size()
	found, err := sniff(f)
	if err != nil {
		return info, fmt.Errorf("inspecting image: %w", err)
	}
	if found != format {
		return info, failf(ReasonUnsupportedFormat, nil,
			"%s is declared as %s but its content is %s; set format to %s", path, format, found, found)
	}
	switch format {
	case imageformat.QCOW2:
		return t.inspectQCOW2(ctx, path, f, info)
	case imageformat.Raw:
		info.VirtualSize = st.Size()
		return info, t.checkSize(path, info.VirtualSize)
	}
	return info, nil
}

func (t *Tool) inspectQCOW2(ctx context.Context, path string, f *os.File, info Info) (Info, error) {
	h, err := parseQCOW2(f, info.ActualSize)
	if err != nil {
		return info, failf(ReasonUnsupportedFormat, err, "%s cannot be used: %v; download the image again", path, err)
	}
	info.VirtualSize, info.HasBacking = h.VirtualSize, h.Backing
	info.ExternalData, info.Encrypted = h.DataFile, h.Encrypted
	if why := h.refusal(); why != "" {
		return info, failf(ReasonUnsupportedFormat, nil, "%s cannot be used: %s", path, why)
	}
	if err := t.checkSize(path, h.VirtualSize); err != nil {
		return info, err
	}
	abs, err := safePath(path)
	if err != nil {
		return info, err
	}
	out, err := t.run(ctx, limits{timeout: min(inspectTimeout, t.opts.Timeout), files: files{read: []string{abs}}}, nil,
		"info", "--output=json", "-U", "-f", imageformat.QCOW2, abs)
	if err != nil {
		return info, damaged(path, err)
	}
	return info, t.compare(path, out, &info)
}

// compare checks that the output of qemu-img info matches the header that this
// package has parsed.
func (t *Tool) compare(path string, out []byte, info *Info) error {
	var reported struct {
		Format      string `json:"format"`
		VirtualSize int64  `json:"virtual-size"`
		ActualSize  int64  `json:"actual-size"`
		Encrypted   bool   `json:"encrypted"`
		Backing     string `json:"backing-filename"`
		Specific    struct {
			Data struct {
				DataFile string `json:"data-file"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	if err := json.Unmarshal(out, &reported); err != nil {
		return fmt.Errorf("parsing the output of qemu-img info for %s: %w", path, err)
	}
	info.ActualSize = reported.ActualSize
	info.HasBacking = info.HasBacking || reported.Backing != ""
	info.ExternalData = info.ExternalData || reported.Specific.Data.DataFile != ""
	info.Encrypted = info.Encrypted || reported.Encrypted
	consistent := reported.Format == imageformat.QCOW2 && reported.VirtualSize == info.VirtualSize
	if !consistent || info.HasBacking || info.ExternalData || info.Encrypted {
		return failf(ReasonUnsupportedFormat, nil,
			"%s cannot be used: qemu-img interprets its header differently; download the image again", path)
	}
	return nil
}

// damaged turns a failed run of qemu-img on an image into an *Error with
// ReasonDamaged, and returns other errors unchanged.
func damaged(path string, err error) error {
	var e *toolError
	if !errors.As(err, &e) {
		return err
	}
	return failf(ReasonDamaged, err, "reading %s: %v; download the image again", path, e)
}
