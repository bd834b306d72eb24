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
	// PowerOn means that the machine is running.
	PowerOn PowerState = "On"
	// PowerOff means that the machine is powered off.
	PowerOff PowerState = "Off"
)

// DiskRetention determines what happens to a target's disks when it is deleted.
// +kubebuilder:validation:Enum=Delete;Retain
type DiskRetention string

const (
	// RetentionDelete deletes the disks.
	RetentionDelete DiskRetention = "Delete"
	// RetentionRetain moves the disks to the host's directory of retained disks.
	RetentionRetain DiskRetention = "Retain"
)

// NetworkBootPolicy determines what an installed target does when its firmware boots
// from the network.
// +kubebuilder:validation:Enum=Disk;Install
type NetworkBootPolicy string

const (
	// NetworkBootDisk continues with the installed system.
	NetworkBootDisk NetworkBootPolicy = "Disk"
	// NetworkBootInstall installs the target again if the network boot was requested
	// out-of-band.
	NetworkBootInstall NetworkBootPolicy = "Install"
)

// Cleaning determines what is erased from the root disk before a target is installed again.
// +kubebuilder:validation:Enum=None;Metadata;Full
type Cleaning string

const (
	// CleaningNone erases nothing: the image is written over what the disk holds.
	CleaningNone Cleaning = "None"
	// CleaningMetadata erases partition tables and file system signatures.
	CleaningMetadata Cleaning = "Metadata"
	// CleaningFull erases everything.
	CleaningFull Cleaning = "Full"
)

// RootDiskHints select the disk to which the image is written. A disk must match all
// of them.
// +kubebuilder:validation:MinProperties=1
type RootDiskHints struct {
	// Name of the disk in spec.machine.disks.
	// +optional
	Name DeviceName `json:"name,omitempty"`
	// Serial number of the disk, in upper or lower case.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Serial string `json:"serial,omitempty"`
	// MinSize is the smallest size of the disk.
	// +optional
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).isGreaterThan(quantity('0'))",message="minSize must be positive"
	MinSize *resource.Quantity `json:"minSize,omitempty"`
	// Model of the disk, in upper or lower case, such as QEMU NVMe Ctrl. A Virtio disk has
	// none.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Model string `json:"model,omitempty"`
}

// ParametersSource is a Secret whose keys and values are parameters.
type ParametersSource struct {
	// SecretRef refers to the Secret.
	SecretRef LocalObjectReference `json:"secretRef"`
}

