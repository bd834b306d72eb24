// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// HardwareStatus returns the inventory that a target's installer reported, nil if it has
// not reported one in the current attempt.
func HardwareStatus(seen *netbootapi.MachineState) *v1alpha1.Hardware {
	if seen == nil || seen.Hardware == nil {
		return nil
	}
	h := seen.Hardware
	out := &v1alpha1.Hardware{CPUs: int32(min(h.CPUs, 1<<20)), Memory: bytesQuantity(h.Memory), Firmware: h.Firmware}
	for _, d := range h.Disks {
		out.Disks = append(out.Disks, v1alpha1.HardwareDisk{
			Name: d.Name, Size: bytesQuantity(d.Size), Model: d.Model, Serial: d.Serial, Rotational: d.Rotational,
			LogicalSectorSize: int32(min(d.LogicalSectorSize, 1<<30)),
		})
	}
	for _, n := range h.NICs {
		out.NICs = append(out.NICs, v1alpha1.HardwareNIC{Name: n.Name, MAC: n.MAC})
	}
	return out
}

// bytesQuantity returns a size in its canonical form, so that a status that is read back
// equals the one that was written; nil for 0.
func bytesQuantity(size int64) *resource.Quantity {
	if size == 0 {
		return nil
	}
	q := resource.MustParse(resource.NewQuantity(size, resource.BinarySI).String())
	return &q
}
