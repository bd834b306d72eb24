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

	"github.com/pxelab/pxelab/internal/installer/internal/gpt"
)

const (
	rootMount = "/pxelab/root"
	// ext4IocResizeFS is _IOW('f', 16, __u64).
	ext4IocResizeFS = 0x40086610
	// eagerInodeTables is the largest disk on which the inode tables of the
	// grown part are zeroed now, with the disk's command for it, rather than by
	// the kernel in the background of the first boot, which they would slow down.
	eagerInodeTables = 64 << 30
	// rereadTimeout is how long another user of the disk, such as a probe of
	// the kernel, has to release it.
	rereadTimeout = 10 * time.Second
)

// growTable repairs the partition table, grows the last partition and returns a
// human-readable result. An image without a GUID partition table is left for
// the installed system to grow.
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
	for end := time.Now().Add(rereadTimeout); ; time.Sleep(50 * time.Millisecond) {
		err := unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return fmt.Errorf("making the kernel read the new partition table of %s: %w", f.Name(), err)
		}
	}
}

// filesystemOf recognises ext4, xfs and btrfs by their superblocks; it returns
// "" for others.
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

// mountRoot finds the partition that holds a Linux system and mounts it. It
// tries the last partition by position first, then the others by size.
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
		r, reason := m.tryRoot(d, p)
		if r != nil {
			return r, nil
		}
		seen = append(seen, p.Name+": "+reason)
	}
	return nil, fmt.Errorf("no root file system of a Linux system found on %s (%s); LVM and encrypted roots are not supported",
		d.Name, strings.Join(seen, ", "))
}

// tryRoot mounts a partition and keeps it mounted if it holds a Linux system;
// otherwise it returns the reason.
func (m *machine) tryRoot(d Disk, p partition) (r *root, reason string) {
	f, err := os.Open(p.path())
	if err != nil {
		return nil, err.Error()
	}
	fs := filesystemOf(f)
	f.Close()
	if fs == "" {
		return nil, "not ext4, xfs or btrfs"
	}
	if err := m.devices.loadFilesystem(fs); err != nil {
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

// grow grows the mounted file system to the size of its partition and returns a
// human-readable result. On failure the installed system grows it at first boot.
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

// write writes a file into the installed system, readable by its root alone: the seed URL
// and a network configuration contain secrets. Symlinks in the image cannot
// lead outside of it: os.Root resolves every path component below the root.
func (r *root) write(f File) error {
	top, err := os.OpenRoot(r.dir)
	if err != nil {
		return err
	}
	defer top.Close()
	if err := top.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return fmt.Errorf("creating the directory of /%s: %w", f.Path, err)
	}
	// A symlink in the image must be replaced, not followed.
	if err := top.Remove(f.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("replacing /%s: %w", f.Path, err)
	}
	if err := top.WriteFile(f.Path, []byte(f.Text), 0o600); err != nil {
		return fmt.Errorf("writing /%s: %w", f.Path, err)
	}
	return nil
}

// hasCloudInit reports whether cloud-init is installed.
func (r *root) hasCloudInit() bool {
	for _, name := range []string{"usr/bin/cloud-init", "usr/local/bin/cloud-init", "bin/cloud-init"} {
		if _, err := os.Lstat(filepath.Join(r.dir, name)); err == nil {
			return true
		}
	}
	return false
}

// unmount syncs and unmounts the installed system.
func (r *root) unmount() error {
	unix.Sync()
	if err := unix.Unmount(rootMount, 0); err != nil {
		return fmt.Errorf("unmounting the installed system: %w", err)
	}
	return nil
}
