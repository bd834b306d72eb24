// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// rootDisk returns the hints of a target for its installer. A guest does not see the names
// of the spec, so a name becomes the serial number of its disk. If that disk has none, or
// another than the hints, the name stays: the kernel has no disk of that name, so that the
// installer refuses all of them by name.
func rootDisk(t *v1alpha1.BareMetalTarget) netbootapi.RootDisk {
	hints := t.Spec.RootDisk
	if hints == nil {
		return netbootapi.RootDisk{}
	}
	out := netbootapi.RootDisk{Name: string(hints.Name), Serial: hints.Serial, Model: hints.Model}
	if hints.MinSize != nil {
		out.MinSize = hints.MinSize.Value()
	}
	for _, d := range t.Spec.Machine.Disks {
		if d.Name == hints.Name && d.Serial != "" && (out.Serial == "" || out.Serial == d.Serial) {
			out.Name = ""
			out.Serial = d.Serial
		}
	}
	return out
}

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
