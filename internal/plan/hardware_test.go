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
