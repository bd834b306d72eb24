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

// sectorSize is the unit of sizes in sysfs, independent of the disk's block size.
const sectorSize = 512

// sysfsString returns an attribute, or "" if it cannot be read. It makes half as
// many system calls as os.ReadFile: hundreds of attributes are read before the
// network is up.
func sysfsString(path string) string {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	b := make([]byte, 4096) // the maximum size of an attribute
	n, err := unix.Read(fd, b)
	if err != nil || n < 0 {
		return ""
	}
	return strings.TrimSpace(string(b[:n]))
}

// sysfsNumber returns a numeric attribute, or 0 if it cannot be read.
func sysfsNumber(path string) int64 {
	n, err := strconv.ParseInt(sysfsString(path), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// scanDisks lists all block devices in /sys/block, including those that are not
// disks.
func scanDisks(sys string) ([]Disk, error) {
	entries, err := os.ReadDir(filepath.Join(sys, "block"))
	if err != nil {
		return nil, err
	}
	var disks []Disk
	for _, e := range entries {
		dir := filepath.Join(sys, "block", e.Name())
		if sysfsNumber(dir+"/hidden") != 0 {
			continue // one path of a multipath NVMe disk
		}
		d := Disk{
			Name:      e.Name(),
			Size:      sysfsNumber(dir+"/size") * sectorSize,
			BlockSize: sysfsNumber(dir + "/queue/logical_block_size"),
			ReadOnly:  sysfsNumber(dir+"/ro") != 0,
			Removable: sysfsNumber(dir+"/removable") != 0,
			Model:     sysfsString(dir + "/device/model"),
			Serial:    serialOf(dir),

			Rotational: sysfsNumber(dir+"/queue/rotational") != 0,
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

// serialOf returns the serial number of a disk: an attribute of virtio, NVMe and MMC
// disks, or the vital product data of a SCSI or SATA disk (SPC-4, 7.8.15), after four
// bytes of header.
func serialOf(dir string) string {
	for _, name := range []string{"/serial", "/device/serial"} {
		if s := sysfsString(dir + name); s != "" {
			return s
		}
	}
	data := sysfsString(dir + "/device/vpd_pg80")
	if len(data) < 4 {
		return ""
	}
	return strings.ToValidUTF8(strings.Trim(data[4:], " \x00"), "?")
}

// partition is a partition as the kernel reports it.
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
