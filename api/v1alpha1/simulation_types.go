// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Simulation configures a simulated machine.
type Simulation struct {
	// LinkRate of each interface in bits per second. Default: unlimited.
	// +optional
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('1k')) >= 0 && quantity(string(self)).compareTo(quantity('1T')) <= 0",message="linkRate must be between 1k and 1T"
	LinkRate *resource.Quantity `json:"linkRate,omitempty"`
	// FirmwareDelay is the time from power-on to the first DHCP request.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('1h')",message="firmwareDelay must be between 0s and 1h"
	FirmwareDelay *metav1.Duration `json:"firmwareDelay,omitempty"`
	// BootDelay is the time from the start of a kernel to its first request.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('1h')",message="bootDelay must be between 0s and 1h"
	BootDelay *metav1.Duration `json:"bootDelay,omitempty"`
	// Faults that the machine has.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Faults []SimulatedFault `json:"faults,omitempty"`
}

// SimulatedFaultType is a kind of fault of a simulated machine.
// +kubebuilder:validation:Enum=NoDiscover;NoRequest;TFTPAbort;ScriptAbort;InstallerError;InstallerStall;CloudInitFail;NoPhoneHome;NoSSH;PowersOff;ResetLoop;ForeignMAC
type SimulatedFaultType string

const (
	// SimulatedFaultNoDiscover: the firmware sends no DHCP request.
	SimulatedFaultNoDiscover SimulatedFaultType = "NoDiscover"
	// SimulatedFaultNoRequest: the firmware ignores the DHCP offers.
	SimulatedFaultNoRequest SimulatedFaultType = "NoRequest"
	// SimulatedFaultTFTPAbort: the firmware aborts the transfer of the boot program.
	SimulatedFaultTFTPAbort SimulatedFaultType = "TFTPAbort"
	// SimulatedFaultScriptAbort: the transfers that iPXE's script starts break off.
	SimulatedFaultScriptAbort SimulatedFaultType = "ScriptAbort"
	// SimulatedFaultInstallerError: the installer cannot write to the disk.
	SimulatedFaultInstallerError SimulatedFaultType = "InstallerError"
	// SimulatedFaultInstallerStall: the installer hangs in the middle of the image.
	SimulatedFaultInstallerStall SimulatedFaultType = "InstallerStall"
	// SimulatedFaultCloudInitFail: a module of cloud-init fails.
	SimulatedFaultCloudInitFail SimulatedFaultType = "CloudInitFail"
	// SimulatedFaultNoPhoneHome: cloud-init hangs before it phones home.
	SimulatedFaultNoPhoneHome SimulatedFaultType = "NoPhoneHome"
	// SimulatedFaultNoSSH: the installed system has no SSH server.
	SimulatedFaultNoSSH SimulatedFaultType = "NoSSH"
	// SimulatedFaultPowersOff: the machine loses its power.
	SimulatedFaultPowersOff SimulatedFaultType = "PowersOff"
	// SimulatedFaultResetLoop: the machine resets whenever a kernel starts.
	SimulatedFaultResetLoop SimulatedFaultType = "ResetLoop"
	// SimulatedFaultForeignMAC: the interface sends from another MAC address than its own.
	SimulatedFaultForeignMAC SimulatedFaultType = "ForeignMAC"
)

// SimulatedFault is a fault of a simulated machine.
type SimulatedFault struct {
	// Type of the fault.
	Type SimulatedFaultType `json:"type"`
	// Attempts is the number of power-ons, from the first, in which the fault occurs.
	// Each attempt to install the machine powers it on. Default: all.
	// +optional
	// +kubebuilder:validation:Minimum=1
	Attempts *int32 `json:"attempts,omitempty"`
	// Probability of the fault in percent. Default: 100.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Probability *int32 `json:"probability,omitempty"`
}
