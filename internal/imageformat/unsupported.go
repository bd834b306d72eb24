// SPDX-License-Identifier: Apache-2.0

package imageformat

import (
	"bytes"
	"strconv"
	"strings"
)

// What to do with a file that is not supported.
const (
	convert = "convert it to qcow2 or raw"
	extract = "extract the disk image from it"
	repack  = "decompress it, or compress it with gzip, xz or zstd instead"
	replace = "correct the location of the image"
)

type foreign struct{ what, remedy, bytes string }

var unsupported = []foreign{
	{"a VMDK image", convert, "KDMV"},
	{"a VMDK image", convert, "COWD"},
	{"a VMDK image", convert, "# Disk DescriptorFile"},
	{"a VHDX image", convert, "vhdxfile"},
	{"a VDI image", convert, "<<< Oracle VM VirtualBox Disk Image"},
	{"a VDI image", convert, "<<< QEMU VM Virtual Disk Image"},
	{"a VHD image", convert, "conectix"},
	{"a QED image", convert, "QED\x00"},
	{"an Android sparse image", convert, "\x3a\xff\x26\xed"},
	{"a zip archive", extract, "PK\x03\x04"},
	{"a 7z archive", extract, "7z\xbc\xaf\x27\x1c"},
	{"a RAR archive", extract, "Rar!\x1a\x07"},
	{"a cpio archive", extract, "070701"},
	{"a cpio archive", extract, "070702"},
	{"a WIM image", extract, "MSWIM\x00\x00\x00"},
	{"a squashfs file system", replace, "hsqs"},
	{"a bzip2 file", repack, "BZh"},
	{"an LZ4 file", repack, "\x04\x22\x4d\x18"},
	{"an lzip file", repack, "LZIP"},
	{"an image stream of pxelab", replace, "PXELIMG\x00"},
}

var texts = []foreign{
	{"an HTML page", replace, "<!doctype html"},
	{"an HTML page", replace, "<html"},
	{"an HTML page", replace, "<head"},
	{"an XML document", replace, "<?xml"},
}

// Unsupported returns what a file is that begins with head and that Detect would report
// as Raw although it is not a disk image, such as "a tar archive", and what the user can
// do about it. Both are empty for any other file.
func Unsupported(head []byte) (what, remedy string) {
	if isTar(head) {
		return "a tar archive", extract
	}
	for _, f := range unsupported {
		if bytes.HasPrefix(head, []byte(f.bytes)) {
			return f.what, f.remedy
		}
	}
	if page := Text(head); page != "" {
		return page, replace
	}
	return "", ""
}

// Text returns "an HTML page" or "an XML document", which servers send instead of a file
// that they do not have; empty for anything else.
func Text(head []byte) string {
	text := head[:min(len(head), HeadSize)]
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // byte order mark
	text = bytes.ToLower(bytes.TrimLeft(text, " \t\r\n"))
	for _, f := range texts {
		if bytes.HasPrefix(text, []byte(f.bytes)) {
			return f.what
		}
	}
	return ""
}

// isTar reports whether head is the header of a tar archive: it has the checksum that POSIX
// (ustar, pax) and all older variants have.
func isTar(head []byte) bool {
	const header, from, to = 512, 148, 156
	if len(head) < header || head[0] == 0 {
		return false
	}
	want, err := strconv.ParseInt(strings.Trim(string(head[from:to]), " \x00"), 8, 32)
	if err != nil {
		return false
	}
	sum := int64(0)
	for i, b := range head[:header] {
		if i >= from && i < to {
			b = ' '
		}
		sum += int64(b)
	}
	return sum == want
}
