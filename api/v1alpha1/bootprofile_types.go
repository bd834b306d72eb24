// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Handoff determines how the installer starts the installed system.
// +kubebuilder:validation:Enum=Auto;Reset;Kexec
type Handoff string

const (
	// HandoffAuto chooses the fastest that is safe.
	HandoffAuto Handoff = "Auto"
	// HandoffReset resets the machine; the firmware then boots from the disk.
	HandoffReset Handoff = "Reset"
	// HandoffKexec starts the installed kernel directly, without the delay of a
	// firmware boot, and falls back to a reset if that is not possible.
	HandoffKexec Handoff = "Kexec"
)

// RootPartition identifies the partition of an image that holds its root file system.
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:MaxProperties=1
type RootPartition struct {
	// Number of the partition, from 1.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=128
	Number int32 `json:"number,omitempty"`
	// Label of the file system, or the name in the partition table.
	// +optional
	// +kubebuilder:validation:MaxLength=255
	Label string `json:"label,omitempty"`
}

// BootImageSource is the location, checksum and format of a disk image, or an
// ImageBuild.
// +kubebuilder:validation:XValidation:rule="[has(self.url), has(self.path), has(self.buildRef)].filter(s, s).size() == 1",message="set exactly one of url, path and buildRef"
// +kubebuilder:validation:XValidation:rule="has(self.checksum) != has(self.buildRef)",message="checksum is required with url and path, and not allowed with buildRef"
type BootImageSource struct {
	// URL from which to download the image, over http or https.
	// +optional
	URL ArtifactURL `json:"url,omitempty"`
	// Path of the image, relative to the lab's image folder.
	// +optional
	Path ArtifactPath `json:"path,omitempty"`
	// BuildRef refers to an ImageBuild. Not supported yet.
	// +optional
	// +kubebuilder:validation:XValidation:rule="false",message="buildRef is not supported yet; use url or path"
	BuildRef *LocalObjectReference `json:"buildRef,omitempty"`
	// Checksum of the image, as of an artifact. Required with url and path.
	// +optional
	Checksum Checksum `json:"checksum,omitempty"`
	// Format of the image.
	// +kubebuilder:default=qcow2
	Format ImageFormat `json:"format,omitempty"`
}

// Artifact returns the location and checksum of the image.
func (s BootImageSource) Artifact() ArtifactSource {
	return ArtifactSource{URL: s.URL, Path: s.Path, Checksum: s.Checksum}
}

// ImageBoot writes a disk image to the target's disk: the distribution's kernel and
// initrd run pxelab's installer.
// +kubebuilder:validation:XValidation:rule="has(self.source.buildRef) ? !has(self.kernel) && !has(self.initrd) : has(self.kernel) && has(self.initrd)",message="kernel and initrd are required, except with source.buildRef, where they are not allowed"
type ImageBoot struct {
	// Source is the disk image to install: a cloud image with cloud-init.
	Source BootImageSource `json:"source"`
	// Kernel is the distribution's kernel, on which the installer runs.
	// +optional
	Kernel *ArtifactSource `json:"kernel,omitempty"`
	// Initrd is the distribution's initrd for that kernel, used for its modules.
	// +optional
	Initrd *ArtifactSource `json:"initrd,omitempty"`
	// KernelArgs are appended to the installer's kernel command line.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self.all(a, !a.matches('[[:cntrl:]]'))",message="kernelArgs must not contain line breaks or other control characters; use one item per argument"
	KernelArgs []string `json:"kernelArgs,omitempty"`
	// Root is the image's root partition. Default: the partition with the type of a
	// root partition, or the only one that holds a Linux system. An image with several
	// systems needs it.
	// +optional
	Root *RootPartition `json:"root,omitempty"`
	// Handoff determines how the installer starts the installed system. Auto is not
	// supported yet.
	// +kubebuilder:default=Reset
	// +kubebuilder:validation:XValidation:rule="self != 'Auto'",message="handoff Auto is not supported yet; use Reset or Kexec"
	Handoff Handoff `json:"handoff,omitempty"`
}

