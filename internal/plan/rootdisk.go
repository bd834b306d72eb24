// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// diskModels are what the kernel of a guest reports as the model of QEMU's disks. A
// virtio disk has none.
var diskModels = map[v1alpha1.DiskBus]string{
	v1alpha1.DiskBusNVMe: "QEMU NVMe Ctrl", v1alpha1.DiskBusSATA: "QEMU HARDDISK", v1alpha1.DiskBusSCSI: "QEMU HARDDISK",
}

// RootDisk returns the place in spec.machine.disks of the disk to which a target's image is
// written: the first one that matches spec.rootDisk. The error is nil if there is one.
func RootDisk(t *v1alpha1.BareMetalTarget) (int, *InvalidError) {
	hints := t.Spec.RootDisk
	if hints == nil {
		return 0, nil
	}
	disks := t.Spec.Machine.Disks
	var refused []string
	for i, d := range disks {
		why := mismatch(d, hints)
		if why == "" {
			return i, checkSerial(disks, i)
		}
		refused = append(refused, fmt.Sprintf("%s (%s)", d.Name, why))
	}
	return 0, invalid(v1alpha1.ReasonNoRootDisk, "spec.rootDisk matches none of spec.machine.disks: %s; correct spec.rootDisk",
		strings.Join(refused, ", "))
}

// mismatch returns which hint a disk does not match, "" if it matches all of them.
func mismatch(d v1alpha1.Disk, hints *v1alpha1.RootDiskHints) string {
	model := diskModels[d.Bus]
	switch {
	case hints.Name != "" && hints.Name != d.Name:
		return fmt.Sprintf("not name %s", hints.Name)
	case hints.Serial != "" && d.Serial == "":
		return "it has no serial"
	case hints.Serial != "" && !strings.EqualFold(hints.Serial, d.Serial):
		return fmt.Sprintf("serial %s, not %s", d.Serial, hints.Serial)
	case hints.MinSize != nil && d.Size.Cmp(*hints.MinSize) < 0:
		return fmt.Sprintf("size %s, less than minSize %s", d.Size.String(), hints.MinSize.String())
	case hints.Model != "" && model == "":
		return fmt.Sprintf("disks of bus %s have no model", v1alpha1.DiskBusVirtio)
	case hints.Model != "" && !strings.EqualFold(hints.Model, model):
		return fmt.Sprintf("model %q, not %q", model, hints.Model)
	}
	return ""
}

// checkSerial checks that the i-th disk does not share its serial number, by which the
// installer recognizes it, with another one.
func checkSerial(disks []v1alpha1.Disk, i int) *InvalidError {
	for k, d := range disks {
		if k != i && d.Serial != "" && strings.EqualFold(d.Serial, disks[i].Serial) {
			return invalid(v1alpha1.ReasonNoRootDisk, "spec.rootDisk selects %s, whose serial %s is that of %s as well; "+
				"create another target whose disks have different serials", disks[i].Name, d.Serial, d.Name)
		}
	}
	return nil
}

// DiskSerials returns the serial numbers of a target's disks. The guest knows no names of
// the spec, so the disk that spec.rootDisk selects has one in any case: its name, unless
// another disk has that as its serial number.
func DiskSerials(t *v1alpha1.BareMetalTarget) []string {
	var serials []string
	for _, d := range t.Spec.Machine.Disks {
		serials = append(serials, d.Serial)
	}
	i, err := RootDisk(t)
	if t.Spec.RootDisk == nil || err != nil || serials[i] != "" {
		return serials
	}
	serial := string(t.Spec.Machine.Disks[i].Name)
	for n := 0; slices.ContainsFunc(serials, func(s string) bool { return strings.EqualFold(s, serial) }); n++ {
		serial = fmt.Sprintf("root-%d", n) // of these, one more than disks are tried at most
	}
	serials[i] = serial
	return serials
}

// rootDisk returns the hints of a target for its installer. They select the very disk that
// RootDisk returns. If there is none the hints are passed on, so that the installer refuses
// all disks and no image is written.
func rootDisk(t *v1alpha1.BareMetalTarget) netbootapi.RootDisk {
	hints := t.Spec.RootDisk
	if hints == nil {
		return netbootapi.RootDisk{}
	}
	out := netbootapi.RootDisk{Serial: hints.Serial, Model: hints.Model}
	if hints.MinSize != nil {
		out.MinSize = hints.MinSize.Value()
	}
	if i, err := RootDisk(t); err == nil {
		out.Serial = DiskSerials(t)[i]
	} else {
		out.Name = string(hints.Name)
	}
	return out
}

// declaredRootDisk returns the value that is compared with the one that was installed: the
// disk and not the hints, which may select the same one.
func declaredRootDisk(t *v1alpha1.BareMetalTarget, c *netbootapi.Content) netbootapi.RootDisk {
	i, err := RootDisk(t)
	switch {
	case err != nil:
		return c.RootDisk
	case i == 0:
		return netbootapi.RootDisk{}
	}
	return netbootapi.RootDisk{Name: string(t.Spec.Machine.Disks[i].Name)}
}

// rootDiskName returns the name of the disk that spec.rootDisk selects, "" if it is not set
// or selects none.
func rootDiskName(t *v1alpha1.BareMetalTarget) string {
	i, err := RootDisk(t)
	if t.Spec.RootDisk == nil || err != nil {
		return ""
	}
	return string(t.Spec.Machine.Disks[i].Name)
}

// BootDisk returns the place in spec.machine.disks of the disk from which a target boots:
// the one that holds the installed system, else the one to which it is to be installed.
func BootDisk(t *v1alpha1.BareMetalTarget, r targetdisk.Record) int {
	if !r.Installed {
		i, _ := RootDisk(t) // the first one while spec.rootDisk is invalid
		return i
	}
	return max(0, slices.IndexFunc(t.Spec.Machine.Disks, func(d v1alpha1.Disk) bool { return string(d.Name) == r.RootDisk }))
}

// TargetBootOrder returns BootOrder for a target that boots from its i-th disk.
func TargetBootOrder(i int, netboot bool) []string {
	order := BootOrder(netboot)
	for k, id := range order {
		if id == DeviceRoot {
			order[k] = DiskDevice(i)
		}
	}
	return order
}

// DiskDevice returns the device ID of a target's i-th disk.
func DiskDevice(i int) string { return fmt.Sprintf("disk%d", i) }
