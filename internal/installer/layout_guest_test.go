// SPDX-License-Identifier: Apache-2.0

//go:build linux

package installer

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

// partitionSpan is a partition as sfdisk reports it, in bytes.
type partitionSpan struct{ start, size int64 }

func partitionsOf(t testing.TB, disk string) map[string]partitionSpan {
	t.Helper()
	var table struct {
		PartitionTable struct {
			Partitions []struct {
				Node        string
				Start, Size int64
			}
		}
	}
	if err := json.Unmarshal([]byte(command(t, tool(t, "sfdisk", "fdisk"), "--json", disk)), &table); err != nil {
		t.Fatal(err)
	}
	out := map[string]partitionSpan{}
	for _, p := range table.PartitionTable.Partitions {
		out[strings.TrimPrefix(p.Node, disk)] = partitionSpan{p.Start * 512, p.Size * 512}
	}
	return out
}

// TestGuestGrowsRootBeforeSwap installs an image whose swap comes last: it is moved to the
// end of the disk with its UUID, and the root fills the space before it. The disk holds
// metadata of an earlier use, which is erased.
func TestGuestGrowsRootBeforeSwap(t *testing.T) {
	const mib, size = 1 << 20, 1 << 30
	raw := layoutImage(t, []string{"--new=1:1M:+64M", "--new=2:65M:+32M", "--typecode=2:8200"}, 1)
	swap := filepath.Join(t.TempDir(), "swap")
	writeSparse(t, swap, 32*mib)
	command(t, tool(t, "mkswap", "util-linux"), "--uuid", "11111111-2222-3333-4444-555555555555", swap)
	copyInto(t, raw, swap, 65*mib)

	l := newLab()
	l.plan.Cleaning = installerapi.CleanMetadata
	l.plan.RootDisk = installerapi.RootDisk{Serial: "root"}
	l.encode(t, raw)
	l.start(t)
	disk := blank(t, size)
	copyInto(t, disk, swap, 64*mib) // where a copy of a btrfs superblock may be
	drive := virtioDisk(disk, "raw")
	drive[len(drive)-1] += ",serial=root"
	last, _ := l.guest(t, initrd(t, "debian-trixie-amd64-initrd"), drive...)
	wantDone(t, last)
	l.checkHardware(t, installerapi.HardwareDisk{Name: "vda", Size: size, Serial: "root", LogicalSectorSize: 512})

	ps := partitionsOf(t, disk)
	root, moved := ps["1"], ps["2"]
	if moved.size != 32*mib || moved.start+moved.size < size-2*mib {
		t.Errorf("got swap %+v, want 32 MiB at the end of the disk", moved)
	}
	if moved.start-root.start-root.size > mib {
		t.Errorf("got root %+v and swap %+v, want no gap between them", root, moved)
	}
	file := filepath.Join(t.TempDir(), "moved")
	extract(t, disk, file, moved.start, moved.size)
	if got := command(t, tool(t, "blkid", "util-linux"), "-p", "-o", "value", "-s", "UUID", file); strings.TrimSpace(got) != "11111111-2222-3333-4444-555555555555" {
		t.Errorf("got swap with UUID %q, want that of the image", got)
	}
	file = filepath.Join(t.TempDir(), "root.ext4")
	extract(t, disk, file, root.start, root.size)
	command(t, tool(t, "e2fsck", "e2fsprogs"), "-fn", file)
}

// checkHardware checks that the inventory was reported, and not in every report.
func (l *lab) checkHardware(t testing.TB, want installerapi.HardwareDisk) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var got []*installerapi.Hardware
	for _, p := range l.posts {
		if p.Hardware != nil {
			got = append(got, p.Hardware)
		}
	}
	if len(got) != 1 || len(got[0].Disks) == 0 || len(got[0].NICs) != 1 {
		t.Fatalf("got inventories %+v, want one with a disk and a network interface", got)
	}
	disk := got[0].Disks[0]
	disk.Rotational = want.Rotational // QEMU's version determines it
	if disk != want || got[0].NICs[0].MAC != "52:54:00:12:34:56" || got[0].CPUs != 1 {
		t.Errorf("got inventory %+v, want disk %+v", got[0], want)
	}
}

