// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
)

// Hardware is what the installer found in a target. The target reports it, and can report
// anything.
type Hardware struct {
	// CPUs is the number of logical CPUs.
	CPUs int32 `json:"cpus,omitempty"`
	// Memory that the kernel can use.
	Memory *resource.Quantity `json:"memory,omitempty"`
	// Firmware that started the installer: UEFI or BIOS.
	Firmware string `json:"firmware,omitempty"`
	// Disks in the order in which the installer found them; at most 32.
	// +listType=atomic
	Disks []HardwareDisk `json:"disks,omitempty"`
	// NICs in the order in which the installer found them; at most 32.
	// +listType=atomic
	NICs []HardwareNIC `json:"nics,omitempty"`
}

// HardwareDisk is a disk that the installer found.
type HardwareDisk struct {
	// Name of the disk in the installer's kernel, such as vda.
	Name string `json:"name"`
	// Size of the disk.
	Size *resource.Quantity `json:"size,omitempty"`
	// Model that the disk reports.
	Model string `json:"model,omitempty"`
	// Serial number that the disk reports.
	Serial string `json:"serial,omitempty"`
	// Rotational reports whether the disk is a hard disk.
	Rotational bool `json:"rotational,omitempty"`
	// LogicalSectorSize in bytes.
	LogicalSectorSize int32 `json:"logicalSectorSize,omitempty"`
}

// HardwareNIC is a network interface that the installer found.
type HardwareNIC struct {
	// Name of the interface in the installer's kernel, such as eth0.
	Name string `json:"name"`
	// MAC address of the interface, in lower case.
	MAC string `json:"mac,omitempty"`
}
