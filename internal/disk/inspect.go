// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// Info describes an image.
type Info struct {
	Format       string
	VirtualSize  int64 // bytes of the disk; 0 when only unpacking would tell
	ActualSize   int64 // bytes that the file takes on the host
	HasBacking   bool
	ExternalData bool
	Encrypted    bool
}

var magics = []struct{ format, magic string }{
	{FormatQCOW2, qcowMagic},
	{FormatRawGzip, "\x1f\x8b"},
	{FormatRawXZ, "\xfd7zXZ\x00"},
	{FormatRawZstd, "\x28\xb5\x2f\xfd"},
}

// sniff tells the format by the first bytes; what has no known magic is raw.
func sniff(f io.ReaderAt) (string, error) {
	head := make([]byte, 8)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	for _, m := range magics {
		if bytes.HasPrefix(head[:n], []byte(m.magic)) {
			return m.format, nil
		}
	}
	return FormatRaw, nil
}

// Inspect checks that the image at path really has the given format, refers to
// no other file and is within the limits. An image that is refused yields an
// *Error, and the Info as far as it is known.
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
		return info, failf(ReasonUnsupportedFormat, nil, "%s is not a file with a disk image in it", path)
	}
	info.ActualSize = st.Size()
	found, err := sniff(f)
	if err != nil {
		return info, fmt.Errorf("inspecting image: %w", err)
	}
	if found != format {
		return info, failf(ReasonUnsupportedFormat, nil, "%s is declared as %s but its content is %s; set the format to %s", path, format, found, found)
	}
	switch format {
	case FormatQCOW2:
		return t.inspectQCOW2(ctx, path, f, info)
	case FormatRaw:
		info.VirtualSize = st.Size()
		return info, t.checkSize(path, info.VirtualSize)
	}
	return info, nil
}

func (t *Tool) inspectQCOW2(ctx context.Context, path string, f *os.File, info Info) (Info, error) {
	h, err := parseQCOW2(f, info.ActualSize)
	if err != nil {
		return info, failf(ReasonUnsupportedFormat, err, "%s cannot be used: %v; get the image anew", path, err)
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
		"info", "--output=json", "-U", "-f", FormatQCOW2, abs)
	if err != nil {
		return info, damaged(path, err)
	}
	return info, t.compare(path, out, &info)
}

// compare checks what qemu-img says of the image against what we read.
func (t *Tool) compare(path string, out []byte, info *Info) error {
	var said struct {
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
	if err := json.Unmarshal(out, &said); err != nil {
		return fmt.Errorf("reading what qemu-img says of %s: %w", path, err)
	}
	info.ActualSize = said.ActualSize
	info.HasBacking = info.HasBacking || said.Backing != ""
	info.ExternalData = info.ExternalData || said.Specific.Data.DataFile != ""
	info.Encrypted = info.Encrypted || said.Encrypted
	if said.Format != FormatQCOW2 || said.VirtualSize != info.VirtualSize || info.HasBacking || info.ExternalData || info.Encrypted {
		return failf(ReasonUnsupportedFormat, nil, "%s cannot be used: qemu-img reads its header in another way; get the image anew", path)
	}
	return nil
}

// damaged explains a run of qemu-img that failed on an image.
func damaged(path string, err error) error {
	var e *toolError
	if !errors.As(err, &e) {
		return err
	}
	return failf(ReasonDamaged, err, "%s cannot be read: %v; get the image anew", path, e)
}
