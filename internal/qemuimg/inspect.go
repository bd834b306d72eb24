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
// the Info known so far. It does not look into compressed files; ToRaw does.
func (t *Tool) Inspect(ctx context.Context, path, format string) (Info, error) {
	return t.inspect(ctx, subject{path: path, name: path}, format)
}

// subject is an image that is inspected, and its name in messages.
type subject struct{ path, name string }

func (t *Tool) inspect(ctx context.Context, image subject, format string) (Info, error) {
	info := Info{Format: format}
	f, err := os.Open(image.path)
	if err != nil {
		return info, fmt.Errorf("inspecting image: %w", err)
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return info, fmt.Errorf("inspecting image: %w", err)
	}
	if !st.Mode().IsRegular() || st.Size() == 0 {
		return info, failf(ReasonUnsupportedFormat, nil, "%s is empty or not a regular file; use a disk image", image.name)
	}
	info.ActualSize = st.Size()
	found, err := sniff(f)
	if err != nil {
		return info, fmt.Errorf("inspecting image: %w", err)
	}
	if found != format {
		return info, failf(ReasonUnsupportedFormat, nil,
			"%s is declared as %s but its content is %s; set format to %s", image.name, format, found, found)
	}
	switch format {
	case imageformat.QCOW2:
		return t.inspectQCOW2(ctx, image, f, info)
	case imageformat.Raw:
		info.VirtualSize = st.Size()
		return info, t.checkSize(image.name, info.VirtualSize)
	}
	return info, nil
}

func (t *Tool) inspectQCOW2(ctx context.Context, image subject, f *os.File, info Info) (Info, error) {
	h, err := parseQCOW2(f, info.ActualSize)
	if err != nil {
		return info, failf(ReasonUnsupportedFormat, err, "%s cannot be used: %v; download the image again", image.name, err)
	}
	info.VirtualSize, info.HasBacking = h.VirtualSize, h.Backing
	info.ExternalData, info.Encrypted = h.DataFile, h.Encrypted
	if why := h.refusal(); why != "" {
		return info, failf(ReasonUnsupportedFormat, nil, "%s cannot be used: %s", image.name, why)
	}
	if err := t.checkSize(image.name, h.VirtualSize); err != nil {
		return info, err
	}
	abs, err := safePath(image.path)
	if err != nil {
		return info, err
	}
	out, err := t.run(ctx, limits{timeout: min(inspectTimeout, t.opts.Timeout), files: files{read: []string{abs}}}, nil,
		"info", "--output=json", "-U", "-f", imageformat.QCOW2, abs)
	if err != nil {
		return info, damaged(image.name, err)
	}
	return info, t.compare(image.name, out, &info)
}

// compare checks that the output of qemu-img info matches the header that this
// package has parsed.
func (t *Tool) compare(name string, out []byte, info *Info) error {
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
		return fmt.Errorf("parsing the output of qemu-img info for %s: %w", name, err)
	}
	info.ActualSize = reported.ActualSize
	info.HasBacking = info.HasBacking || reported.Backing != ""
	info.ExternalData = info.ExternalData || reported.Specific.Data.DataFile != ""
	info.Encrypted = info.Encrypted || reported.Encrypted
	consistent := reported.Format == imageformat.QCOW2 && reported.VirtualSize == info.VirtualSize
	if !consistent || info.HasBacking || info.ExternalData || info.Encrypted {
		return failf(ReasonUnsupportedFormat, nil,
			"%s cannot be used: qemu-img interprets its header differently; download the image again", name)
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
