// SPDX-License-Identifier: Apache-2.0

package imagelayout

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

// Fields of FAT (Microsoft FAT32 File System Specification 1.03).
const (
	fatEntry      = 32
	fatVolume     = 0x08 // attributes of an entry
	fatDirectory  = 0x10
	fatLong       = 0x0F
	fatRootInode  = 1 // no cluster has this number
	fatIsDir      = 1 << 28
	fatClusterBit = fatIsDir - 1
	fatMaxChain   = 4096
	fatMaxDir     = 4 << 20
	fatMaxName    = 4 * 255 // bytes
)

// errFAT reports a FAT file system that this package cannot read.
var errFAT = fmt.Errorf("FAT: %w", errUnreadable)

// fat reads FAT16 and FAT32. Names are in lower case. The number of an inode has the first
// cluster, a flag for directories, and in its upper half the size.
type fat struct {
	r           io.ReaderAt
	cluster     int64 // bytes
	table       int64 // offsets
	rootAt      int64
	rootBytes   int64
	data        int64
	rootCluster uint32 // of FAT32
	wide        bool
}

func openFAT(r io.ReaderAt) (*fat, error) {
	b, err := read(r, 0, 512)
	if err != nil {
		return nil, err
	}
	sector, tableSectors, total := int64(le.Uint16(b[11:])), int64(le.Uint16(b[22:])), int64(le.Uint16(b[19:]))
	if tableSectors == 0 {
		tableSectors = int64(le.Uint32(b[36:]))
	}
	if total == 0 {
		total = int64(le.Uint32(b[32:]))
	}
	f := &fat{r: r, cluster: sector * int64(b[13]), table: sector * int64(le.Uint16(b[14:])), rootBytes: int64(le.Uint16(b[17:])) * fatEntry}
	if sector < 512 || sector > 4096 || f.cluster == 0 || b[16] == 0 {
		return nil, errFAT
	}
	f.rootAt = f.table + int64(b[16])*tableSectors*sector
	f.data = f.rootAt + (f.rootBytes+sector-1)/sector*sector
	clusters := (total*sector - f.data) / f.cluster
	if clusters < 4085 { // FAT12 is for floppy disks
		return nil, errFAT
	}
	if f.wide = clusters >= 65525; f.wide {
		f.rootCluster = le.Uint32(b[44:])
	}
	return f, nil
}

func (f *fat) root() uint64 { return fatRootInode | fatIsDir }

func (f *fat) incomplete() bool { return false }

// chain returns the content of a chain of clusters, at most limit bytes.
func (f *fat) chain(first uint32, limit int64) ([]byte, error) {
	var out []byte
	for c, n := first, 0; int64(len(out)) < limit && n < fatMaxChain; n++ {
		if c < 2 {
			return nil, errFAT
		}
		b, err := read(f.r, f.data+int64(c-2)*f.cluster, int(f.cluster))
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
		if c, err = f.next(c); err != nil {
			return nil, err
		}
		if c == 0 {
			break
		}
	}
	return out[:min(int64(len(out)), limit)], nil
}

// next returns the cluster that follows another one, 0 if it is the last one.
func (f *fat) next(c uint32) (uint32, error) {
	if f.wide {
		b, err := read(f.r, f.table+4*int64(c), 4)
		if err != nil {
			return 0, err
		}
		if c = le.Uint32(b) & fatClusterBit; c >= 0xFFFFFF8 {
			c = 0
		}
		return c, nil
	}
	b, err := read(f.r, f.table+2*int64(c), 2)
	if err != nil {
		return 0, err
	}
	if c = uint32(le.Uint16(b)); c >= 0xFFF8 {
		c = 0
	}
	return c, nil
}

func (f *fat) content(inode uint64, limit int) ([]byte, error) {
	size := int64(inode >> 32)
	if inode&fatIsDir != 0 || size == 0 {
		return nil, nil
	}
	return f.chain(uint32(inode&fatClusterBit), min(size, int64(limit)))
}

func (f *fat) entries(dir uint64, yield func(string, uint64) bool) error {
	if dir&fatIsDir == 0 {
		return nil
	}
	var b []byte
	var err error
	switch cluster := uint32(dir & fatClusterBit); {
	case cluster != fatRootInode:
		b, err = f.chain(cluster, fatMaxDir)
	case f.wide:
		b, err = f.chain(f.rootCluster, fatMaxDir)
	default:
		b, err = read(f.r, f.rootAt, int(f.rootBytes))
	}
	if err != nil {
		return err
	}
	long := ""
	for ; len(b) >= fatEntry && b[0] != 0; b = b[fatEntry:] {
		e := b[:fatEntry]
		attributes := e[11]
		switch {
		case e[0] == 0xE5: // deleted
			long = ""
			continue
		case attributes == fatLong:
			if len(long) > fatMaxName {
				long = ""
			}
			long = longName(e) + long // the last part comes first
			continue
		case attributes&fatVolume != 0:
			long = ""
			continue
		}
		name := shortName(e)
		if long != "" {
			name = long
		}
		long = ""
		inode := uint64(le.Uint16(e[20:]))<<16&fatClusterBit | uint64(le.Uint16(e[26:])) | uint64(le.Uint32(e[28:]))<<32
		if attributes&fatDirectory != 0 {
			inode |= fatIsDir
		}
		if !yield(strings.ToLower(name), inode) {
			return nil
		}
	}
	return nil
}

func shortName(e []byte) string {
	name, extension := strings.TrimRight(string(e[:8]), " "), strings.TrimRight(string(e[8:11]), " ")
	if extension != "" {
		name += "." + extension
	}
	return name
}

// longName returns the part of a long name that an entry has.
func longName(e []byte) string {
	var units []uint16
	for _, span := range [][2]int{{1, 11}, {14, 26}, {28, 32}} {
		for at := span[0]; at < span[1]; at += 2 {
			u := le.Uint16(e[at:])
			if u == 0 || u == 0xFFFF {
				return string(utf16.Decode(units))
			}
			units = append(units, u)
		}
	}
	return string(utf16.Decode(units))
}