// NamedArtifact is a file that a target can request by its name.
type NamedArtifact struct {
	// Name of the file.
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`
	Name           string `json:"name"`
	ArtifactSource `json:",inline"`
}

// LiveBoot boots a kernel and initrd from the network at every start.
type LiveBoot struct {
	// Kernel to boot.
	Kernel ArtifactSource `json:"kernel"`
	// Initrd of the kernel.
	Initrd ArtifactSource `json:"initrd"`
	// KernelArgs is the kernel's command line.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self.all(a, !a.matches('[[:cntrl:]]'))",message="kernelArgs must not contain line breaks or other control characters; use one item per argument"
	KernelArgs []string `json:"kernelArgs,omitempty"`
	// Files that the system requests.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	Files []NamedArtifact `json:"files,omitempty"`
}

// AnswerFormat is the format of an installer's answer file.
// +kubebuilder:validation:Enum=Autoinstall;Preseed;Kickstart;Custom
type AnswerFormat string

// InstallerBoot boots a distribution's own installer.
type InstallerBoot struct {
	LiveBoot `json:",inline"`
	// ISO of the installer, if it needs one.
	// +optional
	ISO *ArtifactSource `json:"iso,omitempty"`
	// AnswerFormat is the format of the answer file.
	AnswerFormat AnswerFormat `json:"answerFormat"`
	// AnswerFile is a Go text/template for the answer file.
	AnswerFile TextSource `json:"answerFile"`
}

// ReadinessType is what makes a target Ready.
// +kubebuilder:validation:Enum=CloudInit;PhoneHome;SSH;TCP;Installed;Running
type ReadinessType string

const (
	// ReadinessCloudInit requires that the target has phoned home, cloud-init
	// finished without errors, and SSH responds.
	ReadinessCloudInit ReadinessType = "CloudInit"
	// ReadinessPhoneHome requires that the target has phoned home.
	ReadinessPhoneHome ReadinessType = "PhoneHome"
	// ReadinessSSH requires that SSH responds.
	ReadinessSSH ReadinessType = "SSH"
	// ReadinessTCP requires that a TCP port accepts connections.
	ReadinessTCP ReadinessType = "TCP"
	// ReadinessInstalled requires that the installation is complete.
	ReadinessInstalled ReadinessType = "Installed"
	// ReadinessRunning requires that the machine runs.
	ReadinessRunning ReadinessType = "Running"
)

// Readiness determines when a target is Ready.
// +kubebuilder:validation:XValidation:rule="has(self.port) == (self.type == 'TCP')",message="port is required with type TCP, and only allowed with it"
type Readiness struct {
	// Type of the readiness. Only CloudInit is supported yet.
	// +kubebuilder:validation:XValidation:rule="self == 'CloudInit'",message="only readiness CloudInit is supported yet"
	Type ReadinessType `json:"type"`
	// Port is the TCP port that must accept connections.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`
}

