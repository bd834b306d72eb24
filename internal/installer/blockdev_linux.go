// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/internal/imagestream"
)

const (
	// ioctls that x/sys/unix lacks.
	blkDiscard = 0x1277
	blkZeroOut = 0x127f

	discardStep = 16 << 30
	zeroStep    = 1 << 30
	// tailBytes is the size of the disk's end that holds the backup table and
	// the metadata of RAID, LVM and ZFS.
	tailBytes = 1 << 20
	// smallGap is the largest gap between two segments that is filled with
	// zeros in the same request: one large request is cheaper than two small ones.
	smallGap = 64 << 10
	maxIOVec = 1024
)

// BlockDevice is a Target that bypasses the page cache, so that memory use
// stays at the installer's few buffers even on a small machine.
type BlockDevice struct {
	disk   Disk
	direct *os.File
	// cleared reports that Prepare has zeroed the gaps between segments.
	cleared bool
	log     func(string)
}

// OpenBlockDevice opens the disk exclusively. It fails while the disk is mounted
// or opened exclusively elsewhere.
func OpenBlockDevice(d Disk, log func(string)) (*BlockDevice, error) {
	f, err := os.OpenFile(d.Path(), os.O_RDWR|unix.O_EXCL|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		f, err = os.OpenFile(d.Path(), os.O_RDWR|unix.O_EXCL, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("opening disk: %w", err)
	}
	return &BlockDevice{disk: d, direct: f, log: log}, nil
}

// Close releases the disk.
func (b *BlockDevice) Close() error { return b.direct.Close() }

func (b *BlockDevice) fd() int { return int(b.direct.Fd()) }

// rangeIoctl runs an ioctl on [offset, offset+length).
func (b *BlockDevice) rangeIoctl(request uint, offset, length int64) error {
	r := [2]uint64{uint64(offset), uint64(length)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(b.fd()), uintptr(request), uintptr(unsafe.Pointer(&r)))
	runtime.KeepAlive(&r)
	if errno != 0 {
		return errno
	}
	return nil
}

// zero makes a range read as zeros. Punching a hole, unlike BLKZEROOUT, lets a
// thin-provisioned disk deallocate the blocks.
func (b *BlockDevice) zero(offset, length int64) error {
	err := unix.Fallocate(b.fd(), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		err = b.rangeIoctl(blkZeroOut, offset, length)
	}
	return err
}

func (b *BlockDevice) discard(offset, length int64) error {
	return b.rangeIoctl(blkDiscard, offset, length)
}

// inSteps calls do for each step of [offset, offset+length), until do fails or
// ctx ends.
func inSteps(ctx context.Context, offset, length, step int64, do func(offset, length int64) error) error {
	for end := offset + length; offset < end; offset += step {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := do(offset, min(step, end-offset)); err != nil {
			return err
		}
	}
	return nil
}

func (b *BlockDevice) roundUp(n int64) int64 {
	return (n + b.disk.BlockSize - 1) / b.disk.BlockSize * b.disk.BlockSize
}

// Prepare discards the whole disk if it supports that, and zeroes the image's
// range and the end of the disk: discarded blocks need not read as zeros. On a
// disk without a command for zeroing, only the chunks that the image leaves out
// are zeroed here, and WriteChunk zeroes the remaining gaps, so that no block
// is written twice.
func (b *BlockDevice) Prepare(ctx context.Context, h *imagestream.Header) error {
	b.discardAll(ctx)
	image := min(b.roundUp(h.VirtualSize), b.disk.Size)
	if sysfsNumber("/sys/block/"+b.disk.Name+"/queue/write_zeroes_max_bytes") > 0 {
		if err := inSteps(ctx, 0, image, zeroStep, b.zero); err != nil {
			return fmt.Errorf("zeroing %s: %w", b.disk.Name, err)
		}
		b.cleared = true
	} else if err := b.zeroMissingChunks(ctx, h); err != nil {
		return fmt.Errorf("zeroing parts of %s: %w", b.disk.Name, err)
	}
	if tail := max(image, b.disk.Size-tailBytes); tail < b.disk.Size {
		if err := b.zero(tail, b.disk.Size-tail); err != nil {
			return fmt.Errorf("zeroing the end of %s: %w", b.disk.Name, err)
		}
	}
	return nil
}

// zeroMissingChunks zeroes the chunks for which the image has no frame.
func (b *BlockDevice) zeroMissingChunks(ctx context.Context, h *imagestream.Header) error {
	at := int64(0)
	for i := range h.Frames {
		f := &h.Frames[i]
		if err := inSteps(ctx, at, f.DiskOffset-at, zeroStep, b.zero); err != nil {
			return err
		}
		at = f.DiskOffset + h.ChunkSize
	}
	return inSteps(ctx, at, min(b.roundUp(h.VirtualSize), b.disk.Size)-at, zeroStep, b.zero)
}

// zeros fills small gaps. O_DIRECT requires it to be aligned.
var zeros = alignedBytes(smallGap)

func alignedBytes(n int) []byte {
	const alignment = 4096
	b := make([]byte, n+alignment)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (alignment - 1))
	return b[skip : skip+n : skip+n]
}

