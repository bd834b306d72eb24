// SPDX-License-Identifier: Apache-2.0

package imagelayout

import (
	"fmt"
	"io"
)

// Fields and features of ext2, ext3 and ext4, as the kernel's documentation describes
// them (Documentation/filesystems/ext4).
const (
	extRootInode     = 2
	extRecover       = 0x4 // incompatible features
	extMetaBG        = 0x10
	ext64Bit         = 0x80
	extInline        = 0x8000
	extEncrypt       = 0x10000
	extInodeExtents  = 0x80000 // flags of an inode
	extInodeInline   = 0x10000000
	extDirectory     = 0x4000 // mode of an inode
	extRegular       = 0x8000
	extModeType      = 0xF000
	extExtentMagic   = 0xF30A
	extMaxDepth      = 5
	extMaxDirBlocks  = 4096
	extDirectBlocks  = 12
	extMaxInodeBytes = 4096
)

// errExt reports a file system that this package cannot read.
var errExt = fmt.Errorf("ext: %w", errUnreadable)

// ext reads directories and files of an ext file system.
type ext struct {
	r              io.ReaderAt
	blockSize      int64
	inodesPerGroup int64
	inodes         int64
	inodeSize      int64
	descriptors    int64 // offset of the group descriptors
	descriptorSize int64
	incompatible   uint32
}

func openExt(r io.ReaderAt) (*ext, error) {
	sb, err := read(r, extAt, 1024)
	if err != nil {
		return nil, err
	}
	logSize := le.Uint32(sb[24:])
	if le.Uint16(sb[56:]) != 0xEF53 || logSize > 6 {
		return nil, errExt
	}
	e := &ext{
		r: r, blockSize: 1024 << logSize, inodes: int64(le.Uint32(sb[0:])), inodesPerGroup: int64(le.Uint32(sb[40:])),
		inodeSize: 128, descriptorSize: 32,
	}
	if le.Uint32(sb[76:]) > 0 {
		e.inodeSize = int64(le.Uint16(sb[88:]))
		e.incompatible = le.Uint32(sb[96:])
	}
	if e.incompatible&ext64Bit != 0 {
		e.descriptorSize = int64(le.Uint16(sb[254:]))
	}
	e.descriptors = (int64(le.Uint32(sb[20:])) + 1) * e.blockSize
	if e.inodesPerGroup == 0 || e.inodeSize < 128 || e.inodeSize > extMaxInodeBytes || e.descriptorSize < 32 ||
		e.incompatible&(extMetaBG|extInline|extEncrypt) != 0 {
		return nil, errExt
	}
	return e, nil
}

func (e *ext) root() uint64 { return extRootInode }

func (e *ext) incomplete() bool { return e.incompatible&extRecover != 0 }

func (e *ext) entries(dir uint64, yield func(string, uint64) bool) error {
	inode, err := e.inode(int64(dir))
	if err != nil || le.Uint16(inode)&extModeType != extDirectory {
		return err
	}
	count := (int64(le.Uint32(inode[4:])) + e.blockSize - 1) / e.blockSize
	if count > extMaxDirBlocks || le.Uint32(inode[32:])&extInodeInline != 0 {
		return errExt
	}
	for i := range count {
		at, err := e.blockOf(inode, i)
		if err != nil {
			return err
		}
		block, err := read(e.r, at*e.blockSize, int(e.blockSize))
		if err != nil {
			return err
		}
		if !extEntries(block, yield) {
			return nil
		}
	}
	return nil
}

// extEntries reads a block of a directory and reports whether yield wants more. A directory
// with an index has its entries in the same form.
func extEntries(block []byte, yield func(string, uint64) bool) bool {
	for len(block) >= 8 {
		n := int(le.Uint16(block[4:]))
		if n < 8 || n > len(block) {
			return true
		}
		length := int(block[6])
		inode := le.Uint32(block)
		if inode != 0 && 8+length <= n && !yield(string(block[8:8+length]), uint64(inode)) {
			return false
		}
		block = block[n:]
	}
	return true
}

func (e *ext) content(number uint64, limit int) ([]byte, error) {
	inode, err := e.inode(int64(number))
	if err != nil || le.Uint16(inode)&extModeType != extRegular {
		return nil, err
	}
	if le.Uint32(inode[32:])&extInodeInline != 0 {
		return nil, errExt
	}
	size := min(int64(le.Uint32(inode[4:])), int64(limit))
	var out []byte
	for i := int64(0); int64(len(out)) < size; i++ {
		at, err := e.blockOf(inode, i)
		if err != nil {
			return nil, err
		}
		block, err := read(e.r, at*e.blockSize, int(e.blockSize))
		if err != nil {
			return nil, err
		}
		out = append(out, block...)
	}
	return out[:size], nil
}

func (e *ext) inode(number int64) ([]byte, error) {
	if number < 1 || number > e.inodes {
		return nil, fmt.Errorf("%w: inode %d", errExt, number)
	}
	group, index := (number-1)/e.inodesPerGroup, (number-1)%e.inodesPerGroup
	d, err := read(e.r, e.descriptors+group*e.descriptorSize, 64)
	if err != nil {
		return nil, err
	}
	table := int64(le.Uint32(d[8:]))
	if e.descriptorSize >= 64 {
		table |= int64(le.Uint32(d[40:])) << 32
	}
	return read(e.r, table*e.blockSize+index*e.inodeSize, 128)
}

// blockOf returns the block of the file system that holds a block of a file.
func (e *ext) blockOf(inode []byte, i int64) (int64, error) {
	if le.Uint32(inode[32:])&extInodeExtents != 0 {
		return e.extentOf(inode[40:100], i)
	}
	if i < extDirectBlocks {
		return int64(le.Uint32(inode[40+4*i:])), nil
	}
	if i -= extDirectBlocks; i >= e.blockSize/4 {
		return 0, errExt // behind two indirect blocks
	}
	indirect := int64(le.Uint32(inode[40+4*extDirectBlocks:]))
	entry, err := read(e.r, indirect*e.blockSize+4*i, 4)
	if err != nil {
		return 0, err
	}
	return int64(le.Uint32(entry)), nil
}

// extentOf finds a block in a tree of extents.
func (e *ext) extentOf(node []byte, i int64) (int64, error) {
	for range extMaxDepth + 1 {
		count := int(le.Uint16(node[2:]))
		if le.Uint16(node) != extExtentMagic || 12+12*count > len(node) {
			return 0, errExt
		}
		leaf := le.Uint16(node[6:]) == 0
		at := -1
		for k := range count {
			if int64(le.Uint32(node[12+12*k:])) <= i {
				at = k
			}
		}
		if at < 0 {
			return 0, errExt
		}
		x := node[12+12*at : 24+12*at]
		if leaf {
			offset := i - int64(le.Uint32(x))
			if offset >= int64(le.Uint16(x[4:])) {
				return 0, errExt
			}
			return int64(le.Uint32(x[8:])) + int64(le.Uint16(x[6:]))<<32 + offset, nil
		}
		child := int64(le.Uint32(x[4:])) + int64(le.Uint16(x[8:]))<<32
		var err error
		if node, err = read(e.r, child*e.blockSize, int(e.blockSize)); err != nil {
			return 0, err
		}
	}
	return 0, errExt
}
