// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

// Disk is a whole disk of the machine.
type Disk struct {
	Name      string // as in /sys/block
	Size      int64  // bytes
	BlockSize int64  // logical
	ReadOnly  bool
	Removable bool
	USB       bool
	Model     string
	Serial    string
	// Rotational is set for disks that spin.
	Rotational bool
}

// Path returns the path of the device node.
func (d Disk) Path() string { return "/dev/" + strings.ReplaceAll(d.Name, "!", "/") }

func (d Disk) String() string {
	s := fmt.Sprintf("%s %s", d.Name, megabytes(d.Size))
	if d.Model != "" {
		s += " " + d.Model
	}
	return s
}

func megabytes(n int64) string {
	if n >= 10e9 {
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}

// diskKinds are the name prefixes of whole disks in order of preference:
// paravirtual disks before emulated and physical ones.
var diskKinds = []string{"vd", "xvd", "nvme", "sd", "hd", "mmcblk", "pmem"}

// kind returns the position in diskKinds, or -1 for a device that is not a
// whole disk: loop, ram, zram, dm, md, sr, fd, nbd, and the boot and RPMB parts
// of eMMC.
func (d Disk) kind() int {
	if strings.HasPrefix(d.Name, "mmcblk") && (strings.Contains(d.Name, "boot") || strings.Contains(d.Name, "rpmb")) {
		return -1
	}
	return slices.IndexFunc(diskKinds, func(k string) bool { return strings.HasPrefix(d.Name, k) })
}

// virtual reports whether the disk is paravirtual. Such disks precede all
// others in diskKinds.
func (d Disk) virtual() bool {
	return strings.HasPrefix(d.Name, "vd") || strings.HasPrefix(d.Name, "xvd")
}

// Requirements are what an installation needs of a disk.
type Requirements struct {
	Size int64 // bytes
	// SectorSize is that for which the image's partition table was made; 0 is any.
	SectorSize int64
	// RootDisk selects disks; its zero value selects all.
	RootDisk installerapi.RootDisk
}

// unfitReason returns why an image cannot be installed on the disk; empty if it can.
func (d Disk) unfitReason(need Requirements) string {
	switch {
	case d.Size == 0:
		return "no medium"
	case d.ReadOnly:
		return "read-only"
	case d.Removable:
		return "removable"
	case d.USB:
		return "USB"
	case d.Size < need.Size:
		return tooSmall
	case need.SectorSize != 0 && d.BlockSize != need.SectorSize:
		return fmt.Sprintf("sectors of %d bytes, the image is for sectors of %d", d.BlockSize, need.SectorSize)
	}
	return d.mismatch(need.RootDisk)
}

const tooSmall = "too small"

// virtioSerial is the length, in bytes, to which a virtio disk cuts its serial number.
const virtioSerial = 20

// mismatch returns which part of a spec.rootDisk the disk does not match.
func (d Disk) mismatch(want installerapi.RootDisk) string {
	serial := want.Serial
	if d.virtual() && len(d.Serial) == virtioSerial && len(serial) > virtioSerial {
		serial = serial[:virtioSerial]
	}
	switch {
	case want.Name != "" && strings.TrimPrefix(want.Name, "/dev/") != strings.TrimPrefix(d.Path(), "/dev/"):
		return "another name than spec.rootDisk"
	case want.Serial != "" && !strings.EqualFold(serial, d.Serial):
		return fmt.Sprintf("serial %q, not that of spec.rootDisk", d.Serial)
	case want.Model != "" && !strings.EqualFold(want.Model, d.Model):
		return fmt.Sprintf("model %q, not that of spec.rootDisk", d.Model)
	case d.Size < want.MinSize:
		return "smaller than minSize of spec.rootDisk"
	}
	return ""
}

// NoDiskError reports that no disk fits the image.
type NoDiskError struct {
	Need  Requirements
	Disks []Disk // the disks that were considered
}

func (e *NoDiskError) Error() string {
	size := fmt.Sprintf("%d bytes (%s)", e.Need.Size, megabytes(e.Need.Size))
	if len(e.Disks) == 0 {
		return fmt.Sprintf("no disk found; the image needs %s; check that the machine has a disk and that the initrd has its driver", size)
	}
	var found []string
	small := false
	for _, d := range e.Disks {
		reason := d.unfitReason(e.Need)
		small = small || reason == tooSmall
		found = append(found, fmt.Sprintf("%s (%d bytes: %s)", d, d.Size, reason))
	}
	what := "no disk fits the image"
	if small {
		what = "no disk for the image"
	}
	return fmt.Sprintf("%s, which needs %s; disks found: %s", what, size, strings.Join(found, ", "))
}

// ChooseDisk returns the first disk that fits. The order depends only on names, so that
// the choice is the same at every boot. The error is a *NoDiskError.
func ChooseDisk(disks []Disk, need Requirements) (Disk, error) {
	whole := wholeDisks(disks)
	for _, d := range whole {
		if d.unfitReason(need) == "" {
			return d, nil
		}
	}
	return Disk{}, &NoDiskError{Need: need, Disks: whole}
}

// wholeDisks returns the whole disks in order of preference.
func wholeDisks(disks []Disk) []Disk {
	var whole []Disk
	for _, d := range disks {
		if d.kind() >= 0 {
			whole = append(whole, d)
		}
	}
	slices.SortFunc(whole, func(a, b Disk) int {
		if a.kind() != b.kind() {
			return a.kind() - b.kind()
		}
		return compareNatural(a.Name, b.Name)
	})
	return whole
}

// compareNatural compares runs of digits, and runs of letters, by length first,
// which puts vdb before vdaa and nvme2n1 before nvme10n1.
func compareNatural(a, b string) int {
	for a != "" && b != "" {
		x, y := digits(a), digits(b)
		if x > 0 && y > 0 {
			if c := compareCounted(a[:x], b[:y]); c != 0 {
				return c
			}
			a, b = a[x:], b[y:]
			continue
		}
		x, y = letters(a), letters(b)
		if c := compareCounted(a[:x], b[:y]); c != 0 {
			return c
		}
		a, b = a[x:], b[y:]
	}
	return len(a) - len(b)
}

func compareCounted(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

func letters(s string) int {
	n := 0
	for n < len(s) && (s[n] < '0' || s[n] > '9') {
		n++
	}
	return n
}
