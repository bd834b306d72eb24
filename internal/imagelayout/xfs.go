// SPDX-License-Identifier: Apache-2.0

package imagelayout

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Fields of XFS, as "XFS Algorithms & Data Structures" describes them.
const (
	xfsFeatureFType  = 0x1   // incompatible feature: entries have the type of the file
	xfsVersion2FType = 0x200 // the same, of version 4
	xfsBigCounters   = 1 << 4
	xfsLocal         = 1 // formats of the data of an inode
	xfsExtents       = 2
	xfsDirectory     = 0x4000 // modes
	xfsRegular       = 0x8000
	xfsModeType      = 0xF000
	xfsDirLeaf       = 32 << 30 // byte of a directory at which its index begins
	xfsMaxExtents    = 4096
	xfsMaxDirBytes   = 16 << 20
	xfsMaxShort      = 64 << 10 // bytes of an inode
)

var be = binary.BigEndian

// errXFS reports XFS that this package cannot read.
var errXFS = fmt.Errorf("XFS: %w", errUnreadable)

// xfs reads XFS of versions 4 and 5, without directories whose extents are in a tree.
type xfs struct {
	r                  io.ReaderAt
	blockSize          int64
	dirBlock           int64 // bytes of a block of a directory
	inodeSize          int64
	agBlocks           int64
	agLog, inodeLog    uint // bits of a block in its group, and of an inode in its block
	rootInode          uint64
	version5, hasFType bool
}

// xfsInode is an inode.
type xfsInode struct {
	mode   uint16
	format byte
	size   int64
	count  int64  // extents
	data   []byte // its own part
}

func openXFS(r io.ReaderAt) (*xfs, error) {
	sb, err := read(r, 0, 512)
	if err != nil {
		return nil, err
	}
	x := &xfs{
		r: r, blockSize: int64(be.Uint32(sb[4:])), inodeSize: int64(be.Uint16(sb[104:])), agBlocks: int64(be.Uint32(sb[84:])),
		agLog: uint(sb[124]), inodeLog: uint(sb[123]), rootInode: be.Uint64(sb[56:]), version5: be.Uint16(sb[100:])&0xF == 5,
	}
	x.hasFType = x.version5 && be.Uint32(sb[216:])&xfsFeatureFType != 0 || !x.version5 && be.Uint32(sb[200:])&xfsVersion2FType != 0
	if string(sb[:4]) != "XFSB" || x.blockSize < 512 || x.blockSize > 64<<10 || x.inodeSize < 256 || x.inodeSize > xfsMaxShort ||
		x.agBlocks == 0 || x.agLog > 31 || x.inodeLog > 8 || sb[192] > 7 {
		return nil, errXFS
	}
	x.dirBlock = x.blockSize << sb[192]
	return x, nil
}

func (x *xfs) root() uint64 { return x.rootInode }

// incomplete: the log of XFS is not read. It is clean in an image that was unmounted.
func (x *xfs) incomplete() bool { return false }

// byteOf returns the place of a block, whose number has the number of its group in its
// upper bits.
func (x *xfs) byteOf(block uint64) int64 {
	group, at := int64(block>>x.agLog), int64(block&(1<<x.agLog-1))
	return (group*x.agBlocks + at) * x.blockSize
}

func (x *xfs) inode(number uint64) (xfsInode, error) {
	at := x.byteOf(number>>x.inodeLog) + int64(number&(1<<x.inodeLog-1))*x.inodeSize
	b, err := read(x.r, at, int(x.inodeSize))
	if err != nil {
		return xfsInode{}, err
	}
	start := int64(100)
	if b[4] >= 3 {
		start = 176
	}
	i := xfsInode{mode: be.Uint16(b[2:]), format: b[5], size: int64(be.Uint64(b[56:])), count: int64(be.Uint32(b[76:])), data: b[start:]}
	if b[4] >= 3 && be.Uint64(b[120:])&xfsBigCounters != 0 {
		i.count = int64(be.Uint64(b[24:]))
	}
	if string(b[:2]) != "IN" || i.size < 0 {
		return xfsInode{}, errXFS
	}
	return i, nil
}