// WriteChunk implements Target.
func (b *BlockDevice) WriteChunk(offset, length int64, segments []imagestream.Segment) error {
	at, end := offset, offset+length
	var iov [][]byte
	start, size := offset, int64(0)
	flush := func() error {
		err := b.writev(iov, start, size)
		iov, size = iov[:0], 0
		return err
	}
	for _, s := range segments {
		if gap := s.Offset - at; gap > 0 && gap <= smallGap && size > 0 && len(iov)+2 <= maxIOVec {
			iov, size = append(iov, zeros[:gap]), size+gap
		} else if gap > 0 || len(iov)+2 > maxIOVec {
			if err := flush(); err != nil {
				return err
			}
			if err := b.zeroGap(at, gap); err != nil {
				return err
			}
		}
		if size == 0 {
			start = s.Offset
		}
		iov, size = append(iov, s.Data), size+int64(len(s.Data))
		at = s.Offset + int64(len(s.Data))
	}
	if err := flush(); err != nil {
		return err
	}
	return b.zeroGap(b.roundUp(at), b.roundUp(end)-b.roundUp(at))
}

func (b *BlockDevice) zeroGap(at, length int64) error {
	if b.cleared || length <= 0 {
		return nil
	}
	if err := b.zero(at, length); err != nil {
		return fmt.Errorf("zeroing %d bytes at %d of %s: %w", length, at, b.disk.Name, err)
	}
	return nil
}

func (b *BlockDevice) writev(iov [][]byte, offset, size int64) error {
	if size == 0 {
		return nil
	}
	// Only the last segment of an image may end inside a block.
	if rest := size % b.disk.BlockSize; rest != 0 {
		last := iov[len(iov)-1]
		padded := alignedBytes(int(b.roundUp(int64(len(last)))))
		copy(padded, last)
		iov = append(iov[:len(iov)-1:len(iov)-1], padded)
		size = b.roundUp(size)
	}
	for size > 0 {
		n, err := unix.Pwritev(b.fd(), iov, offset)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return fmt.Errorf("writing %d bytes at %d of %s: %w", size, offset, b.disk.Name, err)
		}
		offset, size = offset+int64(n), size-int64(n)
		for n > 0 && n >= len(iov[0]) {
			n -= len(iov[0])
			iov = iov[1:]
		}
		if n > 0 {
			iov = append([][]byte{iov[0][n:]}, iov[1:]...)
		}
	}
	return nil
}

// ReadAt implements Target. It bypasses the page cache.
func (b *BlockDevice) ReadAt(p []byte, offset int64) (int, error) {
	whole := int64(len(p)) / b.disk.BlockSize * b.disk.BlockSize
	n, err := b.direct.ReadAt(p[:whole], offset)
	if err != nil || n == len(p) {
		return n, err
	}
	block := alignedBytes(int(b.disk.BlockSize))
	if _, err := b.direct.ReadAt(block, offset+whole); err != nil {
		return n, err
	}
	return n + copy(p[whole:], block), nil
}

// Flush implements Target.
func (b *BlockDevice) Flush() error {
	if err := b.direct.Sync(); err != nil {
		return fmt.Errorf("flushing %s: %w", b.disk.Name, err)
	}
	if err := unix.IoctlSetInt(b.fd(), unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("dropping the cache of %s: %w", b.disk.Name, err)
	}
	return nil
}
