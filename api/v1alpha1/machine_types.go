// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
)

// Runner is what runs a target's machine.
// +kubebuilder:validation:Enum=QEMU;Simulated;External
type Runner string

const (
	// RunnerQEMU runs a virtual machine.
	RunnerQEMU Runner = "QEMU"
	// RunnerSimulated runs no guest: only the machine's network traffic is real.
	RunnerSimulated Runner = "Simulated"
	// RunnerExternal leaves a real machine to others.
	RunnerExternal Runner = "External"
)

// Firmware of a machine.
// +kubebuilder:validation:Enum=UEFI;BIOS
type Firmware string

const (
	// FirmwareUEFI is UEFI firmware.
	FirmwareUEFI Firmware = "UEFI"
	// FirmwareBIOS is a legacy BIOS.
	FirmwareBIOS Firmware = "BIOS"
)

// NetworkBoot is how a firmware boots from the network.
// +kubebuilder:validation:Enum=PXE;HTTP
type NetworkBoot string

const (
	// NetworkBootPXE loads the boot program by TFTP.
	NetworkBootPXE NetworkBoot = "PXE"
	// NetworkBootHTTP loads the boot program by UEFI HTTP boot.
	NetworkBootHTTP NetworkBoot = "HTTP"
)

// DiskBus is the kind of controller that a disk is attached to.
// +kubebuilder:validation:Enum=Virtio;NVMe;SATA;SCSI
type DiskBus string

const (
	// DiskBusVirtio is a virtio block device.
	DiskBusVirtio DiskBus = "Virtio"
	// DiskBusNVMe is an NVMe controller.
	DiskBusNVMe DiskBus = "NVMe"
	// DiskBusSATA is an AHCI controller.
	DiskBusSATA DiskBus = "SATA"
	// DiskBusSCSI is a virtio SCSI controller.
	DiskBusSCSI DiskBus = "SCSI"
)

// DeviceName names a disk or a NIC within its machine.
// +kubebuilder:validation:MaxLength=15
// +kubebuilder:validation:Pattern=`^[a-z]([-a-z0-9]*[a-z0-9])?$`
type DeviceName string

// DiskSource is existing content for a disk.
type DiskSource struct {
	// Retained is the UID or the name of a deleted target of the namespace whose retained
	// disks are adopted, with the system that is installed on them. The names of the disks,
	// the architecture and the runner of the machine must be those of the deleted target. A
	// size may be larger.
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	Retained string `json:"retained"`
}

// Adoption is where adopted disks come from.
type Adoption struct {
	// Retained is the UID of the deleted target whose disks were adopted.
	Retained string `json:"retained"`
	// UID of the target whose installation attempt the disks held when they were adopted.
	UID string `json:"uid"`
	// Attempt is the ID of that attempt. Later ones are the target's own.
	Attempt int64 `json:"attempt"`
	// MAC address of the deleted target's boot interface.
	MAC string `json:"mac,omitempty"`
	// Address of that interface.
	Address string `json:"address,omitempty"`
}

// Disk of a target.
// +kubebuilder:validation:XValidation:rule="has(self.source) == has(oldSelf.source)",message="source cannot be changed; create another BareMetalTarget"
// +kubebuilder:validation:XValidation:rule="has(self.serial) == has(oldSelf.serial)",message="serial cannot be changed; create another BareMetalTarget"
type Disk struct {
	// Name of the disk.
	Name DeviceName `json:"name"`
	// Size of the disk, at least 1Mi. It cannot be changed; the same size in another unit
	// does not count as a change.
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('1Mi')) >= 0",message="size must be at least 1Mi"
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)) == quantity(string(oldSelf))",message="size cannot be changed; create another BareMetalTarget"
	Size resource.Quantity `json:"size"`
	// Bus that the disk is attached to. Only Virtio is supported yet.
	// +kubebuilder:default=Virtio
	// +kubebuilder:validation:XValidation:rule="self == 'Virtio'",message="only bus Virtio is supported yet"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="bus cannot be changed; create another BareMetalTarget"
	Bus DiskBus `json:"bus,omitempty"`
	// Serial number that the guest sees. Default: none.
	// +optional
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_.-]{1,20}$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="serial cannot be changed; create another BareMetalTarget"
	Serial string `json:"serial,omitempty"`
	// Source of the disk's content. Default: a blank disk. It must be the same for all disks
	// of a target, and cannot be changed.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="source cannot be changed; create another BareMetalTarget"
	Source *DiskSource `json:"source,omitempty"`
}

// NIC is a network interface of a target.
// +kubebuilder:validation:XValidation:rule="has(self.mac) == has(oldSelf.mac)",message="mac cannot be changed; create another BareMetalTarget"
type NIC struct {
	// Name of the interface.
	Name DeviceName `json:"name"`
	// MAC address, in upper or lower case. Default: a stable, locally administered address.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self != '00:00:00:00:00:00'",message="mac must not be zero; remove it to get a stable address"
	// +kubebuilder:validation:Pattern=`^[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="mac cannot be changed; create another BareMetalTarget"
	MAC string `json:"mac,omitempty"`
	// Addresses of the interface. Default: a free address outside the DHCP pool,
	// which the target keeps.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1
	Addresses []IPv4 `json:"addresses,omitempty"`
	// Network that the interface is attached to. Default: the server's lab network. Not
	// supported yet.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="false",message="network is not supported yet; every interface is attached to the server's lab network"
	Network string `json:"network,omitempty"`
	// Boot makes the firmware boot from this interface. Default: the first one.
	// +optional
	Boot *bool `json:"boot,omitempty"`
}

