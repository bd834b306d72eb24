// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// sectorSize is the unit of sizes in sysfs, whatever the disk's blocks are.
const sectorSize = 512

// sysfsString is "" for what is not there. It makes three system calls, where
// os.ReadFile makes twice as many: hundreds of files are read this way before
// the network is up.
func sysfsString(path string) string {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	b := make([]byte, 4096) // the most that an attribute has
	n, err := unix.Read(fd, b)
	if err != nil || n < 0 {
		return ""
	}
	return strings.TrimSpace(string(b[:n]))
}

// sysfsNumber is 0 for what is not there.
func sysfsNumber(path string) int64 {
	n, err := strconv.ParseInt(sysfsString(path), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// scanDisks lists what is in /sys/block, disks or not.
func scanDisks(sys string) ([]Disk, error) {
	entries, err := os.ReadDir(filepath.Join(sys, "block"))
	if err != nil {
		return nil, err
	}
	var disks []Disk
	for _, e := range entries {
		dir := filepath.Join(sys, "block", e.Name())
		if sysfsNumber(dir+"/hidden") != 0 {
			continue // a path of a multipath NVMe
		}
		d := Disk{
			Name:      e.Name(),
			Size:      sysfsNumber(dir+"/size") * sectorSize,
			BlockSize: sysfsNumber(dir + "/queue/logical_block_size"),
			ReadOnly:  sysfsNumber(dir+"/ro") != 0,
			Removable: sysfsNumber(dir+"/removable") != 0,
			Model:     sysfsString(dir + "/device/model"),
		}
		if d.BlockSize == 0 {
			d.BlockSize = sectorSize
		}
		if target, err := os.Readlink(dir); err == nil {
			d.USB = strings.Contains(target, "/usb")
		}
		disks = append(disks, d)
	}
	return disks, nil
}

// partition is one that the kernel knows.
type partition struct {
	Name   string
	Number int
	Start  int64 // bytes
	Size   int64
}

func (p partition) path() string { return "/dev/" + p.Name }

func scanPartitions(sys string, d Disk) ([]partition, error) {
	numbers, err := filepath.Glob(filepath.Join(sys, "block", d.Name, d.Name+"*", "partition"))
	if err != nil {
		return nil, fmt.Errorf("listing partitions of %s: %w", d.Name, err)
	}
	var ps []partition
	for _, file := range numbers {
		dir := filepath.Dir(file)
		ps = append(ps, partition{
			Name:   filepath.Base(dir),
			Number: int(sysfsNumber(file)),
			Start:  sysfsNumber(dir+"/start") * sectorSize,
			Size:   sysfsNumber(dir+"/size") * sectorSize,
		})
	}
	return ps, nil
}
