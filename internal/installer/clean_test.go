// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sparse is a disk of which only the beginning is not zero.
type sparse struct {
	head []byte
	size int64
}

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= s.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), s.size-off))
	clear(p[:n])
	if off < int64(len(s.head)) {
		copy(p[:n], s.head[off:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// dosDisk returns the first sector of a disk with one partition.
func dosDisk(start, size uint32) []byte {
	b := make([]byte, 512)
	b[446+4] = 0x83
	binary.LittleEndian.PutUint32(b[446+8:], start)
	binary.LittleEndian.PutUint32(b[446+12:], size)
	b[510], b[511] = 0x55, 0xAA
	return b
}

func TestSignatureSpans(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		head []byte
		size int64
		want []span
	}{
		"small disk": {size: 3 * mib / 2, want: []span{{0, 3 * mib / 2}}},
		"no table": {size: 300 * gib, want: []span{
			{0, mib}, {64 * mib, mib}, {256 * gib, mib}, {300*gib - mib, mib},
		}},
		"not a multiple of a block": {size: 10*mib + 512, want: []span{{0, mib}, {9 * mib, mib + 512}}},
		"a partition": {head: dosDisk(2048*100, 2048*20), size: gib, want: []span{
			{0, mib}, {64 * mib, mib}, {100 * mib, mib}, {119 * mib, mib}, {gib - mib, mib},
		}},
		"a partition with a copy of a btrfs superblock": {head: dosDisk(2048, 2048*100), size: gib, want: []span{
			{0, 2 * mib}, {64 * mib, 2 * mib}, {100 * mib, mib}, {gib - mib, mib},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got := signatureSpans(sparse{c.head, c.size}, c.size)
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(span{})); diff != "" {
				t.Errorf("spans (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSparseReads(t *testing.T) {
	got := make([]byte, 4)
	if n, err := (sparse{[]byte("ab"), 3}).ReadAt(got, 1); n != 2 || err != io.EOF || !bytes.Equal(got[:2], []byte("b\x00")) {
		t.Errorf("got %q, %d, %v, want two bytes and EOF", got, n, err)
	}
}
