// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// formats in the order in which messages list them; raw is what has no magic.
var formats = []struct{ name, magic string }{
	{FormatQCOW2, "QFI\xfb"},
	{FormatRawGzip, "\x1f\x8b"},
	{FormatRawXZ, "\xfd7zXZ\x00"},
	{FormatRawZstd, "\x28\xb5\x2f\xfd"},
	{FormatRaw, ""},
}

// refused are formats that look like raw to us and are not.
var refused = []struct{ name, magic string }{
	{"VMDK", "KDMV"},
	{"VHDX", "vhdxfile"},
	{"VDI", "<<< Oracle VM VirtualBox Disk Image"},
	{"VDI", "<<< QEMU VM Virtual Disk Image"},
	{"VHD", "conectix"},
	{"bzip2", "BZh"},
	{"zip", "PK\x03\x04"},
	{"LZ4", "\x04\x22\x4d\x18"},
	{"QED", "QED\x00"},
	{"image stream", "PXELIMG\x00"},
}

func knownFormat(format string) error {
	if format == "" {
		return nil
	}
	var names []string
	for _, f := range formats {
		if f.name == format {
			return nil
		}
		names = append(names, f.name)
	}
	return failf(ReasonUnsupportedFormat, nil, "format %q is not supported; use one of %s", format, strings.Join(names, ", "))
}

// checkFormat compares the first bytes of verified content with the format
// that was declared for it, so that a wrong declaration is told at once and
// not by what a converter makes of it.
func checkFormat(file, format string, src fmt.Stringer) error {
	if format == "" {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("looking at the format of %s: %w", src, err)
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, 64)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return fmt.Errorf("looking at the format of %s: %w", src, err)
	}
	head = head[:n]
	for _, other := range refused {
		if bytes.HasPrefix(head, []byte(other.magic)) {
			return failf(ReasonUnsupportedFormat, nil, "%s is a %s file, which is not supported; convert it to qcow2 or raw", src, other.name)
		}
	}
	for _, f := range formats {
		if !bytes.HasPrefix(head, []byte(f.magic)) {
			continue
		}
		if f.name == format {
			return nil
		}
		return failf(ReasonUnsupportedFormat, nil, "%s is declared as %s but its content is %s; set format to %s", src, format, f.name, f.name)
	}
	return nil
}
