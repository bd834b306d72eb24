// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"cmp"
	"io"
	"slices"

	"github.com/pxelab/pxelab/internal/imagelayout"
)

// span is a range of a disk in bytes.
type span struct{ offset, length int64 }

const (
	// signatureBytes covers what lies at the beginning and at the end of a disk or
	// partition: the superblocks of file systems, LUKS, LVM, RAID and ZFS, and the
	// partition table and its backup.
	signatureBytes = 1 << 20
	// spanAlignment is a multiple of each disk's block size.
	spanAlignment = 4096
)

// btrfsMirrors are the offsets of the copies of a btrfs superblock.
var btrfsMirrors = []int64{64 << 20, 256 << 30}

// signatureSpans returns the ranges of a disk of size bytes in which a file system, a
// volume manager or a partition table may be recognized, in order and without overlap.
// disk is read for the partitions that it has; a table that cannot be read has none.
func signatureSpans(disk io.ReaderAt, size int64) []span {
	places := []span{{0, size}}
	if l, err := imagelayout.Read(disk, size); err == nil {
		for _, p := range l.Partitions {
			places = append(places, span{p.Start, p.Size})
		}
	}
	var spans []span
	for _, p := range places {
		offsets := append([]int64{0, p.length - signatureBytes}, btrfsMirrors...)
		for _, at := range offsets {
			if at = max(at, 0); at < p.length {
				spans = append(spans, span{p.offset + at, min(signatureBytes, p.length-at)})
			}
		}
	}
	return mergeSpans(spans, size)
}

// mergeSpans aligns spans, which lie within size, and merges those that overlap.
func mergeSpans(spans []span, size int64) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.offset, b.offset) })
	var out []span
	for _, s := range spans {
		start := s.offset / spanAlignment * spanAlignment
		end := min((s.offset+s.length+spanAlignment-1)/spanAlignment*spanAlignment, size)
		if n := len(out); n > 0 && start <= out[n-1].offset+out[n-1].length {
			last := &out[n-1]
			last.length = max(last.length, end-last.offset)
			continue
		}
		out = append(out, span{start, end - start})
	}
	return out
}

func totalLength(spans []span) int64 {
	total := int64(0)
	for _, s := range spans {
		total += s.length
	}
	return total
}
