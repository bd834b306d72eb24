// SPDX-License-Identifier: Apache-2.0

package gpt

import (
	"bytes"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// bounded is a disk that discards writes and fails the test on a write beyond
// its end.
type bounded struct {
	*bytes.Reader
	t *testing.T
}

func (m bounded) WriteAt(b []byte, at int64) (int, error) {
	if at < 0 || at+int64(len(b)) > m.Size() {
		m.t.Fatalf("got a write of %d bytes at %d, beyond the disk's %d bytes", len(b), at, m.Size())
	}
	return len(b), nil
}

// FuzzRead reads and grows hostile tables with valid checksums. Neither a write
// nor a partition may extend beyond the disk.
func FuzzRead(f *testing.F) {
	const size, head = mib, 34 * 512
	sgdisk := ""
	for _, p := range []string{"sgdisk", "/usr/sbin/sgdisk", "/sbin/sgdisk", "/usr/local/sbin/sgdisk"} {
		if found, err := exec.LookPath(p); err == nil {
			sgdisk = found
		}
	}
	for i, args := range [][]string{
		{"--new=1:0:0"},
		{"--new=1:100:200", "--new=2:300:400", "--typecode=2:ef00"},
		{"--new=1:100:200", "--new=2:300:400", "--typecode=2:8200"},
		{"--set-alignment=1", "--new=1:40:50", "--new=15:60:70"},
	} {
		name := filepath.Join(f.TempDir(), "disk")
		if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
			f.Fatal(err)
		}
		if out, err := exec.Command(sgdisk, append(append([]string{"--clear"}, args...), name)...).CombinedOutput(); err != nil {
			f.Fatalf("seed %d: running sgdisk (Debian: package gdisk): %v\n%s", i, err, out)
		}
		disk, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(disk[:head])
	}
	f.Add(make([]byte, head))
	f.Fuzz(func(t *testing.T, b []byte) {
		disk := make([]byte, size)
		copy(disk, b[:min(len(b), head)])
		reseal(disk)
		table, err := Read(bounded{bytes.NewReader(disk), t}, size, 512)
		if err != nil {
			return
		}
		ps := table.Partitions()
		if len(ps) == 0 {
			return
		}
		grown, err := table.Grow(ps[0].Number)
		if err != nil || grown.Bytes == 0 {
			return
		}
		for _, p := range append(grown.Moved, grown.Partition) {
			if p.First < 0 || p.Last >= size/512 || p.Last < p.First {
				t.Fatalf("got %+v, want partitions within %d blocks", grown, size/512)
			}
		}
	})
}

// reseal recomputes the checksums where the lengths are valid.
func reseal(disk []byte) {
	h := disk[512:1024]
	at := le.Uint64(h[72:])
	array := uint64(le.Uint32(h[80:])) * uint64(le.Uint32(h[84:]))
	if at < uint64(len(disk))/512 && array <= uint64(len(disk))-at*512 {
		le.PutUint32(h[88:], crc32.ChecksumIEEE(disk[at*512:at*512+array]))
	}
	if n := le.Uint32(h[12:]); n >= 92 && n <= 512 {
		le.PutUint32(h[16:], headerSum(h[:n]))
	}
}
