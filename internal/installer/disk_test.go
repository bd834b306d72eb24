// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

const gib = 1 << 30

func disk(name string, size int64) Disk { return Disk{Name: name, Size: size, BlockSize: 512} }

func TestChooseDisk(t *testing.T) {
	removable := disk("sda", 8*gib)
	removable.Removable = true
	usb := disk("sdb", 8*gib)
	usb.USB = true
	readOnly := disk("vda", 8*gib)
	readOnly.ReadOnly = true
	var notDisks []Disk
	for _, name := range []string{"loop0", "ram0", "zram0", "dm-0", "md0", "nbd0", "fd0", "mmcblk0boot0", "mmcblk0rpmb"} {
		notDisks = append(notDisks, disk(name, 8*gib))
	}
	for name, c := range map[string]struct {
		disks []Disk
		want  string
	}{
		"virtio first":                {[]Disk{disk("sda", 8*gib), disk("nvme0n1", 8*gib), disk("vda", 8*gib)}, "vda"},
		"NVMe before SCSI":            {[]Disk{disk("sda", 8*gib), disk("nvme0n1", 8*gib)}, "nvme0n1"},
		"skips too small":             {[]Disk{disk("vda", gib), disk("vdb", 8*gib)}, "vdb"},
		"exactly large enough":        {[]Disk{disk("vda", 2*gib-1), disk("sda", 2*gib)}, "sda"},
		"numeric order":               {[]Disk{disk("nvme10n1", 8*gib), disk("nvme2n1", 8*gib)}, "nvme2n1"},
		"more letters come later":     {[]Disk{disk("vdaa", 8*gib), disk("vdb", 8*gib)}, "vdb"},
		"skips CD-ROM and USB sticks": {[]Disk{disk("sr0", 8*gib), removable, usb, disk("sdc", 8*gib)}, "sdc"},
		"skips read-only":             {[]Disk{readOnly, disk("vdb", 8*gib)}, "vdb"},
		"skips other block devices":   {append(notDisks, disk("mmcblk0", 8*gib)), "mmcblk0"},
	} {
		t.Run(name, func(t *testing.T) {
			for range 10 {
				disks := slices.Clone(c.disks)
				rand.Shuffle(len(disks), func(i, j int) { disks[i], disks[j] = disks[j], disks[i] })
				got, err := ChooseDisk(disks, Requirements{Size: 2 * gib})
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

func TestChooseDiskErrorListsDisks(t *testing.T) {
	stick := disk("sda", 64*gib)
	stick.Removable = true
	stick.Model = "Stick"
	_, err := ChooseDisk([]Disk{stick, disk("vda", gib), disk("sr0", gib)}, Requirements{Size: 2 * gib})
	var none *NoDiskError
	if !errors.As(err, &none) {
		t.Fatalf("got error %v, want a *NoDiskError", err)
	}
	want := "no disk for the image, which needs 2147483648 bytes (2147.5 MB); disks found: " +
		"vda 1073.7 MB (1073741824 bytes: too small), sda 68.7 GB Stick (68719476736 bytes: removable)"
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
	if _, err := ChooseDisk(nil, Requirements{Size: gib}); err == nil || !strings.Contains(err.Error(), "no disk found") {
		t.Errorf("without disks: got error %v, want \"no disk found\"", err)
	}
}

// Disks that an image does not fit are refused with the reason.
func TestChooseDiskByRequirements(t *testing.T) {
	boot := Disk{Name: "sda", Size: 480e9, BlockSize: 512, Model: "BOOT RAID1", Serial: "600508b1001c"}
	data := Disk{Name: "nvme0n1", Size: 7680e9, BlockSize: 4096, Model: "DATA", Serial: "S1"}
	virtual := Disk{Name: "vda", Size: 8 * gib, BlockSize: 512, Serial: "12345678901234567890"}
	disks := []Disk{boot, data, virtual}
	for name, c := range map[string]struct {
		need Requirements
		want string
		err  string
	}{
		"name":                  {need: Requirements{RootDisk: installerapi.RootDisk{Name: "sda"}}, want: "sda"},
		"name with its folder":  {need: Requirements{RootDisk: installerapi.RootDisk{Name: "/dev/nvme0n1"}}, want: "nvme0n1"},
		"serial":                {need: Requirements{RootDisk: installerapi.RootDisk{Serial: "600508B1001C"}}, want: "sda"},
		"serial cut by virtio":  {need: Requirements{RootDisk: installerapi.RootDisk{Serial: "12345678901234567890abc"}}, want: "vda"},
		"model":                 {need: Requirements{RootDisk: installerapi.RootDisk{Model: "boot raid1"}}, want: "sda"},
		"minimum size":          {need: Requirements{RootDisk: installerapi.RootDisk{MinSize: 100e9}}, want: "nvme0n1"},
		"all of them":           {need: Requirements{RootDisk: installerapi.RootDisk{Name: "sda", Model: "BOOT RAID1", MinSize: 1}}, want: "sda"},
		"sectors of 512 bytes":  {need: Requirements{SectorSize: 512, RootDisk: installerapi.RootDisk{MinSize: 100e9}}, want: "sda"},
		"sectors of 4096 bytes": {need: Requirements{SectorSize: 4096}, want: "nvme0n1"},
		"no sectors are known":  {need: Requirements{}, want: "vda"},
		"too small is a reason": {need: Requirements{Size: 1e15}, err: "no disk for the image, which needs"},
		"hint for another's size": {
			need: Requirements{Size: 100e9, RootDisk: installerapi.RootDisk{Name: "vda"}}, err: "no disk for the image, which needs",
		},
		"hint for other sectors": {
			need: Requirements{SectorSize: 512, RootDisk: installerapi.RootDisk{Name: "nvme0n1"}},
			err:  "no disk fits the image, which needs 0 bytes (0.0 MB); disks found: vda 8589.9 MB (8589934592 bytes: another name than spec.rootDisk)",
		},
		"serial of no disk": {
			need: Requirements{RootDisk: installerapi.RootDisk{Serial: "S2"}}, err: `(7680000000000 bytes: serial "S1", not that of spec.rootDisk)`,
		},
		"4096 bytes on none": {
			need: Requirements{SectorSize: 4096, RootDisk: installerapi.RootDisk{Name: "sda"}},
			err:  "sectors of 512 bytes, the image is for sectors of 4096",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ChooseDisk(disks, c.need)
			if c.err == "" && (err != nil || got.Name != c.want) {
				t.Errorf("got %s, %v, want %s", got.Name, err, c.want)
			}
			if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("got error %v, want %q", err, c.err)
			}
		})
	}
}
