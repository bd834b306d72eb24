// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// TestRootDisk compares the disk that is selected with what the machine and its installer
// are given: the installer finds the same disk, by its serial number.
func TestRootDisk(t *testing.T) {
	quantity := func(s string) *resource.Quantity {
		q := resource.MustParse(s)
		return &q
	}
	size := resource.MustParse
	for name, tt := range map[string]struct {
		disks []v1alpha1.Disk
		hints *v1alpha1.RootDiskHints
		want  int
		plan  netbootapi.RootDisk
		err   string
	}{
		"no hints": {},
		"name, without serial": {
			hints: &v1alpha1.RootDiskHints{Name: "data"}, want: 1, plan: netbootapi.RootDisk{Serial: "data"},
		},
		"name, with serial": {
			hints: &v1alpha1.RootDiskHints{Name: "system"}, want: 2, plan: netbootapi.RootDisk{Serial: "S1"},
		},
		"serial in another case": {
			hints: &v1alpha1.RootDiskHints{Serial: "s1"}, want: 2, plan: netbootapi.RootDisk{Serial: "S1"},
		},
		"size in another unit": {
			hints: &v1alpha1.RootDiskHints{MinSize: quantity("4096Mi")}, want: 1,
			plan: netbootapi.RootDisk{Serial: "data", MinSize: 4 << 30},
		},
		"first of several": {
			hints: &v1alpha1.RootDiskHints{MinSize: quantity("2Gi")}, want: 1, plan: netbootapi.RootDisk{Serial: "data", MinSize: 2 << 30},
		},
		"model": {
			hints: &v1alpha1.RootDiskHints{Model: "qemu nvme ctrl"}, want: 3,
			plan: netbootapi.RootDisk{Serial: "fast", Model: "qemu nvme ctrl"},
		},
		"name and serial of different disks": {
			hints: &v1alpha1.RootDiskHints{Name: "system", Serial: "S2"}, plan: netbootapi.RootDisk{Name: "system", Serial: "S2"},
			err: "spec.rootDisk matches none of spec.machine.disks: small (not name system), data (not name system), " +
				"system (serial S1, not S2), fast (not name system); correct spec.rootDisk",
		},
		"too small": {
			hints: &v1alpha1.RootDiskHints{Name: "small", MinSize: quantity("2Gi")},
			plan:  netbootapi.RootDisk{Name: "small", MinSize: 2 << 30}, err: "small (size 1Gi, less than minSize 2Gi)",
		},
		"model of a virtio disk": {
			hints: &v1alpha1.RootDiskHints{Name: "small", Model: "X"}, plan: netbootapi.RootDisk{Name: "small", Model: "X"},
			err: "small (disks of bus Virtio have no model)",
		},
		"another disk has the name as its serial": {
			disks: []v1alpha1.Disk{{Name: "a", Size: size("1Gi"), Serial: "b"}, {Name: "b", Size: size("1Gi")}},
			hints: &v1alpha1.RootDiskHints{Name: "b"}, want: 1, plan: netbootapi.RootDisk{Serial: "root-0"},
		},
		"other disks have all that its serial could be": {
			disks: []v1alpha1.Disk{
				{Name: "a", Size: size("1Gi")}, {Name: "b", Size: size("1Gi"), Serial: "a"}, {Name: "c", Size: size("1Gi"), Serial: "ROOT-0"},
				{Name: "d", Size: size("1Gi"), Serial: "root-1"}, {Name: "e", Size: size("1Gi"), Serial: "root-2"},
				{Name: "f", Size: size("1Gi"), Serial: "root-root-root-root-"}, {Name: "g", Size: size("1Gi"), Serial: "root-3"},
			},
			hints: &v1alpha1.RootDiskHints{Name: "a"}, plan: netbootapi.RootDisk{Serial: "root-4"},
		},
		"two disks with one serial": {
			disks: []v1alpha1.Disk{{Name: "a", Size: size("1Gi"), Serial: "S"}, {Name: "b", Size: size("1Gi"), Serial: "s"}},
			hints: &v1alpha1.RootDiskHints{Name: "b"}, want: 1, plan: netbootapi.RootDisk{Name: "b"},
			err: "spec.rootDisk selects b, whose serial S is that of a as well",
		},
	} {
		t.Run(name, func(t *testing.T) {
			bmt := target("a")
			bmt.Spec.RootDisk = tt.hints
			bmt.Spec.Machine.Disks = tt.disks
			if tt.disks == nil {
				bmt.Spec.Machine.Disks = []v1alpha1.Disk{
					{Name: "small", Size: size("1Gi"), Bus: v1alpha1.DiskBusVirtio}, {Name: "data", Size: size("4Gi"), Bus: v1alpha1.DiskBusVirtio},
					{Name: "system", Size: size("4Gi"), Serial: "S1"}, {Name: "fast", Size: size("4Gi"), Bus: v1alpha1.DiskBusNVMe},
				}
			}
			got, err := RootDisk(bmt)
			if tt.err == "" && (err != nil || got != tt.want) {
				t.Errorf("got disk %d, %v, want %d", got, err, tt.want)
			}
			if tt.err != "" && (err == nil || err.Reason != v1alpha1.ReasonNoRootDisk || !strings.Contains(err.Message, tt.err)) {
				t.Errorf("got error %v, want %s with %q", err, v1alpha1.ReasonNoRootDisk, tt.err)
			}
			if diff := cmp.Diff(tt.plan, rootDisk(bmt)); diff != "" {
				t.Errorf("plan of the installer (-want +got)\n%s", diff)
			}
			if serial := DiskSerials(bmt)[tt.want]; tt.err == "" && tt.plan.Serial != "" && serial != tt.plan.Serial {
				t.Errorf("got a disk with serial %q, want %q", serial, tt.plan.Serial)
			}
		})
	}
}

// A machine boots from the disk that holds the system, whatever spec.rootDisk selects now.
func TestBootDisk(t *testing.T) {
	bmt := target("a")
	bmt.Spec.Machine.Disks = []v1alpha1.Disk{{Name: "disk0"}, {Name: "disk1"}, {Name: "disk2"}}
	hints := &v1alpha1.RootDiskHints{Name: "disk1"}
	for name, tt := range map[string]struct {
		hints  *v1alpha1.RootDiskHints
		record targetdisk.Record
		want   int
	}{
		"blank":                  {nil, targetdisk.Record{}, 0},
		"blank, selected":        {hints, targetdisk.Record{}, 1},
		"installed":              {nil, targetdisk.Record{Installed: true}, 0},
		"installed on the first": {hints, targetdisk.Record{Installed: true}, 0},
		"installed on another":   {hints, targetdisk.Record{Installed: true, RootDisk: "disk2"}, 2},
		"no disk matches":        {&v1alpha1.RootDiskHints{Serial: "X"}, targetdisk.Record{}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bmt.Spec.RootDisk = tt.hints
			got := BootDisk(bmt, tt.record)
			if got != tt.want {
				t.Errorf("got disk %d, want %d", got, tt.want)
			}
			m := TargetMachine(bmt, TargetMachineOptions{Network: network(t), RootDisk: got})
			if diff := cmp.Diff(TargetBootOrder(tt.want, false), m.BootOrder()); diff != "" {
				t.Errorf("boot order (-want +got)\n%s", diff)
			}
		})
	}
}