// readAll returns the bytes of a file from its beginning, at most limit. A hole is zero.
func (x *xfs) readAll(i xfsInode, limit int64) ([]byte, error) {
	if i.format == xfsLocal {
		return i.data[:min(i.size, limit, int64(len(i.data)))], nil
	}
	if i.format != xfsExtents || i.count > min(xfsMaxExtents, int64(len(i.data))/16) {
		return nil, errXFS
	}
	out := make([]byte, min(i.size, limit))
	blocks := (int64(len(out)) + x.blockSize - 1) / x.blockSize
	next := int64(0)
	for k := range i.count {
		high, low := be.Uint64(i.data[16*k:]), be.Uint64(i.data[16*k+8:])
		// In blocks, of which there are fewer than 2^55. Their bytes may not fit.
		offset, length := int64(high<<1>>10), int64(low&(1<<21-1))
		block := high&0x1FF<<43 | low>>21
		if offset < next { // else a damaged file would be read again and again
			return nil, errXFS
		}
		next = offset + length
		if high>>63 != 0 || offset >= blocks {
			continue // allocated and not written, or behind the limit
		}
		to := out[offset*x.blockSize:]
		b, err := read(x.r, x.byteOf(block), int(min(length*x.blockSize, int64(len(to)))))
		if err != nil {
			return nil, err
		}
		copy(to, b)
	}
	return out, nil
}

func (x *xfs) content(number uint64, limit int) ([]byte, error) {
	i, err := x.inode(number)
	if err != nil || i.mode&xfsModeType != xfsRegular {
		return nil, err
	}
	return x.readAll(i, int64(limit))
}

func (x *xfs) entries(dir uint64, yield func(string, uint64) bool) error {
	i, err := x.inode(dir)
	if err != nil || i.mode&xfsModeType != xfsDirectory {
		return err
	}
	if i.format == xfsLocal {
		return x.shortEntries(i.data, yield)
	}
	// The size of a directory is that of its data blocks.
	if i.size > xfsMaxDirBytes {
		return errXFS
	}
	b, err := x.readAll(i, xfsDirLeaf)
	if err != nil {
		return err
	}
	for ; int64(len(b)) >= x.dirBlock; b = b[x.dirBlock:] {
		if !x.blockEntries(b[:x.dirBlock], yield) {
			return nil
		}
	}
	return nil
}

// shortEntries reads a directory that is in its inode.
func (x *xfs) shortEntries(b []byte, yield func(string, uint64) bool) error {
	if len(b) < 10 {
		return errXFS
	}
	count, wide := int(b[0]), 4
	if b[1] > 0 {
		count, wide = int(max(b[0], b[1])), 8
	}
	b = b[2+wide:] // behind the inode of the parent
	for range count {
		if len(b) < 3 {
			return errXFS
		}
		name := int(b[0])
		at := 3 + name
		if x.hasFType {
			at++
		}
		if len(b) < at+wide {
			return errXFS
		}
		inode := uint64(be.Uint32(b[at:]))
		if wide == 8 {
			inode = be.Uint64(b[at:])
		}
		if !yield(string(b[3:3+name]), inode) {
			return nil
		}
		b = b[at+wide:]
	}
	return nil
}

// blockEntries reads a data block of a directory and reports whether yield wants more.
func (x *xfs) blockEntries(b []byte, yield func(string, uint64) bool) bool {
	at, end := 16, len(b)
	if x.version5 {
		at = 64
	}
	switch string(b[:4]) {
	case "XD2B", "XDB3": // the only block, with an index at its end
		if leaves := int64(be.Uint32(b[end-8:])); leaves <= int64(end-8)/8 {
			end -= 8 + 8*int(leaves)
		}
	case "XD2D", "XDD3":
	default:
		return true // a hole
	}
	for at+12 <= end {
		if be.Uint16(b[at:]) == 0xFFFF { // free
			length := int(be.Uint16(b[at+2:]))
			if length < 8 {
				return true
			}
			at += length
			continue
		}
		name := int(b[at+8])
		length := 8 + 1 + name + 2
		if x.hasFType {
			length++
		}
		if at+length > end {
			return true
		}
		if !yield(string(b[at+9:at+9+name]), be.Uint64(b[at:])) {
			return false
		}
		at += (length + 7) / 8 * 8
	}
	return true
}