// TestGuestGrowsOtherFilesystems installs images whose root is XFS, and a subvolume of
// btrfs.
func TestGuestGrowsOtherFilesystems(t *testing.T) {
	const mib, size = 1 << 20, 2 << 30
	path := initrd(t, "debian-trixie-amd64-initrd")
	for name, c := range map[string]struct {
		mkfs func(t *testing.T, file string)
		// sizeOf returns the size of the file system by its superblock.
		sizeOf func(head []byte) uint64
	}{
		"XFS": {
			func(t *testing.T, file string) {
				prototype := filepath.Join(t.TempDir(), "prototype")
				tree := systemTree(t)
				text := "x\n0 0\nd--755 0 0\netc d--755 0 0\nos-release ---644 0 0 " + filepath.Join(tree, "etc/os-release") + "\n$\n" +
					"bin d--755 0 0\ncloud-init ---755 0 0 " + filepath.Join(tree, "usr/bin/cloud-init") + "\n$\n$\n"
				if err := os.WriteFile(prototype, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				command(t, tool(t, "mkfs.xfs", "xfsprogs"), "-q", "-p", prototype, file)
			},
			func(head []byte) uint64 {
				return binary.BigEndian.Uint64(head[8:]) * uint64(binary.BigEndian.Uint32(head[4:]))
			},
		},
		"btrfs": {
			func(t *testing.T, file string) {
				top := t.TempDir()
				if err := os.Rename(systemTree(t), filepath.Join(top, "@")); err != nil {
					t.Fatal(err)
				}
				command(t, tool(t, "mkfs.btrfs", "btrfs-progs"), "-q", "--rootdir", top, file)
			},
			func(head []byte) uint64 { return binary.LittleEndian.Uint64(head[64<<10+112:]) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "root")
			writeSparse(t, file, 320*mib)
			c.mkfs(t, file)
			raw := blank(t, 330*mib)
			command(t, tool(t, "sgdisk", "gdisk"), "--clear", "--new=1:1M:+320M", raw)
			command(t, tool(t, "dd", "coreutils"), "if="+file, "of="+raw, "bs=1M", "seek=1", "conv=notrunc,sparse")
			l := newLab()
			l.encode(t, raw)
			l.start(t)
			disk := blank(t, size)
			last, _ := l.guest(t, path, virtioDisk(disk, "raw")...)
			wantDone(t, last)
			f, err := os.Open(disk)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			head := make([]byte, 68<<10)
			if _, err := f.ReadAt(head, mib); err != nil {
				t.Fatal(err)
			}
			if got := c.sizeOf(head); got < size-8*mib {
				t.Errorf("got a file system of %d bytes, want it to fill the disk of %d", got, size)
			}
		})
	}
}

// TestGuestReportsRootThatIsNotGrown installs an image whose root is followed by a file
// system: the target is installed, and the report has the reason.
func TestGuestReportsRootThatIsNotGrown(t *testing.T) {
	raw := layoutImage(t, []string{"--new=1:1M:+64M", "--new=2:65M:+8M", "--typecode=2:ef00"}, 1)
	l := newLab()
	l.encode(t, raw)
	l.start(t)
	disk := blank(t, 1<<30)
	last, _ := l.guest(t, initrd(t, "debian-trixie-amd64-initrd"), virtioDisk(disk, "raw")...)
	const want = "the root, partition 1 (ext4), was not grown from 67.1 MB on a disk of 1073.7 MB: partition 2, an EFI system partition, follows it"
	if last.Stage != installerapi.StageDone || len(last.Warnings) != 1 || last.Warnings[0] != want {
		t.Errorf("got last report %+v, want stage %s with warning %q", last, installerapi.StageDone, want)
	}
	if got := partitionsOf(t, disk)["1"]; got.size != 64<<20 {
		t.Errorf("got root %+v, want 64 MiB", got)
	}
}

func writeSparse(t testing.TB, path string, size int64) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

// copyInto copies a file into another one at an offset.
func copyInto(t testing.TB, to, from string, offset int64) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(to, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(content, offset); err != nil {
		t.Fatal(err)
	}
}
