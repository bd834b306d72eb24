// SPDX-License-Identifier: Apache-2.0

package installerapi

// RootDisk selects the disk to install to. A disk must match all fields that are set.
type RootDisk struct {
	// Name is the kernel's name of the disk, such as nvme0n1, with or without /dev/.
	Name string `json:"name,omitempty"`
	// Serial and Model are compared without regard to case.
	Serial string `json:"serial,omitempty"`
	Model  string `json:"model,omitempty"`
	// MinSize in bytes.
	MinSize int64 `json:"minSize,omitempty"`
}

// RootPartition selects a partition of an image by its number or by the label of its
// file system.
type RootPartition struct {
	Number int    `json:"number,omitempty"`
	Label  string `json:"label,omitempty"`
}

// Limits of a Hardware.
const (
	MaxHardwareDisks = 32
	MaxHardwareNICs  = 32
	MaxHardwareText  = 64 // bytes of a text
)

// Hardware is the inventory of a machine.
type Hardware struct {
	CPUs int `json:"cpus,omitempty"`
	// Memory is what the kernel can use, in bytes.
	Memory int64 `json:"memory,omitempty"`
	// Firmware is "UEFI" or "BIOS".
	Firmware string         `json:"firmware,omitempty"`
	Disks    []HardwareDisk `json:"disks,omitempty"`
	NICs     []HardwareNIC  `json:"nics,omitempty"`
}

// HardwareDisk is a whole disk.
type HardwareDisk struct {
	Name              string `json:"name"`
	Size              int64  `json:"size"` // bytes
	Model             string `json:"model,omitempty"`
	Serial            string `json:"serial,omitempty"`
	Rotational        bool   `json:"rotational,omitempty"`
	LogicalSectorSize int64  `json:"logicalSectorSize,omitempty"` // bytes
}

// HardwareNIC is a network interface with a permanent address.
type HardwareNIC struct {
	Name string `json:"name"`
	MAC  string `json:"mac"`
}
