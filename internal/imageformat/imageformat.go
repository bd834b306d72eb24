// SPDX-License-Identifier: Apache-2.0

// Package imageformat defines the supported formats of disk images and detects them
// by their first bytes.
package imageformat

import "bytes"

// The supported formats, as in the API.
const (
	QCOW2   = "qcow2"
	Raw     = "raw"
	RawGzip = "raw.gz"
	RawXZ   = "raw.xz"
	RawZstd = "raw.zst"
)

// QCOW2Magic are the first bytes of a qcow2 file.
const QCOW2Magic = "QFI\xfb"

// HeadSize is the number of bytes that Detect and DetectUnsupported need. Shorter
// files are passed whole.
const HeadSize = 64

type magic struct{ format, bytes string }

var supported = []magic{
	{QCOW2, QCOW2Magic},
	{RawGzip, "\x1f\x8b"},
	{RawXZ, "\xfd7zXZ\x00"},
	{RawZstd, "\x28\xb5\x2f\xfd"},
}

var unsupported = []magic{
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

// All returns the supported formats, in the order in which messages list them.
func All() []string { return []string{QCOW2, RawGzip, RawXZ, RawZstd, Raw} }

// Detect returns the format of a file that begins with head. A file without a known
// magic number is Raw.
func Detect(head []byte) string {
	if format := find(supported, head); format != "" {
		return format
	}
	return Raw
}

// DetectUnsupported returns the name of the unsupported format of a file that begins
// with head and that Detect would report as Raw, or "" if there is none.
func DetectUnsupported(head []byte) string { return find(unsupported, head) }

func find(magics []magic, head []byte) string {
	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m.bytes)) {
			return m.format
		}
	}
	return ""
}
