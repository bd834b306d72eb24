// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/internal/installer/gpt"
)

const (
	rootMount = "/pxelab/root"
	// ext4IocResizeFS is _IOW('f', 16, __u64).
	ext4IocResizeFS = 0x40086610
	// eagerInodeTables is up to which size a file system gets the inode tables
	// of its new part zeroed now, by the disk's own command, instead of by the
	// kernel in the background of the first boot, when everybody is waiting.
	eagerInodeTables = 64 << 30
	// partitionPatience is for another holder of the disk (a probe of the
	// kernel's) to let go of it.
	partitionPatience = 10 * time.Second
)

// growTable repairs the partition table and grows the last partition. An image
// without GUID partition table is left to the installed system.
func growTable(d Disk) (string, error) {
	f, err := os.OpenFile(d.Path(), os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("opening disk: %w", err)
	}
	defer f.Close()
	table, err := gpt.Read(f, d.Size, d.BlockSize)
	if errors.Is(err, gpt.ErrNoTable) {
		if d.BlockSize != sectorSize {
			return "", fmt.Errorf("the image has no partition table for a disk with blocks of %d bytes: %w", d.BlockSize, err)
		}
		return fmt.Sprintf("not grown: %v", err), rereadPartitions(f)
	}
	if err != nil {
		return "", err
	}
	g, err := table.Grow()
	if err != nil {
		return "", err
	}
	if err := f.Sync(); err != nil {
		return "", fmt.Errorf("flushing the partition table: %w", err)
	}
	message := fmt.Sprintf("partition %d grown by %s", g.Last.Number, megabytes(g.Bytes))
	if g.Kept != "" {
		message = "not grown: " + g.Kept
	}
	return message, rereadPartitions(f)
}

func rereadPartitions(f *os.File) error {
	for end := time.Now().Add(partitionPatience); ; time.Sleep(50 * time.Millisecond) {
		err := unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return fmt.Errorf("making the kernel read the new partition table of %s: %w", f.Name(), err)
		}
	}
}

// filesystemOf tells ext4, xfs and btrfs by their superblocks; "" for others.
func filesystemOf(r io.ReaderAt) string {
	head := make([]byte, 4096)
	if _, err := r.ReadAt(head, 0); err != nil {
		return ""
	}
	switch {
	case bytes.HasPrefix(head, []byte("XFSB")):
		return "xfs"
	case binary.LittleEndian.Uint16(head[1024+56:]) == 0xEF53:
		return "ext4" // its driver mounts ext2 and ext3 too
	}
	if _, err := r.ReadAt(head, 64<<10); err == nil && bytes.HasPrefix(head[64:], []byte("_BHRfS_M")) {
		return "btrfs"
	}
	return ""
}

// root is the mounted root file system of the installed system.
type root struct {
	dir        string // may lie below mount: a btrfs subvolume
	filesystem string
	partition  partition
}

// mountRoot finds the partition that holds a Linux system and mounts it. The
// last by position is tried first, then the others by size.
func (m *machine) mountRoot(d Disk) (*root, error) {
	ps, err := scanPartitions("/sys", d)
	if err != nil {
		return nil, err
	}
	if len(ps) == 0 { // a file system on the whole disk
		ps = []partition{{Name: d.Name, Size: d.Size}}
	}
	last := slices.MaxFunc(ps, func(a, b partition) int { return int(max(-1, min(1, a.Start-b.Start))) })
	slices.SortFunc(ps, func(a, b partition) int {
		switch {
		case a == last:
			return -1
		case b == last:
			return 1
		}
		return int(max(-1, min(1, b.Size-a.Size)))
	})
	var seen []string
	for _, p := range ps {
		r, what := m.tryRoot(d, p)
		if r != nil {
			return r, nil
		}
		seen = append(seen, p.Name+": "+what)
	}
	return nil, fmt.Errorf("no root file system of a Linux system found on %s (%s); LVM and encrypted roots are not supported", d.Name, strings.Join(seen, ", "))
}

// tryRoot mounts a partition and keeps it mounted if a system is on it.
func (m *machine) tryRoot(d Disk, p partition) (r *root, what string) {
	f, err := os.Open(p.path())
	if err != nil {
		return nil, err.Error()
	}
	fs := filesystemOf(f)
	f.Close()
	if fs == "" {
		return nil, "no ext4, xfs or btrfs"
	}
	if err := m.devices.filesystem(fs); err != nil {
		return nil, err.Error()
	}
	options := ""
	if fs == "ext4" && d.Size <= eagerInodeTables && sysfsNumber("/sys/block/"+d.Name+"/queue/write_zeroes_max_bytes") > 0 {
		options = "noinit_itable"
	}
	if err := os.MkdirAll(rootMount, 0o755); err != nil {
		return nil, err.Error()
	}
	if err := unix.Mount(p.path(), rootMount, fs, unix.MS_NOATIME, options); err != nil {
		return nil, fmt.Sprintf("mounting %s: %v", fs, err)
	}
	for _, sub := range []string{"", "root", "@", "@rootfs"} {
		dir := filepath.Join(rootMount, sub)
		if isSystem(dir) {
			return &root{dir: dir, filesystem: fs, partition: p}, ""
		}
	}
	if err := unix.Unmount(rootMount, 0); err != nil {
		return nil, fmt.Sprintf("unmounting: %v", err)
	}
	return nil, fs + " without /etc/os-release or /usr/lib/os-release"
}

func isSystem(dir string) bool {
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

// grow grows the mounted file system to its partition and says what it did.
func (r *root) grow() string {
	if r.filesystem != "ext4" {
		return r.filesystem + " is left for the installed system to grow"
	}
	dir, err := os.Open(rootMount)
	if err != nil {
		return err.Error()
	}
	defer dir.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return "file system not grown: " + err.Error()
	}
	blocks := uint64(r.partition.Size / st.Bsize)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), ext4IocResizeFS, uintptr(unsafe.Pointer(&blocks)))
	if errno != 0 {
		return fmt.Sprintf("file system left for the installed system to grow: %v", errno)
	}
	return "file system grown to " + megabytes(r.partition.Size)
}

// write puts a file into the installed system. Nothing that the image holds
// can lead it out of there: each step of the path is taken below the root.
func (r *root) write(f File) error {
	top, err := os.OpenRoot(r.dir)
	if err != nil {
		return err
	}
	defer top.Close()
	if err := top.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return fmt.Errorf("making the folder of /%s: %w", f.Path, err)
	}
	// A link of the image's must be replaced, not followed.
	if err := top.Remove(f.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("replacing /%s: %w", f.Path, err)
	}
	if err := top.WriteFile(f.Path, []byte(f.Text), 0o644); err != nil {
		return fmt.Errorf("writing /%s: %w", f.Path, err)
	}
	return nil
}

// hasCloudInit says whether there is anything that would read what we write.
func (r *root) hasCloudInit() bool {
	for _, name := range []string{"usr/bin/cloud-init", "usr/local/bin/cloud-init", "bin/cloud-init"} {
		if _, err := os.Lstat(filepath.Join(r.dir, name)); err == nil {
			return true
		}
	}
	return false
}

// unmount leaves a clean file system behind.
func (r *root) unmount() error {
	unix.Sync()
	if err := unix.Unmount(rootMount, 0); err != nil {
		return fmt.Errorf("unmounting the installed system: %w", err)
	}
	return nil
}
