// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const gib = 1 << 30

func disk(name string, size int64) Disk { return Disk{Name: name, Size: size, BlockSize: 512} }

func TestChooseDisk(t *testing.T) {
	removable, usb, readOnly := disk("sda", 8*gib), disk("sdb", 8*gib), disk("vda", 8*gib)
	removable.Removable, usb.USB, readOnly.ReadOnly = true, true, true
	for name, c := range map[string]struct {
		disks []Disk
		want  string
	}{
		"virtio first":           {[]Disk{disk("sda", 8*gib), disk("nvme0n1", 8*gib), disk("vda", 8*gib)}, "vda"},
		"NVMe before SCSI":       {[]Disk{disk("sda", 8*gib), disk("nvme0n1", 8*gib)}, "nvme0n1"},
		"too small is passed by": {[]Disk{disk("vda", gib), disk("vdb", 8*gib)}, "vdb"},
		"exactly large enough":   {[]Disk{disk("vda", 2*gib-1), disk("sda", 2*gib)}, "sda"},
		"numbers are numbers":    {[]Disk{disk("nvme10n1", 8*gib), disk("nvme2n1", 8*gib)}, "nvme2n1"},
		"letters are counted":    {[]Disk{disk("vdaa", 8*gib), disk("vdb", 8*gib)}, "vdb"},
		"seed and sticks":        {[]Disk{disk("sr0", 8*gib), removable, usb, disk("sdc", 8*gib)}, "sdc"},
		"read-only":              {[]Disk{readOnly, disk("vdb", 8*gib)}, "vdb"},
		"what is no disk":        {[]Disk{disk("loop0", 8*gib), disk("ram0", 8*gib), disk("zram0", 8*gib), disk("dm-0", 8*gib), disk("md0", 8*gib), disk("nbd0", 8*gib), disk("fd0", 8*gib), disk("mmcblk0boot0", 8*gib), disk("mmcblk0rpmb", 8*gib), disk("mmcblk0", 8*gib)}, "mmcblk0"},
	} {
		t.Run(name, func(t *testing.T) {
			for range 10 {
				disks := slices.Clone(c.disks)
				rand.Shuffle(len(disks), func(i, j int) { disks[i], disks[j] = disks[j], disks[i] })
				got, err := ChooseDisk(disks, 2*gib)
				if err != nil {
					t.Fatal(err)
				}
				if got.Name != c.want {
					t.Errorf("chose %s, want %s", got.Name, c.want)
				}
			}
		})
	}
}

func TestChooseDiskSaysWhatWasFound(t *testing.T) {
	stick := disk("sda", 64*gib)
	stick.Removable, stick.Model = true, "Stick"
	_, err := ChooseDisk([]Disk{stick, disk("vda", gib), disk("sr0", gib)}, 2*gib)
	var none *NoDiskError
	if !errors.As(err, &none) {
		t.Fatalf("got %v", err)
	}
	want := "no disk for the image, which needs 2147483648 bytes (2147.5 MB); disks found: vda 1073.7 MB (1073741824 bytes: too small), sda 68.7 GB Stick (68719476736 bytes: removable)"
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
	if _, err := ChooseDisk(nil, gib); err == nil || !strings.Contains(err.Error(), "no disk found") {
		t.Errorf("got %v", err)
	}
}
