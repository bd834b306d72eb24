// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"

	"github.com/pxelab/pxelab/internal/installer"
	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

// disks returns the machine's disks as the installer's kernel would find them.
func (g *Guest) disks() []installer.Disk {
	if g.config.Disk == nil {
		return nil
	}
	return []installer.Disk{{Name: "vda", Size: g.config.Disk.Size(), BlockSize: 512, Serial: g.config.DiskSerial}}
}

// hardware returns the inventory that the installer reports.
func (g *Guest) hardware() installerapi.Hardware {
	h := installerapi.Hardware{CPUs: g.config.CPUs, Memory: int64(g.config.MemoryMiB) << 20, Firmware: "UEFI"}
	for _, d := range g.disks() {
		h.Disks = append(h.Disks, installerapi.HardwareDisk{Name: d.Name, Size: d.Size, Serial: d.Serial, LogicalSectorSize: d.BlockSize})
	}
	for i, n := range g.nics {
		h.NICs = append(h.NICs, installerapi.HardwareNIC{Name: fmt.Sprintf("eth%d", i), MAC: n.mac.String()})
	}
	return h
}
