// SPDX-License-Identifier: Apache-2.0

package imagelayout

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/pxelab/pxelab/internal/gpt"
)

const (
	mbrSize       = 512
	mbrSector     = 512
	mbrProtective = 0xEE
	// maxLogical bounds the chain of logical partitions.
	maxLogical = 60
)

var mbrKinds = map[byte]gpt.Kind{
	0x83: gpt.KindLinux, 0x82: gpt.KindSwap, 0xEF: gpt.KindESP, 0x8E: gpt.KindLVM, 0xFD: gpt.KindRAID,
}

// mbrEntry is an entry of a partition table in a boot sector. Start and size are in
// sectors.
type mbrEntry struct {
	flag, kind  byte
	start, size int64
}

func (e mbrEntry) isExtended() bool { return e.kind == 0x05 || e.kind == 0x0F || e.kind == 0x85 }

func isBootSector(b []byte) bool { return b[510] == 0x55 && b[511] == 0xAA }

func mbrEntries(b []byte) []mbrEntry {
	var out []mbrEntry
	for i := 446; i < 510; i += 16 {
		out = append(out, mbrEntry{
			flag: b[i], kind: b[i+4],
			start: int64(binary.LittleEndian.Uint32(b[i+8:])), size: int64(binary.LittleEndian.Uint32(b[i+12:])),
		})
	}
	return out
}

// readMBR reads a partition table of the kind of the IBM PC. The boot sector of a file
// system, which has code in the place of the table, is not one.
func (l *Layout) readMBR(size int64) error {
	b, err := read(l.image, 0, mbrSize)
	if err != nil || !isBootSector(b) {
		return err
	}
	used := 0
	for _, e := range mbrEntries(b) {
		if e.kind == 0 {
			continue
		}
		if e.flag&0x7F != 0 || e.size == 0 || e.start == 0 || e.start >= size/mbrSector {
			return nil
		}
		used++
	}
	if used == 0 {
		return nil
	}
	l.Scheme, l.SectorSize = SchemeMBR, mbrSector
	for i, e := range mbrEntries(b) {
		switch {
		case e.kind == 0, e.kind == mbrProtective:
		case e.isExtended():
			if err := l.addLogical(e.start, size); err != nil {
				return err
			}
		default:
			l.addMBR(i+1, e, size)
		}
	}
	slices.SortStableFunc(l.Partitions, func(a, b Partition) int { return cmp.Compare(a.Start, b.Start) })
	return nil
}

func (l *Layout) addMBR(number int, e mbrEntry, size int64) {
	kind, ok := mbrKinds[e.kind]
	if !ok {
		kind = gpt.KindOther
	}
	start := e.start * mbrSector
	l.Partitions = append(l.Partitions, Partition{
		Number: number, Start: start, Size: min(e.size*mbrSector, size-start), Kind: kind,
	})
}

// addLogical adds the logical partitions of an extended partition: a chain of boot
// sectors, each with one partition and the location of the next.
func (l *Layout) addLogical(extended, size int64) error {
	at := extended
	for number := 5; number < 5+maxLogical; number++ {
		b, err := read(l.image, at*mbrSector, mbrSize)
		if err != nil || !isBootSector(b) {
			return err
		}
		entries := mbrEntries(b)
		e, next := entries[0], entries[1]
		e.start += at
		if e.kind != 0 && e.size > 0 && e.start < size/mbrSector {
			l.addMBR(number, e, size)
		}
		if !next.isExtended() || next.start == 0 {
			return nil
		}
		at = extended + next.start
	}
	return nil
}
