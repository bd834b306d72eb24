// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"slices"

	"github.com/pxelab/pxelab/internal/installer/installerapi"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/registry"
)

// boundHardware returns an inventory within the limits of a machine's state, whatever the
// machine reports; nil for nil.
func boundHardware(h *installerapi.Hardware) *netbootapi.Hardware {
	if h == nil {
		return nil
	}
	short := func(s string) string { return registry.Clip(s, installerapi.MaxHardwareText) }
	out := *h
	out.CPUs, out.Memory = max(0, h.CPUs), max(0, h.Memory)
	if h.Firmware != "UEFI" && h.Firmware != "BIOS" {
		out.Firmware = ""
	}
	out.Disks = slices.Clone(h.Disks[:min(len(h.Disks), installerapi.MaxHardwareDisks)])
	for i := range out.Disks {
		d := &out.Disks[i]
		d.Name, d.Model, d.Serial = short(d.Name), short(d.Model), short(d.Serial)
		d.Size, d.LogicalSectorSize = max(0, d.Size), max(0, d.LogicalSectorSize)
	}
	out.NICs = slices.Clone(h.NICs[:min(len(h.NICs), installerapi.MaxHardwareNICs)])
	for i := range out.NICs {
		n := &out.NICs[i]
		n.Name, n.MAC = short(n.Name), short(n.MAC)
	}
	return &out
}

// maxWarning bounds a warning of the installer, in bytes of its JSON encoding.
const maxWarning = 512

// boundWarnings returns the first warnings of a report, each cut to maxWarning.
func boundWarnings(texts []string) []string {
	var out []string
	for _, text := range texts[:min(len(texts), installerapi.MaxWarnings)] {
		out = append(out, registry.Clip(text, maxWarning))
	}
	return out
}
