// SPDX-License-Identifier: Apache-2.0

// Package gpt reads a GUID partition table (UEFI specification, section 5.3),
// extends one that was written for a smaller disk to its whole disk, and grows a
// partition into the new space.
//
// It changes nothing else: GUIDs, names, types, attributes and numbers of all
// partitions are preserved. Of the partitions that follow the grown one, it moves
// swap, which has no content to keep but its header, and no other. It does not
// create or shrink partitions.
package gpt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"unicode/utf16"
)

// ErrNoTable reports that the disk has no valid GUID partition table. An error that
// wraps it also wraps ErrDamaged if there is one that is not valid.
var (
	ErrNoTable = errors.New("no GUID partition table")
	ErrDamaged = errors.New("damaged GUID partition table")
)

// damagedError is an ErrNoTable and an ErrDamaged.
type damagedError struct{ detail string }

func (e damagedError) Error() string { return ErrDamaged.Error() + ": " + e.detail }

func (e damagedError) Is(target error) bool { return target == ErrNoTable || target == ErrDamaged }

func damaged(format string, args ...any) error {
	return damagedError{fmt.Sprintf(format, args...)}
}

const (
	// Signature is what a header begins with. The primary one is in block 1.
	Signature = "EFI PART"
	// alignment of the end of a grown partition, in bytes: a multiple of every
	// file system's block size.
	alignment = 4096

	minEntrySize  = 128
	maxArrayBytes = 1 << 20
	mbrTypeGPT    = 0xEE
)

// GUID is a GUID in the mixed-endian byte order used on disk.
type GUID [16]byte

// String returns the textual form, as in C12A7328-F81F-11D2-BA4B-00A0C93EC93B.
func (g GUID) String() string {
	le, be := binary.LittleEndian, binary.BigEndian
	return fmt.Sprintf("%08X-%04X-%04X-%04X-%012X", le.Uint32(g[0:]), le.Uint16(g[4:]), le.Uint16(g[6:]),
		be.Uint16(g[8:]), g[10:])
}

// Partition is an entry of the table. First and Last are its first and last
// block, both inclusive.
type Partition struct {
	Number      int
	Type        GUID
	ID          GUID
	First, Last int64
	Name        string
}

// Disk is a disk with a partition table.
type Disk interface {
	io.ReaderAt
	io.WriterAt
}

// Table is a partition table in memory.
type Table struct {
	disk       Disk
	blockSize  int64
	diskBlocks int64
	header     []byte // one block
	entries    []byte
	entrySize  int
}

var le = binary.LittleEndian

// Read reads the primary table of a disk of size bytes with logical blocks of
// blockSize bytes. The error wraps ErrNoTable if the table is damaged or missing.
func Read(disk Disk, size, blockSize int64) (*Table, error) {
	t := &Table{disk: disk, blockSize: blockSize, diskBlocks: size / blockSize, header: make([]byte, blockSize)}
	if t.diskBlocks < 6 {
		return nil, fmt.Errorf("%w: the disk has only %d bytes", ErrNoTable, size)
	}
	if _, err := disk.ReadAt(t.header, blockSize); err != nil {
		return nil, fmt.Errorf("reading partition table: %w", err)
	}
	h := t.header
	if string(h[:8]) != Signature {
		return nil, fmt.Errorf("%w at block 1 of %d bytes", ErrNoTable, blockSize)
	}
	n := int64(le.Uint32(h[12:]))
	if n < 92 || n > blockSize {
		return nil, damaged("invalid header size %d", n)
	}
	if got := headerSum(h[:n]); got != le.Uint32(h[16:]) {
		return nil, damaged("wrong header checksum")
	}
	count, entry := int64(le.Uint32(h[80:])), int64(le.Uint32(h[84:]))
	if entry < minEntrySize || entry%8 != 0 || count == 0 || count > maxArrayBytes/entry {
		return nil, damaged("invalid size of %d entries of %d bytes", count, entry)
	}
	t.entrySize = int(entry)
	at := int64(le.Uint64(h[72:]))
	if at < 2 || at > t.diskBlocks-t.blocks(count*entry) {
		return nil, damaged("invalid location of entries at block %d", at)
	}
	// Whole blocks, as a disk opened with O_DIRECT requires.
	t.entries = make([]byte, t.blocks(count*entry)*blockSize)
	if _, err := disk.ReadAt(t.entries, at*blockSize); err != nil {
		return nil, fmt.Errorf("reading partition entries: %w", err)
	}
	if crc32.ChecksumIEEE(t.entries[:count*entry]) != le.Uint32(h[88:]) {
		return nil, damaged("wrong checksum of entries")
	}
	return t, nil
}