// BootProfileSpec is the desired state of a BootProfile: exactly one of image,
// installer, live, iso, efi and script, and what they have in common.
// +kubebuilder:validation:XValidation:rule="[has(self.image), has(self.installer), has(self.live), has(self.iso), has(self.efi), has(self.script)].filter(s, s).size() == 1",message="set exactly one of image, installer, live, iso, efi and script"
// +kubebuilder:validation:XValidation:rule="has(self.image)",message="only image is supported yet; installer, live, iso, efi and script are not"
type BootProfileSpec struct {
	// Architecture of the targets that use this profile.
	// +kubebuilder:default=x86_64
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="architecture cannot be changed; create another BootProfile"
	Architecture Architecture `json:"architecture,omitempty"`
	// Image installs a disk image.
	// +optional
	Image *ImageBoot `json:"image,omitempty"`
	// Installer boots a distribution's own installer. Not supported yet.
	// +optional
	Installer *InstallerBoot `json:"installer,omitempty"`
	// Live boots a kernel and initrd at every start; it never touches a disk. Not
	// supported yet.
	// +optional
	Live *LiveBoot `json:"live,omitempty"`
	// ISO boots a virtual CD. Not supported yet.
	// +optional
	ISO *ArtifactSource `json:"iso,omitempty"`
	// EFI boots one EFI program. Not supported yet.
	// +optional
	EFI *ArtifactSource `json:"efi,omitempty"`
	// Script boots a Go text/template of an iPXE script. Not supported yet.
	// +optional
	Script *TextSource `json:"script,omitempty"`
	// Readiness determines when a target is Ready. Default: CloudInit with image and
	// installer, Running with live, iso, efi and script.
	// +optional
	Readiness *Readiness `json:"readiness,omitempty"`
	// SSHUser is the account for "kubectl lab ssh". The built-in vendor-data
	// creates it with the lab's SSH key, and it is added to the "users:" of a
	// userData that does not name it.
	// +kubebuilder:default=lab
	// +kubebuilder:validation:Pattern=`^[a-z_][a-z0-9_-]{0,31}$`
	SSHUser string `json:"sshUser,omitempty"`
	// UserData is a Go text/template for the cloud-init user-data.
	// +optional
	UserData *TextSource `json:"userData,omitempty"`
	// NetworkConfig is a Go text/template for the cloud-init network
	// configuration (version 2). Default: the target's address, statically
	// configured on its lab NIC.
	// +optional
	NetworkConfig *TextSource `json:"networkConfig,omitempty"`
	// IPXETemplate is a Go text/template that replaces the built-in iPXE
	// script.
	// +optional
	// +kubebuilder:validation:MaxLength=65536
	IPXETemplate string `json:"ipxeTemplate,omitempty"`
}

// Conditions of a BootProfile besides Ready and Valid.
const (
	// ConditionArtifactsReady reports whether kernel, initrd and image are
	// available and verified.
	ConditionArtifactsReady = "ArtifactsReady"
)

// ArtifactStatus is the observed state of an artifact of a profile.
type ArtifactStatus struct {
	// Name of the artifact: kernel, initrd, image or overlay.
	Name string `json:"name"`
	// State of the artifact: Downloading, Converting, Available or Failed.
	State string `json:"state"`
	// Progress of the current step, for example "37%".
	Progress string `json:"progress,omitempty"`
	// Digest of the content that is served to targets.
	Digest string `json:"digest,omitempty"`
	// SizeBytes is the size of the content that is served to targets.
	SizeBytes int64 `json:"sizeBytes,omitempty"`
	// DiskBytes is the disk size that an image requires.
	DiskBytes int64 `json:"diskBytes,omitempty"`
	// Pin is the digest with which the installer verifies an image as it streams.
	Pin string `json:"pin,omitempty"`
	// Message describes the error of a failed artifact.
	Message string `json:"message,omitempty"`
}

// BootProfileStatus is the observed state of a BootProfile.
type BootProfileStatus struct {
	// ObservedGeneration is the generation of the spec that this status describes.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions of the profile.
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Artifacts of the profile.
	// +listType=map
	// +listMapKey=name
	Artifacts []ArtifactStatus `json:"artifacts,omitempty"`
	// Progress summarizes the artifacts that are not available yet.
	Progress string `json:"progress,omitempty"`
	// Digest of everything from which a target is installed.
	Digest string `json:"digest,omitempty"`
}

// BootProfile describes the artifacts and configuration from which targets boot
// and are installed.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=bprof,categories=pxelab
// +kubebuilder:printcolumn:name="Arch",type=string,JSONPath=`.spec.architecture`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Progress",type=string,JSONPath=`.status.progress`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BootProfile struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is the desired state of the profile.
	Spec BootProfileSpec `json:"spec"`
	// Status is the observed state of the profile.
	Status BootProfileStatus `json:"status,omitempty"`
}

// BootProfileList is a list of BootProfiles.
// +kubebuilder:object:root=true
type BootProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []BootProfile `json:"items"`
}