// NICStatus is the observed state of a network interface.
type NICStatus struct {
	// Name of the interface.
	Name DeviceName `json:"name"`
	// MAC address of the interface, in lower case.
	MAC string `json:"mac,omitempty"`
	// Addresses reserved for the interface on its network.
	// +listType=atomic
	Addresses []string `json:"addresses,omitempty"`
}

// SMBIOS is the identity that the firmware reports.
type SMBIOS struct {
	// Manufacturer of the machine.
	// +optional
	Manufacturer SMBIOSText `json:"manufacturer,omitempty"`
	// Product name of the machine.
	// +optional
	Product SMBIOSText `json:"product,omitempty"`
	// Version of the machine.
	// +optional
	Version SMBIOSText `json:"version,omitempty"`
	// Serial number of the machine.
	// +optional
	Serial SMBIOSText `json:"serial,omitempty"`
	// SKU of the machine.
	// +optional
	SKU SMBIOSText `json:"sku,omitempty"`
	// AssetTag of the chassis.
	// +optional
	AssetTag SMBIOSText `json:"assetTag,omitempty"`
}

// SMBIOSText is printable ASCII.
// +kubebuilder:validation:MaxLength=64
// +kubebuilder:validation:Pattern=`^[ -~]*$`
type SMBIOSText string

// TargetMachine is the machine of a target.
// +kubebuilder:validation:XValidation:rule="!has(self.simulation) || self.runner == 'Simulated'",message="simulation requires runner Simulated"
type TargetMachine struct {
	Machine `json:",inline"`
	// Runner is what runs the machine. It cannot be changed. External is not supported yet.
	// +kubebuilder:default=QEMU
	// +kubebuilder:validation:XValidation:rule="self != 'External'",message="runner External is not supported yet; use QEMU or Simulated"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="runner cannot be changed; create another BareMetalTarget"
	Runner Runner `json:"runner,omitempty"`
	// Architecture of the machine.
	// +kubebuilder:default=x86_64
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="architecture cannot be changed; create another BareMetalTarget"
	Architecture Architecture `json:"architecture,omitempty"`
	// Firmware of the machine. Only UEFI is supported yet.
	// +kubebuilder:default=UEFI
	// +kubebuilder:validation:XValidation:rule="self == 'UEFI'",message="only firmware UEFI is supported yet"
	Firmware Firmware `json:"firmware,omitempty"`
	// NetworkBoot is how the firmware boots from the network. Only PXE is supported yet.
	// +kubebuilder:default=PXE
	// +kubebuilder:validation:XValidation:rule="self == 'PXE'",message="only networkBoot PXE is supported yet"
	NetworkBoot NetworkBoot `json:"networkBoot,omitempty"`
	// SecureBoot makes the firmware start only signed programs. Not supported yet.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!self",message="secureBoot is not supported yet"
	SecureBoot bool `json:"secureBoot,omitempty"`
	// TPM adds a TPM 2.0. Not supported yet.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!self",message="tpm is not supported yet"
	TPM bool `json:"tpm,omitempty"`
	// SMBIOS is the identity that the firmware reports. Not supported yet.
	// +optional
	// +kubebuilder:validation:XValidation:rule="false",message="smbios is not supported yet"
	SMBIOS *SMBIOS `json:"smbios,omitempty"`
	// Disks of the machine. They cannot be changed, but their sizes can be written in another
	// unit. At most 7: the API server limits the cost of the rules for their sizes.
	// +kubebuilder:default={{name: "disk0", size: "10Gi"}}
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=7
	// +kubebuilder:validation:XValidation:rule="self.map(d, d.name) == oldSelf.map(d, d.name)",message="disks cannot be added, removed, renamed or reordered; create another BareMetalTarget"
	// +kubebuilder:validation:XValidation:rule="self.all(d, has(d.source) == has(self[0].source) && (!has(d.source) || d.source.retained == self[0].source.retained))",message="source must be the same for all disks"
	// +listType=map
	// +listMapKey=name
	Disks []Disk `json:"disks,omitempty"`
	// NICs of the machine. None can be added or removed. Only one NIC is supported yet.
	// +kubebuilder:default={{name: "lab"}}
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:XValidation:rule="self.size() == 1",message="only one NIC is supported yet"
	// +kubebuilder:validation:XValidation:rule="self.exists(n, !has(n.boot) || n.boot)",message="boot must not be false for every NIC: the target boots from the network"
	// +kubebuilder:validation:XValidation:rule="self.size() == oldSelf.size() && self.all(n, oldSelf.exists(o, o.name == n.name))",message="nics cannot be added, removed or renamed; create another BareMetalTarget"
	// +listType=map
	// +listMapKey=name
	NICs []NIC `json:"nics,omitempty"`
	// Simulation configures a machine of runner Simulated.
	// +optional
	Simulation *Simulation `json:"simulation,omitempty"`
}

// BootNIC returns the interface from which the machine boots; the zero NIC if it has
// none.
func (m TargetMachine) BootNIC() NIC {
	for _, n := range m.NICs {
		if n.Boot != nil && *n.Boot {
			return n
		}
	}
	if len(m.NICs) > 0 {
		return m.NICs[0]
	}
	return NIC{}
}

// NIC returns the state of an interface; the zero NICStatus if there is none.
func (s BareMetalTargetStatus) NIC(name DeviceName) NICStatus {
	for _, n := range s.NICs {
		if n.Name == name {
			return n
		}
	}
	return NICStatus{}
}

// Address returns the first address, or "".
func (n NICStatus) Address() string {
	if len(n.Addresses) == 0 {
		return ""
	}
	return n.Addresses[0]
}

// BootNICStatus returns the state of the interface from which the target boots; the
// zero NICStatus if there is none yet.
func (t *BareMetalTarget) BootNICStatus() NICStatus {
	return t.Status.NIC(t.Spec.Machine.BootNIC().Name)
}
