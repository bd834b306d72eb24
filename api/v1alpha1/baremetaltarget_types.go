// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PowerState of a machine.
// +kubebuilder:validation:Enum=On;Off
type PowerState string

const (
	PowerOn  PowerState = "On"
	PowerOff PowerState = "Off"
)

// DiskRetention is what becomes of a target's disks when it is deleted.
// +kubebuilder:validation:Enum=Delete;Retain
type DiskRetention string

const (
	RetentionDelete DiskRetention = "Delete"
	RetentionRetain DiskRetention = "Retain"
)

// Firmware of a machine.
// +kubebuilder:validation:Enum=UEFI
type Firmware string

const FirmwareUEFI Firmware = "UEFI"

// Disk of a target. The image is written to the first one.
type Disk struct {
	// Size of the disk.
	Size resource.Quantity `json:"size"`
}

// TargetMachine is the virtual machine of a target.
type TargetMachine struct {
	Machine `json:",inline"`
	// Architecture of the machine.
	// +kubebuilder:default=x86_64
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="architecture cannot be changed; make another BareMetalTarget"
	Architecture Architecture `json:"architecture,omitempty"`
	// Disks of the machine, fixed once made.
	// +kubebuilder:default={{size: "10Gi"}}
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="disks cannot be changed; make another BareMetalTarget"
	// +listType=atomic
	Disks []Disk `json:"disks,omitempty"`
	// Firmware of the machine.
	// +kubebuilder:default=UEFI
	Firmware Firmware `json:"firmware,omitempty"`
}