func headerSum(h []byte) uint32 {
	c := slices.Clone(h)
	le.PutUint32(c[16:], 0)
	return crc32.ChecksumIEEE(c)
}

func (t *Table) blocks(n int64) int64 { return (n + t.blockSize - 1) / t.blockSize }

func (t *Table) arrayBytes() int { return int(le.Uint32(t.header[80:])) * t.entrySize }

// Partitions returns the partitions ordered by position on the disk.
func (t *Table) Partitions() []Partition {
	var ps []Partition
	for i := 0; i < t.arrayBytes(); i += t.entrySize {
		e := t.entries[i : i+t.entrySize]
		p := Partition{
			Number: i/t.entrySize + 1,
			Type:   GUID(e[:16]), ID: GUID(e[16:32]),
			First: int64(le.Uint64(e[32:])), Last: int64(le.Uint64(e[40:])),
			Name: name(e[56:128]),
		}
		if p.Type != (GUID{}) {
			ps = append(ps, p)
		}
	}
	slices.SortFunc(ps, func(a, b Partition) int { return int(max(-1, min(1, a.First-b.First))) })
	return ps
}

func name(b []byte) string {
	u := make([]uint16, 0, len(b)/2)
	for ; len(b) >= 2; b = b[2:] {
		u = append(u, le.Uint16(b))
	}
	return strings.TrimRight(string(utf16.Decode(u)), "\x00")
}

func (t *Table) write(backupArray int64) error {
	n := le.Uint32(t.header[12:])
	seal := func(h []byte) { le.PutUint32(h[16:], headerSum(h[:n])) }

	backup := slices.Clone(t.header)
	le.PutUint64(backup[24:], uint64(t.diskBlocks-1))
	le.PutUint64(backup[32:], 1)
	le.PutUint64(backup[72:], uint64(backupArray))
	seal(backup)
	seal(t.header)
	writes := []struct {
		what  string
		block int64
		data  []byte
	}{
		{"backup partition entries", backupArray, t.entries},
		{"backup partition table", t.diskBlocks - 1, backup},
		{"partition entries", int64(le.Uint64(t.header[72:])), t.entries},
		{"partition table", 1, t.header},
	}
	for _, w := range writes {
		if _, err := t.disk.WriteAt(w.data, w.block*t.blockSize); err != nil {
			return fmt.Errorf("writing %s: %w", w.what, err)
		}
	}
	return t.protect()
}

// protect makes the protective MBR's entry cover the disk, which some firmware
// and all partition checkers require. It leaves a hybrid MBR, which has other
// entries too, unchanged.
func (t *Table) protect() error {
	mbr := make([]byte, t.blockSize)
	if _, err := t.disk.ReadAt(mbr, 0); err != nil {
		return fmt.Errorf("reading protective MBR: %w", err)
	}
	before := slices.Clone(mbr)
	var used []int
	for i := 446; i < 510; i += 16 {
		if mbr[i+4] != 0 {
			used = append(used, i)
		}
	}
	if len(used) == 1 && mbr[used[0]+4] == mbrTypeGPT && mbr[510] == 0x55 && mbr[511] == 0xAA {
		le.PutUint32(mbr[used[0]+12:], uint32(min(t.diskBlocks-1, 0xFFFFFFFF)))
	}
	if bytes.Equal(before, mbr) {
		return nil
	}
	if _, err := t.disk.WriteAt(mbr, 0); err != nil {
		return fmt.Errorf("writing protective MBR: %w", err)
	}
	return nil
}
