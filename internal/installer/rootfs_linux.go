// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/internal/imagelayout"
)

const (
	rootMount = "/pxelab/root"
	// eagerInodeTables is the largest disk on which the inode tables of the
	// grown part are zeroed now, with the disk's command for it, rather than by
	// the kernel in the background of the first boot, which they would slow down.
	eagerInodeTables = 64 << 30
)

// contentOf returns what a block device contains, by its signature.
func contentOf(path string) (imagelayout.Content, error) {
	f, err := os.Open(path)
	if err != nil {
		return imagelayout.ContentUnknown, err
	}
	defer f.Close()
	return imagelayout.Detect(f)
}

// root is the mounted root file system of the installed system.
type root struct {
	dir        string // may lie below mount: a btrfs subvolume
	filesystem imagelayout.Content
	partition  partition
}

// partitionOf returns a partition of the disk by its number, or the whole disk for 0.
func partitionOf(d Disk, number int) (partition, error) {
	if number == 0 {
		return partition{Name: d.Name, Size: d.Size}, nil
	}
	ps, err := scanPartitions("/sys", d)
	if err != nil {
		return partition{}, err
	}
	for _, p := range ps {
		if p.Number == number {
			return p, nil
		}
	}
	return partition{}, fmt.Errorf("the kernel found no partition %d on %s", number, d.Name)
}

// mount mounts a partition, which must hold a Linux system.
func (m *machine) mount(d Disk, p partition) (*root, error) {
	content, err := contentOf(p.path())
	if err != nil {
		return nil, err
	}
	if !content.IsRootFilesystem() {
		return nil, errors.New("not ext4, xfs or btrfs")
	}
	fs := string(content)
	if err := m.devices.loadFilesystem(fs); err != nil {
		return nil, err
	}
	options := ""
	if content == imagelayout.ContentExt4 && d.Size <= eagerInodeTables &&
		sysfsNumber("/sys/block/"+d.Name+"/queue/write_zeroes_max_bytes") > 0 {
		options = "noinit_itable"
	}
	if err := os.MkdirAll(rootMount, 0o755); err != nil {
		return nil, err
	}
	if err := unix.Mount(p.path(), rootMount, fs, unix.MS_NOATIME, options); err != nil {
		return nil, fmt.Errorf("mounting %s: %w", fs, err)
	}
	for _, sub := range []string{"", "root", "@", "@rootfs"} {
		dir := filepath.Join(rootMount, sub)
		if isSystem(dir) {
			return &root{dir: dir, filesystem: content, partition: p}, nil
		}
	}
	if err := unix.Unmount(rootMount, 0); err != nil {
		return nil, fmt.Errorf("unmounting: %w", err)
	}
	return nil, fmt.Errorf("%s without /%s or /%s", fs, imagelayout.SystemFiles[0], imagelayout.SystemFiles[1])
}

// mountRoot mounts the partition that holds the system.
func (m *machine) mountRoot(d Disk, found imagelayout.Partition) (*root, error) {
	p, err := partitionOf(d, found.Number)
	if err != nil {
		return nil, err
	}
	r, err := m.mount(d, p)
	if err != nil {
		return nil, fmt.Errorf("no root file system of a Linux system found on %s: %w", p.Name, err)
	}
	return r, nil
}

func isSystem(dir string) bool {
	for _, name := range imagelayout.SystemFiles {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
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
