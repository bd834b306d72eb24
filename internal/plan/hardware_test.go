// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/installer/installerapi"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

func TestRootDisk(t *testing.T) {
	size := resource.MustParse("2Gi")
	target := &v1alpha1.BareMetalTarget{}
	target.Spec.Machine.Disks = []v1alpha1.Disk{{Name: "data"}, {Name: "system", Serial: "S1"}}
	for name, tt := range map[string]struct {
		hints *v1alpha1.RootDiskHints
		want  netbootapi.RootDisk
	}{
		"none":                  {nil, netbootapi.RootDisk{}},
		"name without serial":   {&v1alpha1.RootDiskHints{Name: "data"}, netbootapi.RootDisk{Name: "data"}},
		"name with serial":      {&v1alpha1.RootDiskHints{Name: "system"}, netbootapi.RootDisk{Serial: "S1"}},
		"name and its serial":   {&v1alpha1.RootDiskHints{Name: "system", Serial: "S1"}, netbootapi.RootDisk{Serial: "S1"}},
		"serial of another":     {&v1alpha1.RootDiskHints{Name: "system", Serial: "S2"}, netbootapi.RootDisk{Name: "system", Serial: "S2"}},
		"size in bytes, model":  {&v1alpha1.RootDiskHints{MinSize: &size, Model: "X"}, netbootapi.RootDisk{MinSize: 2 << 30, Model: "X"}},
		"serial, without names": {&v1alpha1.RootDiskHints{Serial: "S1"}, netbootapi.RootDisk{Serial: "S1"}},
	} {
		t.Run(name, func(t *testing.T) {
			target.Spec.RootDisk = tt.hints
			if diff := cmp.Diff(tt.want, rootDisk(target)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestHardwareStatus(t *testing.T) {
	if got := HardwareStatus(&netbootapi.MachineState{}); got != nil {
		t.Errorf("without a report: got %v", got)
	}
	got := HardwareStatus(&netbootapi.MachineState{Hardware: &netbootapi.Hardware{
		CPUs: 2, Memory: 1000000001, Firmware: "UEFI",
		Disks: []installerapi.HardwareDisk{{Name: "vda", Size: 10 << 30, Serial: "S1", LogicalSectorSize: 512}},
		NICs:  []installerapi.HardwareNIC{{Name: "eth0", MAC: "52:54:00:00:00:01"}},
	}})
	memory, size := resource.MustParse("1000000001"), resource.MustParse("10Gi")
	want := &v1alpha1.Hardware{
		CPUs: 2, Memory: &memory, Firmware: "UEFI",
		Disks: []v1alpha1.HardwareDisk{{Name: "vda", Size: &size, Serial: "S1", LogicalSectorSize: 512}},
		NICs:  []v1alpha1.HardwareNIC{{Name: "eth0", MAC: "52:54:00:00:00:01"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
