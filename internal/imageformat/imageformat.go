// SPDX-License-Identifier: Apache-2.0

// Package imageformat defines the supported formats of disk images and detects them,
// and what is taken for a disk image by mistake, by their first bytes.
package imageformat

import "bytes"

// The supported formats, as in the API. A compressed file may contain a raw or a qcow2
// image.
const (
	QCOW2   = "qcow2"
	Raw     = "raw"
	RawGzip = "raw.gz"
	RawXZ   = "raw.xz"
	RawZstd = "raw.zst"
)

// QCOW2Magic are the first bytes of a qcow2 file.
const QCOW2Magic = "QFI\xfb"

// HeadSize is the number of bytes that the functions of this package need: the header of a
// tar archive. Shorter files are passed whole.
const HeadSize = 512

type magic struct{ format, bytes string }

var supported = []magic{
	{QCOW2, QCOW2Magic},
	{RawGzip, "\x1f\x8b"},
	{RawXZ, "\xfd7zXZ\x00"},
	{RawZstd, "\x28\xb5\x2f\xfd"},
}

// All returns the supported formats, in the order in which messages list them.
func All() []string { return []string{QCOW2, RawGzip, RawXZ, RawZstd, Raw} }

// Detect returns the format of a file that begins with head. A file without a known
// magic number is Raw.
func Detect(head []byte) string {
	for _, m := range supported {
		if bytes.HasPrefix(head, []byte(m.bytes)) {
			return m.format
		}
	}
	return Raw
}
