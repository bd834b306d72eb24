// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Handoff is how the installer passes to the installed system.
// +kubebuilder:validation:Enum=Reset;Kexec
type Handoff string

const (
	// HandoffReset resets the machine, whose firmware then boots the disk.
	HandoffReset Handoff = "Reset"
	// HandoffKexec starts the installed kernel directly, which saves the
	// firmware's time; falls back to a reset where that cannot be done.
	HandoffKexec Handoff = "Kexec"
)

// InstallMethod says how the image gets to the disk.
type InstallMethod struct {
	// Handoff to the installed system.
	// +kubebuilder:default=Reset
	Handoff Handoff `json:"handoff,omitempty"`
}

// BootProfileSpec declares what a target boots and becomes.
type BootProfileSpec struct {
	// Architecture of the targets this profile is for.
	// +kubebuilder:default=x86_64
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="architecture cannot be changed; make another BootProfile"
	Architecture Architecture `json:"architecture,omitempty"`
	// Kernel that the installer runs on: the distribution's own.
	Kernel ArtifactSource `json:"kernel"`
	// Initrd of that kernel: the distribution's own, used for its modules.
	Initrd ArtifactSource `json:"initrd"`
	// Image that is written to the disk: a cloud image with cloud-init.
	Image ImageSource `json:"image"`
	// KernelArgs are added to the installer's kernel command line.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	KernelArgs []string `json:"kernelArgs,omitempty"`
	// Install says how the image gets to the disk.
	// +kubebuilder:default={}
	Install InstallMethod `json:"install,omitempty"`
	// SSHUser is the account that pxelab makes by vendor-data, with the lab's
	// key, for "kubectl lab ssh". A userData with its own "users:" list
	// replaces it and must then name an account with {{ .SSHAuthorizedKeys }}.
	// +kubebuilder:default=lab
	// +kubebuilder:validation:Pattern=`^[a-z_][a-z0-9_-]{0,31}$`
	SSHUser string `json:"sshUser,omitempty"`
	// UserData is a Go text/template of cloud-init user-data.
	// +optional
	UserData *TextSource `json:"userData,omitempty"`
	// NetworkConfig is a Go text/template of cloud-init network configuration
	// (version 2). Default: the target's address, static, on its lab NIC.
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
	// ConditionArtifactsReady: kernel, initrd and image are here and verified.
	ConditionArtifactsReady = "ArtifactsReady"
)

// ArtifactStatus is one artifact of a profile.
type ArtifactStatus struct {
	// Name: kernel, initrd, image or overlay.
	Name string `json:"name"`
	// State: Downloading, Converting, Available or Failed.
	State string `json:"state"`
	// Progress of the present step, for example "37%".
	Progress string `json:"progress,omitempty"`
	// Digest of the content that targets get.
	Digest string `json:"digest,omitempty"`
	// SizeBytes of the content that targets get.
	SizeBytes int64 `json:"sizeBytes,omitempty"`
	// DiskBytes is the disk size that an image needs.
	DiskBytes int64 `json:"diskBytes,omitempty"`
	// Pin is what the installer checks an image against while it streams.
	Pin string `json:"pin,omitempty"`
	// Message says what went wrong.
	Message string `json:"message,omitempty"`
}

// BootProfileStatus is what was observed of a profile.
type BootProfileStatus struct {
	// ObservedGeneration of the spec that this status describes.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions of the profile.
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Artifacts of the profile.
	// +listType=map
	// +listMapKey=name
	Artifacts []ArtifactStatus `json:"artifacts,omitempty"`
	// Progress sums up the artifacts that are not here yet.
	Progress string `json:"progress,omitempty"`
	// Digest of everything a target is installed from.
	Digest string `json:"digest,omitempty"`
}

// BootProfile is what a target boots and becomes.
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

	Spec   BootProfileSpec   `json:"spec"`
	Status BootProfileStatus `json:"status,omitempty"`
}

// BootProfileList is a list of profiles.
// +kubebuilder:object:root=true
type BootProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []BootProfile `json:"items"`
}