// BareMetalTargetSpec declares a machine that boots from the network.
// +kubebuilder:validation:XValidation:rule="has(self.macAddress) == has(oldSelf.macAddress)",message="macAddress cannot be changed; make another BareMetalTarget"
type BareMetalTargetSpec struct {
	// ProvisioningServerRef is the server on whose network the target is.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="provisioningServerRef cannot be changed; make another BareMetalTarget"
	ProvisioningServerRef LocalObjectReference `json:"provisioningServerRef"`
	// BootProfileRef is what the target boots and becomes.
	BootProfileRef LocalObjectReference `json:"bootProfileRef"`
	// Machine is the virtual machine.
	// +kubebuilder:default={}
	Machine TargetMachine `json:"machine,omitempty"`
	// MACAddress of the target on the lab network. Default: a stable one.
	// +optional
	// +kubebuilder:validation:Pattern=`^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="macAddress cannot be changed; make another BareMetalTarget"
	MACAddress string `json:"macAddress,omitempty"`
	// Address of the target on the lab network. Default: a stable one.
	// +optional
	Address IPv4 `json:"address,omitempty"`
	// Hostname of the installed system. Default: the object's name.
	// +optional
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`
	Hostname string `json:"hostname,omitempty"`
	// Parameters for the profile's templates, as {{ .Parameters.name }}.
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	Parameters map[string]string `json:"parameters,omitempty"`
	// Power that the machine is to have.
	// +kubebuilder:default=On
	Power PowerState `json:"power,omitempty"`
	// InstallGeneration: raise it to wipe and install again.
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:XValidation:rule="self >= oldSelf",message="installGeneration can only be raised"
	InstallGeneration int64 `json:"installGeneration,omitempty"`
	// ProfileChangePolicy: what becomes of the installed target when its
	// profile changes.
	// +kubebuilder:default=Keep
	ProfileChangePolicy ProfileChangePolicy `json:"profileChangePolicy,omitempty"`
	// InstallTimeout: an attempt to install has failed when nothing of it moved
	// for so long.
	// +optional
	// +kubebuilder:default="15m"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1m') && duration(self) <= duration('24h')",message="installTimeout must be between 1m and 24h"
	InstallTimeout metav1.Duration `json:"installTimeout,omitzero"`
	// MaxAttempts to install, with growing pauses in between. A change of the
	// target or of its profile starts afresh.
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MaxAttempts int32 `json:"maxAttempts,omitempty"`
	// DiskRetention is what becomes of the disks when the target is deleted.
	// +kubebuilder:default=Delete
	DiskRetention DiskRetention `json:"diskRetention,omitempty"`
}

// TargetPhase sums up a target.
type TargetPhase string

const (
	TargetPending    TargetPhase = "Pending"    // waits for its server or profile
	TargetPXE        TargetPhase = "PXE"        // powered on, boots from the network
	TargetInstalling TargetPhase = "Installing" // the installer reported
	TargetBooting    TargetPhase = "Booting"    // installed, boots from its disk
	TargetReady      TargetPhase = "Ready"      // phoned home, cloud-init without errors, SSH answers
	TargetStopped    TargetPhase = "Stopped"    // powered off as declared
	TargetFailed     TargetPhase = "Failed"     // needs a change by the user
	TargetDeleting   TargetPhase = "Deleting"
)

// Conditions of a BareMetalTarget besides Ready and Valid.
const (
	// ConditionMachineRunning is shared with ProvisioningServer.

	// ConditionInstalled: the disk holds what the profile declares.
	ConditionInstalled = "Installed"
	// ConditionProgressing: the target moves towards Ready. False with a
	// reason says where and why it does not.
	ConditionProgressing = "Progressing"
)

// Reasons of a BareMetalTarget.
const (
	ReasonWaitingForServer  = "WaitingForServer"
	ReasonWaitingForProfile = "WaitingForProfile"
	ReasonNoDiscover        = "NoDiscover"
	ReasonNoRequest         = "NoRequest"
	ReasonBootProgram       = "BootProgramNotFetched"
	ReasonNoScript          = "ScriptNotFetched"
	ReasonNoInstaller       = "InstallerNotStarted"
	ReasonInstallerSilent   = "InstallerSilent"
	ReasonInstallerError    = "InstallerError"
	ReasonNoPhoneHome       = "NoPhoneHome"
	ReasonNoSSH             = "SSHNotAnswering"
	ReasonNetworkBoot       = "NetworkBoot"
	ReasonInstalling        = "Installing"
	ReasonBooting           = "Booting"
	ReasonInstalled         = "Installed"
	ReasonNotInstalled      = "NotInstalled"
	ReasonGuestPanicked     = "GuestPanicked"
	ReasonIPXEError         = "IPXEError"
	ReasonNothingToBoot     = "NothingToBoot"
	ReasonInitramfsShell    = "InitramfsShell"
	ReasonEmergencyMode     = "EmergencyMode"
	ReasonCloudInitFailed   = "CloudInitFailed"
	ReasonImageTooLarge     = "ImageTooLarge"
	ReasonPoweredOff        = "PoweredOff"
)

// PhaseRecord is one phase of a target's life.
type PhaseRecord struct {
	// Phase that was entered.
	Phase TargetPhase `json:"phase"`
	// StartedAt is when.
	StartedAt metav1.MicroTime `json:"startedAt"`
	// Seconds spent in it, with one decimal; empty while it lasts.
	Seconds string `json:"seconds,omitempty"`
}

// InstallProgress is how far an installation is.
type InstallProgress struct {
	// Stage of the installer: Start, Write, Verify, Partition, Configure, Done.
	Stage string `json:"stage,omitempty"`
	// Percent of the image written.
	Percent int32 `json:"percent"`
	// BytesWritten of the image.
	BytesWritten int64 `json:"bytesWritten"`
	// BytesTotal to be written.
	BytesTotal int64 `json:"bytesTotal"`
}

// BareMetalTargetStatus is what was observed of a target.
type BareMetalTargetStatus struct {
	// ObservedGeneration of the spec that this status describes.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Phase sums up the conditions.
	Phase TargetPhase `json:"phase,omitempty"`
	// Progress within the phase, for people.
	Progress string `json:"progress,omitempty"`
	// Message says what the target is doing or waiting for.
	Message string `json:"message,omitempty"`
	// Conditions of the target.
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Install is how far the present or last installation is.
	Install *InstallProgress `json:"install,omitempty"`
	// Power that was observed.
	Power PowerState `json:"power,omitempty"`
	// Accelerator that runs the machine: kvm, hvf or tcg.
	Accelerator string `json:"accelerator,omitempty"`
	// MACAddress that the target has on the lab network.
	MACAddress string `json:"macAddress,omitempty"`
	// Address that is reserved for it there.
	Address string `json:"address,omitempty"`
	// Hostname that the installed system reported.
	Hostname string `json:"hostname,omitempty"`
	// SSHUser that "kubectl lab ssh" logs in as.
	SSHUser string `json:"sshUser,omitempty"`
	// SSHHostKeys that the installed system reported, in authorized_keys form.
	// +listType=atomic
	SSHHostKeys []string `json:"sshHostKeys,omitempty"`
	// Consoles of the machine.
	Consoles Consoles `json:"consoles,omitempty"`
	// Timeline of phases since the last power-on that began an installation,
	// at most the latest 32.
	// +listType=atomic
	Timeline []PhaseRecord `json:"timeline,omitempty"`
	// DiskGeneration is the installGeneration that the disks were made for; 0
	// before they are made.
	DiskGeneration int64 `json:"diskGeneration,omitempty"`
	// InstalledGeneration is the installGeneration that the disk holds; 0
	// before the first installation ended.
	InstalledGeneration int64 `json:"installedGeneration,omitempty"`
	// Attempts at the installation of diskGeneration.
	Attempts *InstallAttempts `json:"attempts,omitempty"`
	// InstalledProfileDigest is the profile's digest that the disk holds.
	InstalledProfileDigest string `json:"installedProfileDigest,omitempty"`
	// DiskPath is where the first disk is on the host that runs the machine.
	DiskPath string `json:"diskPath,omitempty"`
}

// BareMetalTarget is a UEFI machine that boots from the network and is
// installed.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=bmt,categories=pxelab
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Progress",type=string,JSONPath=`.status.progress`
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.status.address`
// +kubebuilder:printcolumn:name="Power",type=string,JSONPath=`.status.power`
// +kubebuilder:printcolumn:name="Profile",type=string,JSONPath=`.spec.bootProfileRef.name`
// +kubebuilder:printcolumn:name="Server",type=string,JSONPath=`.spec.provisioningServerRef.name`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63",message="name must be at most 63 characters"
type BareMetalTarget struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   BareMetalTargetSpec   `json:"spec"`
	Status BareMetalTargetStatus `json:"status,omitempty"`
}

// BareMetalTargetList is a list of targets.
// +kubebuilder:object:root=true
type BareMetalTargetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []BareMetalTarget `json:"items"`
}
