// SPDX-License-Identifier: Apache-2.0

package gpt

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const mib = 1 << 20

// tool finds a program, also in the sbin directories, which are not on every
// user's PATH.
func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	for _, p := range []string{name, "/usr/sbin/" + name, "/sbin/" + name, "/usr/local/sbin/" + name} {
		if found, err := exec.LookPath(p); err == nil {
			return found
		}
	}
	t.Fatalf("%s is missing (Debian: package %s; `make deps` installs it)", name, pkg)
	return ""
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// image creates a disk of 64 MiB with partitions and then resizes it to grown
// bytes.
func image(t *testing.T, grown int64, args ...string) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(64 * mib); err != nil {
		t.Fatal(err)
	}
	run(t, tool(t, "sgdisk", "gdisk"), append(append([]string{"--clear"}, args...), name)...)
	if err := f.Truncate(grown); err != nil {
		t.Fatal(err)
	}
	return f
}

// ubuntu is the partition layout of Ubuntu's 24.04 cloud images: the root is
// number 1 and last on the disk.
var ubuntu = []string{
	"--new=14:1M:+4M", "--typecode=14:ef02",
	"--new=15:5M:+16M", "--typecode=15:ef00", "--change-name=15:esp",
	"--new=16:21M:+16M", "--typecode=16:ea00",
	"--new=1:37M:+20M", "--typecode=1:8300", "--change-name=1:wurzel-ä", "--attributes=1:set:2",
}

func TestGrow(t *testing.T) {
	for name, c := range map[string]struct {
		grown  int64
		args   []string
		number int
		kept   string
		moved  []int
	}{
		"Ubuntu 24.04":  {grown: 300 * mib, args: ubuntu, number: 1},
		"odd size":      {grown: 300*mib + 7*512, args: ubuntu, number: 1},
		"same size":     {grown: 64 * mib, args: ubuntu, number: 1},
		"above 2 TiB":   {grown: 3 << 40, args: ubuntu, number: 1},
		"one partition": {grown: 128 * mib, args: []string{"--new=3:1M:+8M"}, number: 3},
		"more entries":  {grown: 128 * mib, args: []string{"--resize-table=256", "--new=200:1M:+8M"}, number: 200},
		"hybrid MBR":    {grown: 128 * mib, args: []string{"--new=1:1M:+8M", "--new=2:9M:+8M", "--hybrid=1"}, number: 2},
		"an ESP follows": {
			grown: 128 * mib, args: []string{"--new=1:1M:+8M", "--new=2:9M:+8M", "--typecode=2:ef00"},
			number: 1, kept: "partition 2, an EFI system partition, follows it",
		},
		"a file system follows": {
			grown: 128 * mib, args: []string{"--new=1:1M:+8M", "--new=2:9M:+8M"},
			number: 1, kept: "partition 2, a Linux file system, follows it",
		},
		"swap follows": {
			grown: 128 * mib, args: []string{"--new=1:1M:+8M", "--new=2:9M:+8M", "--typecode=2:8200"}, number: 1, moved: []int{2},
		},
		"two of swap follow": {
			grown: 128 * mib, number: 2, moved: []int{1, 3},
			args: []string{"--new=2:1M:+8M", "--new=3:9M:+8M", "--typecode=3:8200", "--new=1:17M:+5M", "--typecode=1:8200"},
		},
		"swap follows on a disk of the same size": {
			grown: 64 * mib, args: []string{"--new=1:1M:+54M", "--new=2:55M:0", "--typecode=2:8200"}, number: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := image(t, c.grown, c.args...)
			before, err := Read(f, c.grown, 512)
			if err != nil {
				t.Fatal(err)
			}
			want := before.Partitions()
			id := diskID(t, f.Name())
			g, err := before.Grow(c.number)
			if err != nil {
				t.Fatal(err)
			}
			if g.Kept != c.kept {
				t.Errorf("got a partition kept because %q, want %q", g.Kept, c.kept)
			}
			out := run(t, tool(t, "sgdisk", "gdisk"), "--verify", f.Name())
			if !strings.Contains(out, "No problems found") {
				t.Errorf("sgdisk --verify: got this output, want \"No problems found\":\n%s", out)
			}
			if got := diskID(t, f.Name()); got != id {
				t.Errorf("got %q, want %q", got, id)
			}
			after, err := Read(f, c.grown, 512)
			if err != nil {
				t.Fatal(err)
			}
			checkGrowth(t, g, c.grown, c.moved, want, after.Partitions())
			again, err := after.Grow(c.number)
			if err != nil || again.Bytes != 0 || len(again.Moved) != 0 {
				t.Errorf("second Grow = %+v, %v, want no growth", again, err)
			}
		})
	}
}

