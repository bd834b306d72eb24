// SPDX-License-Identifier: Apache-2.0

package imagelayout

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Content is what a partition contains, by its signature.
type Content string

// The contents that are recognized. ContentExt4 is ext2 and ext3 as well, which the
// same driver mounts.
const (
	ContentUnknown  Content = ""
	ContentExt4     Content = "ext4"
	ContentXFS      Content = "xfs"
	ContentBtrfs    Content = "btrfs"
	ContentVFAT     Content = "vfat"
	ContentNTFS     Content = "ntfs"
	ContentF2FS     Content = "f2fs"
	ContentSquashFS Content = "squashfs"
	ContentEROFS    Content = "erofs"
	ContentSwap     Content = "swap"
	ContentLVM      Content = "LVM"
	ContentLUKS     Content = "LUKS"
	ContentRAID     Content = "Linux RAID"
)

// IsRootFilesystem reports whether the installer can configure a system on it.
func (c Content) IsRootFilesystem() bool {
	return c == ContentExt4 || c == ContentXFS || c == ContentBtrfs
}

const (
	btrfsAt = 64 << 10
	headLen = btrfsAt + 4096
	extAt   = 1024
)

// signature is a byte string at an offset.
type signature struct {
	content Content
	at      int
	bytes   string
}

// signatures are in order of precedence: containers before file systems, whose
// superblocks may remain behind the header of a container.
var signatures = []signature{
	{ContentLUKS, 0, "LUKS\xba\xbe"},
	{ContentLVM, 0, "LABELONE"},
	{ContentLVM, 512, "LABELONE"},
	{ContentLVM, 1024, "LABELONE"},
	{ContentLVM, 1536, "LABELONE"},
	{ContentRAID, 0, "\xfc\x4e\x2b\xa9\x01\x00\x00\x00"},
	{ContentRAID, 4096, "\xfc\x4e\x2b\xa9\x01\x00\x00\x00"},
	{ContentXFS, 0, "XFSB"},
	{ContentExt4, extAt + 56, "\x53\xef"},
	{ContentBtrfs, btrfsAt + 64, "_BHRfS_M"},
	{ContentSwap, 4096 - 10, "SWAPSPACE2"},
	{ContentSwap, 65536 - 10, "SWAPSPACE2"},
	{ContentSquashFS, 0, "hsqs"},
	{ContentEROFS, 1024, "\xe2\xe1\xf5\xe0"},
	{ContentF2FS, 1024, "\x10\x20\xf5\xf2"},
	{ContentNTFS, 3, "NTFS    "},
	{ContentVFAT, 54, "FAT"},
	{ContentVFAT, 82, "FAT"},
}

// Detect returns what a partition contains.
func Detect(r io.ReaderAt) (Content, error) {
	c, _, _, err := detect(r)
	return c, err
}

// detect returns what a partition contains, and the label and the UUID of its file system,
// if it is a root file system.
func detect(r io.ReaderAt) (c Content, label, uuid string, err error) {
	head := make([]byte, headLen)
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return ContentUnknown, "", "", err
	}
	for _, s := range signatures {
		if string(head[s.at:s.at+len(s.bytes)]) == s.bytes {
			return s.content, labelOf(s.content, head), uuidOf(s.content, head), nil
		}
	}
	return ContentUnknown, "", "", nil
}

func uuidOf(c Content, head []byte) string {
	at := 0
	switch c {
	case ContentExt4:
		at = extAt + 104
	case ContentXFS:
		at = 32
	case ContentBtrfs:
		at = btrfsAt + 32
	default:
		return ""
	}
	u := head[at : at+16]
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

func labelOf(c Content, head []byte) string {
	var b []byte
	switch c {
	case ContentExt4:
		b = head[extAt+120 : extAt+136]
	case ContentXFS:
		b = head[108:120]
	case ContentBtrfs:
		b = head[btrfsAt+299 : btrfsAt+555]
	}
	b, _, _ = bytes.Cut(b, []byte{0})
	return strings.ToValidUTF8(strings.TrimSpace(string(b)), "?")
}

var le = binary.LittleEndian
