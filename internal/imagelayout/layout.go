// SPDX-License-Identifier: Apache-2.0

// Package imagelayout reads what a disk image contains: its partition table, the file
// systems, and which of them holds the system. It needs no privileges, and its memory is
// bounded for any input.
//
// It recognizes contents by their signatures and reads directories and files of ext2, ext3,
// ext4, XFS and FAT only. It mounts and changes nothing.
package imagelayout

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/pxelab/pxelab/internal/gpt"
)

// UnsupportedError reports that an image cannot be installed, and why.
type UnsupportedError struct{ Reason string }

func (e *UnsupportedError) Error() string { return "the image cannot be installed: " + e.Reason }

func unsupported(format string, args ...any) error {
	return &UnsupportedError{fmt.Sprintf(format, args...)}
}

// Scheme is the kind of a partition table.
type Scheme string

// The schemes. SchemeNone is a file system on the whole disk, SchemeUnknown an image
// in which nothing was recognized.
const (
	SchemeGPT     Scheme = "GPT"
	SchemeMBR     Scheme = "MBR"
	SchemeNone    Scheme = "None"
	SchemeUnknown Scheme = "Unknown"
)

// Layout describes an image.
type Layout struct {
	Scheme Scheme
	// SectorSize is the size in bytes of the logical sectors for which the image was
	// made; 0 if it does not depend on it.
	SectorSize int64
	// Partitions are ordered by their position.
	Partitions []Partition

	image io.ReaderAt
}

// Partition is a partition of an image, or the whole image if Number is 0.
type Partition struct {
	Number      int
	Start, Size int64 // bytes
	Kind        gpt.Kind
	// Name is that of the partition table; Label that of the file system.
	Name    string
	Content Content
	Label   string
	// UUID is that of a root file system, PartUUID that of the entry of a GUID partition
	// table; empty if there is none.
	UUID, PartUUID string
}

func (p Partition) String() string {
	if p.Number == 0 {
		return fmt.Sprintf("the whole disk (%s)", p.Content)
	}
	what := string(p.Content)
	if p.Content == ContentUnknown {
		what = string(p.Kind)
	}
	if p.Label != "" {
		what += fmt.Sprintf(" %q", p.Label)
	}
	return fmt.Sprintf("partition %d (%s)", p.Number, what)
}

// sectorSizes are the sizes of logical sectors of disks.
var sectorSizes = []int64{512, 4096}

// Read reads the layout of an image of size bytes. A damaged partition table is an
// *UnsupportedError; other errors are those of image.
func Read(image io.ReaderAt, size int64) (*Layout, error) {
	l := &Layout{image: image, Scheme: SchemeUnknown}
	found, err := l.readGPT(size)
	if err != nil {
		return nil, err
	}
	if !found {
		if err := l.readMBR(size); err != nil {
			return nil, err
		}
	}
	if l.Scheme == SchemeUnknown {
		if err := l.readWhole(size); err != nil {
			return nil, err
		}
	}
	if len(l.Partitions) == 0 {
		if err := l.checkBackup(size); err != nil {
			return nil, err
		}
	}
	for i := range l.Partitions {
		p := &l.Partitions[i]
		if p.Content, p.Label, p.UUID, err = detect(io.NewSectionReader(image, p.Start, p.Size)); err != nil {
			return nil, fmt.Errorf("reading partition %d: %w", p.Number, err)
		}
	}
	return l, nil
}

// readOnly is a gpt.Disk that cannot be written.
type readOnly struct{ io.ReaderAt }

func (readOnly) WriteAt([]byte, int64) (int, error) { return 0, errors.New("an image is not written") }

// readGPT reads the GUID partition table and reports whether there is one.
func (l *Layout) readGPT(size int64) (bool, error) {
	var damage error
	for _, sector := range sectorSizes {
		table, err := gpt.Read(readOnly{l.image}, size, sector)
		switch {
		case errors.Is(err, gpt.ErrDamaged):
			damage = err
			continue
		case errors.Is(err, gpt.ErrNoTable), errors.Is(err, io.EOF):
			continue
		case err != nil:
			return false, err
		}
		return true, l.addGPT(table, sector, size)
	}
	if damage != nil {
		return false, unsupported("%v; %s", damage, repair)
	}
	return false, nil
}

const repair = "repair the image's partition table, for example with sgdisk"

// checkBackup returns an error if the last sector of an image without partitions holds the
// backup of a table.
func (l *Layout) checkBackup(size int64) error {
	for _, sector := range sectorSizes {
		head, err := read(l.image, size-sector, len(gpt.Signature))
		if err != nil {
			return err
		}
		if string(head) == gpt.Signature {
			return unsupported("its GUID partition table is missing, the backup of the table is not; %s", repair)
		}
	}
	return nil
}

func (l *Layout) addGPT(table *gpt.Table, sector, size int64) error {
	mbr, err := read(l.image, 0, mbrSize)
	if err != nil {
		return err
	}
	protective := slices.ContainsFunc(mbrEntries(mbr), func(e mbrEntry) bool { return e.kind == mbrProtective })
	if !isBootSector(mbr) || !protective {
		return unsupported("its GUID partition table has no protective MBR, without which firmware and Linux ignore it; %s", repair)
	}
	l.Scheme, l.SectorSize = SchemeGPT, sector
	for _, p := range table.Partitions() {
		if p.First < 1 || p.Last < p.First || p.Last >= size/sector {
			return unsupported("partition %d has an invalid range, block %d to %d", p.Number, p.First, p.Last)
		}
		l.Partitions = append(l.Partitions, Partition{
			Number: p.Number, Start: p.First * sector, Size: (p.Last - p.First + 1) * sector, Kind: p.Kind(), Name: p.Name,
			PartUUID: p.ID.String(),
		})
	}
	return nil
}

// readWhole looks for a file system on the whole disk.
func (l *Layout) readWhole(size int64) error {
	content, err := Detect(io.NewSectionReader(l.image, 0, size))
	if err != nil || content == ContentUnknown {
		return err
	}
	l.Scheme = SchemeNone
	l.Partitions = []Partition{{Size: size, Kind: gpt.KindOther}}
	return nil
}

// describe lists partitions for a message.
func describe(ps []Partition) string {
	if len(ps) == 0 {
		return "no partitions"
	}
	var out []string
	for _, p := range ps {
		out = append(out, p.String())
	}
	return strings.Join(out, ", ")
}

// read returns n bytes at an offset. Bytes outside the image are zero.
func read(r io.ReaderAt, at int64, n int) ([]byte, error) {
	b := make([]byte, n)
	if at < 0 {
		return b, nil
	}
	if _, err := r.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}