// checkGrowth compares the partitions before and after a growth.
func checkGrowth(t *testing.T, g Growth, size int64, moved []int, before, after []Partition) {
	t.Helper()
	var got []int
	for _, p := range g.Moved {
		got = append(got, p.Number)
	}
	if diff := cmp.Diff(moved, got); diff != "" {
		t.Errorf("moved partitions (-want +got):\n%s", diff)
	}
	sizes := func(ps []Partition) map[int]int64 {
		out := map[int]int64{}
		for _, p := range ps {
			out[p.Number] = (p.Last - p.First + 1) * 512
		}
		return out
	}
	want := sizes(before)
	want[g.Partition.Number] += g.Bytes
	if diff := cmp.Diff(want, sizes(after)); diff != "" {
		t.Errorf("sizes of partitions (-want +got):\n%s", diff)
	}
	if len(moved) == 0 { // then nothing but the end of the grown one has changed
		for i := range before {
			if before[i].Number == g.Partition.Number {
				before[i].Last += g.Bytes / 512
			}
		}
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("partitions (-want +got):\n%s", diff)
		}
	}
	last := after[len(after)-1]
	if left := size - (last.Last+1)*512; g.Kept == "" && left > 2*mib {
		t.Errorf("got %d unused bytes after the last partition, want at most %d", left, 2*mib)
	}
	if end := g.Partition.Last + 1; g.Bytes > 0 && end%8 != 0 {
		t.Errorf("got a partition that ends before block %d, want a multiple of 8", end)
	}
}

// Swap keeps its UUID and label, by which the installed system finds it. Other content
// is not moved.
func TestGrowMovesHeaderOfSwap(t *testing.T) {
	layout := []string{"--new=1:1M:+8M", "--new=2:9M:+8M", "--typecode=2:8200"}
	const from, grown = 9 * mib, 128 * mib
	for name, c := range map[string]struct {
		content []byte
		kept    string
	}{
		"swap":              {content: append(bytes.Repeat([]byte{7}, 4086), "SWAPSPACE2"...)},
		"64 KiB pages":      {content: append(bytes.Repeat([]byte{7}, 65526), "SWAPSPACE2"...)},
		"not yet formatted": {},
		"encrypted": {
			content: []byte("LUKS\xba\xbe"),
			kept:    "partition 2, which follows it, has the type of swap and other content",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := image(t, grown, layout...)
			if _, err := f.WriteAt(c.content, from); err != nil {
				t.Fatal(err)
			}
			table, err := Read(f, grown, 512)
			if err != nil {
				t.Fatal(err)
			}
			g, err := table.Grow(1)
			if err != nil {
				t.Fatal(err)
			}
			if g.Kept != c.kept {
				t.Errorf("got a partition kept because %q, want %q", g.Kept, c.kept)
			}
			if c.kept != "" {
				return
			}
			if len(g.Moved) != 1 {
				t.Fatalf("got moved partitions %+v, want partition 2", g.Moved)
			}
			got := make([]byte, len(c.content))
			if _, err := f.ReadAt(got, g.Moved[0].First*512); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, c.content) {
				t.Error("moved swap: got another header, want the one before")
			}
		})
	}
}

func diskID(t *testing.T, name string) string {
	t.Helper()
	for line := range strings.Lines(run(t, tool(t, "sgdisk", "gdisk"), "--print", name)) {
		if strings.HasPrefix(line, "Disk identifier") {
			return line
		}
	}
	t.Fatal("sgdisk --print: got no disk identifier, want one")
	return ""
}

// A table written with blocks of 512 bytes is not found with blocks of 4096.
func TestReadWithOtherBlockSize(t *testing.T) {
	f := image(t, 64*mib, ubuntu...)
	if _, err := Read(f, 64*mib, 4096); !errors.Is(err, ErrNoTable) {
		t.Errorf("got error %v, want %v", err, ErrNoTable)
	}
}

func TestPartitionNames(t *testing.T) {
	f := image(t, 64*mib, ubuntu...)
	table, err := Read(f, 64*mib, 512)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range table.Partitions() {
		got = append(got, p.Name)
	}
	if diff := cmp.Diff([]string{"", "esp", "", "wurzel-ä"}, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

// memory is a disk in memory.
type memory []byte

func (m memory) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(m)) {
		return 0, io.EOF
	}
	n := copy(p, m[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m memory) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(m)) {
		return 0, io.ErrShortWrite
	}
	return copy(m[off:], p), nil
}

func TestReadRefusesDamagedTable(t *testing.T) {
	f := image(t, 64*mib, ubuntu...)
	head := make([]byte, 40*512)
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	for i := 512; i < 512+92; i++ {
		b := memory(bytes.Clone(head))
		b[i] ^= 0x55
		_, err := Read(b, 64*mib, 512)
		if !errors.Is(err, ErrNoTable) {
			t.Fatalf("byte %d of the header damaged: got error %v, want %v", i-512, err, ErrNoTable)
		}
		if signed := i >= 512+len(Signature); errors.Is(err, ErrDamaged) != signed {
			t.Fatalf("byte %d of the header damaged: got error %v, want %v: %t", i-512, err, ErrDamaged, signed)
		}
	}
	b := memory(bytes.Clone(head))
	b[1024+20] ^= 1
	if _, err := Read(b, 64*mib, 512); !errors.Is(err, ErrNoTable) {
		t.Errorf("entry damaged: got error %v, want %v", err, ErrNoTable)
	}
}

func TestGrowRefusesDiskSmallerThanTable(t *testing.T) {
	f := image(t, 40*mib, ubuntu...)
	table, err := Read(f, 40*mib, 512)
	if err != nil {
		t.Fatal(err)
	}
	before := make([]byte, mib)
	if _, err := f.ReadAt(before, 0); err != nil {
		t.Fatal(err)
	}
	const want = "partition 1 ends at block"
	if _, err := table.Grow(1); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got error %v, want %q", err, want)
	}
	after := make([]byte, mib)
	if _, err := f.ReadAt(after, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Error("after an error: got another table, want it unchanged")
	}
}