// BareMetalTargetSpec is the desired state of a BareMetalTarget.
// +kubebuilder:validation:XValidation:rule="!has(self.rootDisk) || !has(self.rootDisk.name) || self.machine.disks.exists(d, d.name == self.rootDisk.name)",message="rootDisk.name must be the name of a disk in machine.disks"
// +kubebuilder:validation:XValidation:rule="has(self.bootProfileRef)",message="bootProfileRef is required: a target without a profile is not supported yet"
type BareMetalTargetSpec struct {
	// ProvisioningServerRef refers to the server to whose lab network the target
	// is attached.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="provisioningServerRef cannot be changed; create another BareMetalTarget"
	ProvisioningServerRef LocalObjectReference `json:"provisioningServerRef"`
	// BootProfileRef refers to the profile from which the target is installed.
	// +optional
	BootProfileRef LocalObjectReference `json:"bootProfileRef,omitzero"`
	// Machine describes the machine.
	// +kubebuilder:default={}
	Machine TargetMachine `json:"machine,omitempty"`
	// RootDisk selects the disk to which the image is written: the first one that
	// matches. Default: the first one. A change applies at the next installation.
	// +optional
	RootDisk *RootDiskHints `json:"rootDisk,omitempty"`
	// Hostname of the installed system. Default: the object's name.
	// +optional
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`
	Hostname string `json:"hostname,omitempty"`
	// Parameters for the profile's templates, available as {{ .Parameters.name }}, or as
	// {{ index .Parameters "the-name" }} if the name has characters other than letters,
	// digits and underscores.
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	// +kubebuilder:validation:XValidation:rule="self.all(k, size(k) >= 1 && size(k) <= 63)",message="parameters must have names of 1 to 63 characters"
	Parameters map[string]string `json:"parameters,omitempty"`
	// ParametersFrom adds parameters from Secrets. Those in parameters take
	// precedence. Not supported yet.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:XValidation:rule="false",message="parametersFrom is not supported yet; use parameters"
	ParametersFrom []ParametersSource `json:"parametersFrom,omitempty"`
	// UserData replaces the profile's template for the cloud-init user-data. Not
	// supported yet.
	// +optional
	// +kubebuilder:validation:XValidation:rule="false",message="userData is not supported here yet; set it in the BootProfile"
	UserData *TextSource `json:"userData,omitempty"`
	// NetworkConfig replaces the profile's template for the cloud-init network
	// configuration. Not supported yet.
	// +optional
	// +kubebuilder:validation:XValidation:rule="false",message="networkConfig is not supported here yet; set it in the BootProfile"
	NetworkConfig *TextSource `json:"networkConfig,omitempty"`
	// Power is the desired power state. If unset, the target is powered on when it
	// is created.
	// +optional
	Power PowerState `json:"power,omitempty"`
	// InstallGeneration is a counter: a value higher than
	// status.highestInstallGeneration wipes the disks and installs the target again.
	// Any other value has no effect.
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	InstallGeneration int64 `json:"installGeneration,omitempty"`
	// OnNetworkBoot determines what an installed target does when its firmware boots
	// from the network. Install is not supported yet.
	// +kubebuilder:default=Disk
	// +kubebuilder:validation:XValidation:rule="self == 'Disk'",message="onNetworkBoot Install is not supported yet; raise installGeneration"
	OnNetworkBoot NetworkBootPolicy `json:"onNetworkBoot,omitempty"`
	// Cleaning keeps the disks when the target is installed again, as those of a real
	// machine, and determines what the installer erases on the root disk before it writes
	// the image. The other disks are not changed. Default: all disks are replaced by blank
	// ones.
	// +optional
	Cleaning Cleaning `json:"cleaning,omitempty"`
	// ProfileChangePolicy determines what happens to an installed target when its
	// profile changes.
	// +kubebuilder:default=Keep
	ProfileChangePolicy ProfileChangePolicy `json:"profileChangePolicy,omitempty"`
	// InstallTimeout is how long an installation may make no progress before the
	// attempt fails.
	// +optional
	// +kubebuilder:default="15m"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1m') && duration(self) <= duration('24h')",message="installTimeout must be between 1m and 24h"
	InstallTimeout metav1.Duration `json:"installTimeout,omitzero"`
	// MaxAttempts is the maximum number of consecutive failed installation
	// attempts. The delay between attempts doubles with each failure. A change of
	// the target or of its profile resets the count.
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MaxAttempts int32 `json:"maxAttempts,omitempty"`
	// DiskRetention determines what happens to the disks when the target is
	// deleted.
	// +kubebuilder:default=Delete
	DiskRetention DiskRetention `json:"diskRetention,omitempty"`
}

// TargetPhase summarizes the state of a target.
type TargetPhase string

const (
	// TargetPending waits for its server, its profile, the start of its machine
	// or the next installation attempt, or was not observed yet by the manager that
	// has just started.
	TargetPending TargetPhase = "Pending"
	// TargetPXE is powered on and boots from the network.
	TargetPXE TargetPhase = "PXE"
	// TargetInstalling runs the installer, which has reported.
	TargetInstalling TargetPhase = "Installing"
	// TargetBooting is installed and boots from its disk.
	TargetBooting TargetPhase = "Booting"
	// TargetReady has phoned home, cloud-init finished without errors, and SSH
	// responds.
	TargetReady TargetPhase = "Ready"
	// TargetStopped is powered off as declared, or because the lab was stopped.
	TargetStopped TargetPhase = "Stopped"
	// TargetFailed requires a change by the user.
	TargetFailed TargetPhase = "Failed"
	// TargetDeleting is being deleted.
	TargetDeleting TargetPhase = "Deleting"
)

// Conditions of a BareMetalTarget besides Ready, Valid, Paused, UpToDate and
// MachineRunning.
const (
	// ConditionInstalled reports whether the disk holds the installation that
	// spec.installGeneration requests.
	ConditionInstalled = "Installed"
	// ConditionProgressing reports whether the target is progressing towards
	// Ready. If False, the reason and message report the step at which it
	// stalled or failed, and why.
	ConditionProgressing = "Progressing"
)

// PhaseRecord is an entry of a target's timeline.
type PhaseRecord struct {
	// Phase that the target entered.
	Phase TargetPhase `json:"phase"`
	// StartedAt is the time at which the target entered the phase.
	StartedAt metav1.MicroTime `json:"startedAt"`
	// Seconds spent in the phase, with one decimal; empty for the current phase.
	Seconds string `json:"seconds,omitempty"`
}

// InstallProgress is the progress of an installation.
type InstallProgress struct {
	// ID of the attempt. It grows with every attempt to install the target.
	ID int64 `json:"id,omitempty"`
	// Stage of the installer: Start, Write, Verify, Partition, Configure, Done or
	// Failed.
	Stage string `json:"stage,omitempty"`
	// Percent of the image that is written.
	Percent int32 `json:"percent"`
	// BytesWritten is the number of bytes of the image written so far.
	BytesWritten int64 `json:"bytesWritten"`
	// BytesTotal is the number of bytes to write.
	BytesTotal int64 `json:"bytesTotal"`
}

// BareMetalTargetStatus is the observed state of a BareMetalTarget.
type BareMetalTargetStatus struct {
	// ObservedGeneration is the generation of the spec that this status describes.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Phase summarizes the conditions.
	Phase TargetPhase `json:"phase,omitempty"`
	// Progress is a human-readable summary of the progress within the phase.
	Progress string `json:"progress,omitempty"`
	// Message describes what the target is doing or waiting for.
	Message string `json:"message,omitempty"`
	// Conditions of the target.
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Install is the progress of the current or last installation.
	Install *InstallProgress `json:"install,omitempty"`
	// Power is the observed power state.
	Power PowerState `json:"power,omitempty"`
	// Hardware that the installer found at its last start.
	Hardware *Hardware `json:"hardware,omitempty"`
	// Accelerator that runs the machine: kvm, hvf or, for software emulation, tcg;
	// simulated if no guest runs.
	Accelerator string `json:"accelerator,omitempty"`
	// NICs of the machine.
	// +listType=map
	// +listMapKey=name
	NICs []NICStatus `json:"nics,omitempty"`
	// Hostname reported by the installed system.
	Hostname string `json:"hostname,omitempty"`
	// SSHUser is the account that "kubectl lab ssh" uses.
	SSHUser string `json:"sshUser,omitempty"`
	// SSHHostKeys reported by the installed system, in authorized_keys format.
	// +listType=atomic
	SSHHostKeys []string `json:"sshHostKeys,omitempty"`
	// Consoles of the machine.
	Consoles Consoles `json:"consoles,omitempty"`
	// Timeline of the phases since the current installation attempt started; at
	// most the latest 32.
	// +listType=atomic
	Timeline []PhaseRecord `json:"timeline,omitempty"`
	// DiskGeneration is the installGeneration for which the disks were created; 0
	// until they are created.
	DiskGeneration int64 `json:"diskGeneration,omitempty"`
	// HighestInstallGeneration is the highest installGeneration for which an
	// installation was started. A higher one in the spec starts another.
	HighestInstallGeneration int64 `json:"highestInstallGeneration,omitempty"`
	// InstalledGeneration is the installGeneration that is installed on the disk;
	// 0 if none is.
	InstalledGeneration int64 `json:"installedGeneration,omitempty"`
	// Attempts to install diskGeneration.
	Attempts *InstallAttempts `json:"attempts,omitempty"`
	// InstalledProfileDigest is the digest of the profile from which the disk was
	// installed.
	InstalledProfileDigest string `json:"installedProfileDigest,omitempty"`
	// PendingChanges lists the fields whose change has no effect yet. Values are
	// compared, not texts: 1Gi and 1024Mi are equal.
	// +listType=atomic
	PendingChanges []PendingChange `json:"pendingChanges,omitempty"`
	// Adoption is where the disks come from if they were adopted.
	Adoption *Adoption `json:"adoption,omitempty"`
	// RootDisk is the name of the disk on which the system is installed or, before
	// that, to which it is to be installed.
	RootDisk DeviceName `json:"rootDisk,omitempty"`
	// DiskPath is the path of the first disk on the host that runs the machine.
	DiskPath string `json:"diskPath,omitempty"`
}

// BareMetalTarget is a UEFI machine that boots from the network and is installed
// from a BootProfile.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=bmt,categories=pxelab
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Progress",type=string,JSONPath=`.status.progress`
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.status.nics[0].addresses[0]`
// +kubebuilder:printcolumn:name="Power",type=string,JSONPath=`.status.power`
// +kubebuilder:printcolumn:name="Profile",type=string,JSONPath=`.spec.bootProfileRef.name`
// +kubebuilder:printcolumn:name="Server",type=string,JSONPath=`.spec.provisioningServerRef.name`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63",message="name must be at most 63 characters"
type BareMetalTarget struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is the desired state of the target.
	Spec BareMetalTargetSpec `json:"spec"`
	// Status is the observed state of the target.
	Status BareMetalTargetStatus `json:"status,omitempty"`
}

// BareMetalTargetList is a list of BareMetalTargets.
// +kubebuilder:object:root=true
type BareMetalTargetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []BareMetalTarget `json:"items"`
}
