// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/internal/gpt"
	"github.com/pxelab/pxelab/internal/imagelayout"
)

const (
	// ext4IocResizeFS is _IOW('f', 16, __u64), xfsIocGrowData is
	// _IOW('X', 110, struct xfs_growfs_data), btrfsIocResize is
	// _IOW(0x94, 3, struct btrfs_ioctl_vol_args).
	ext4IocResizeFS = 0x40086610
	xfsIocGrowData  = 0x4010586e
	btrfsIocResize  = 0x50009403
	// xfsInodePercent is the place of sb_imax_pct in the superblock of XFS.
	xfsInodePercent = 127
	// worthGrowing is how much larger than the image a disk must be before a root that
	// is not grown is a warning.
	worthGrowing = 64 << 20
	// rereadTimeout is how long another user of the disk, such as a probe of
	// the kernel, has to release it.
	rereadTimeout = 10 * time.Second
)

// growTable repairs the partition table, grows the root partition and returns a
// human-readable result. kept is why it could not be grown, if there is space to gain.
func (m *machine) growTable(d Disk, root imagelayout.Partition) (result, kept string, err error) {
	f, err := os.OpenFile(d.Path(), os.O_RDWR, 0)
	if err != nil {
		return "", "", fmt.Errorf("opening disk: %w", err)
	}
	defer f.Close()
	switch m.contents.Scheme {
	case imagelayout.SchemeGPT:
		result, kept, err = growGPT(f, d, root.Number)
	case imagelayout.SchemeMBR:
		kept = "the image has an MBR partition table, which only the installed system can grow"
	default:
		result = "the image has no partition table"
	}
	if err != nil {
		return "", "", err
	}
	if kept != "" {
		result = "not grown: " + kept
	}
	if d.Size-m.imageSize < worthGrowing {
		kept = ""
	}
	return result, kept, rereadPartitions(f)
}

func growGPT(f *os.File, d Disk, number int) (result, kept string, err error) {
	table, err := gpt.Read(f, d.Size, d.BlockSize)
	if err != nil {
		return "", "", err
	}
	g, err := table.Grow(number)
	if err != nil {
		return "", "", err
	}
	if err := f.Sync(); err != nil {
		return "", "", fmt.Errorf("flushing the partition table: %w", err)
	}
	result = fmt.Sprintf("partition %d grown by %s", number, megabytes(g.Bytes))
	for _, p := range g.Moved {
		result += fmt.Sprintf(", swap partition %d moved to the end of the disk", p.Number)
	}
	return result, g.Kept, nil
}

// rereadDisk makes the kernel read the partition table that was just written.
func rereadDisk(d Disk) error {
	f, err := os.Open(d.Path())
	if err != nil {
		return fmt.Errorf("opening disk: %w", err)
	}
	defer f.Close()
	return rereadPartitions(f)
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

// grow grows the mounted file system to the size of its partition. On failure the
// installed system may grow it at first boot.
func (r *root) grow() error {
	dir, err := os.Open(rootMount)
	if err != nil {
		return err
	}
	defer dir.Close()
	switch r.filesystem {
	case imagelayout.ContentExt4:
		return r.growExt4(dir)
	case imagelayout.ContentXFS:
		return r.growXFS(dir)
	case imagelayout.ContentBtrfs:
		args := struct {
			fd   int64
			name [4088]byte
		}{}
		copy(args.name[:], "max")
		return ioctl(dir, btrfsIocResize, unsafe.Pointer(&args))
	}
	return fmt.Errorf("growing %s is not supported", r.filesystem)
}

func (r *root) growExt4(dir *os.File) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return err
	}
	blocks := uint64(r.partition.Size / st.Bsize)
	return ioctl(dir, ext4IocResizeFS, unsafe.Pointer(&blocks))
}

// growXFS keeps the share of the file system that inodes may use, which is a parameter
// of the same ioctl.
func (r *root) growXFS(dir *os.File) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return err
	}
	f, err := os.Open(r.partition.path())
	if err != nil {
		return err
	}
	defer f.Close()
	sb := make([]byte, sectorSize)
	if _, err := f.ReadAt(sb, 0); err != nil {
		return err
	}
	args := struct {
		blocks       uint64
		inodePercent uint32
		_            uint32
	}{blocks: uint64(r.partition.Size / st.Bsize), inodePercent: uint32(sb[xfsInodePercent])}
	return ioctl(dir, xfsIocGrowData, unsafe.Pointer(&args))
}

func ioctl(f *os.File, request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}
