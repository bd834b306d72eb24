// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
)

// Architecture of a machine, as the kernel names it.
// +kubebuilder:validation:Enum=x86_64;aarch64
type Architecture string

const (
	ArchitectureX86_64  Architecture = "x86_64"
	ArchitectureAArch64 Architecture = "aarch64"
)

// ArtifactSource names content and how to know that it is the right content.
// +kubebuilder:validation:XValidation:rule="has(self.url) != has(self.path)",message="give exactly one of url and path"
type ArtifactSource struct {
	// URL (http or https) to download from.
	// +optional
	// +kubebuilder:validation:Pattern=`^https?://[^\s]+$`
	// +kubebuilder:validation:MaxLength=2048
	URL string `json:"url,omitempty"`
	// Path of a file below the lab's image folder.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('/') && !self.split('/').exists(p, p == '..')",message="path is relative to the lab's image folder and must not leave it"
	Path string `json:"path,omitempty"`
	// Checksum that the content must have: "sha256:<hex>", "sha512:<hex>", or
	// the URL (for a path: also the path) of a SHA256SUMS or SHA512SUMS file
	// that lists it, as the distributions publish it.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self.startsWith('sha256:') ? self.matches('^sha256:[0-9a-f]{64}$') : (self.startsWith('sha512:') ? self.matches('^sha512:[0-9a-f]{128}$') : true)",message="checksum must be sha256:<64 hex digits>, sha512:<128 hex digits>, or the location of a SHA256SUMS file"
	Checksum string `json:"checksum"`
}

// ImageFormat of a disk image.
// +kubebuilder:validation:Enum=qcow2;raw;raw.gz;raw.xz;raw.zst
type ImageFormat string

const (
	ImageQCOW2   ImageFormat = "qcow2"
	ImageRaw     ImageFormat = "raw"
	ImageRawGzip ImageFormat = "raw.gz"
	ImageRawXZ   ImageFormat = "raw.xz"
	ImageRawZstd ImageFormat = "raw.zst"
)

// ImageSource is a disk image.
type ImageSource struct {
	ArtifactSource `json:",inline"`
	// Format of the image.
	// +kubebuilder:default=qcow2
	Format ImageFormat `json:"format,omitempty"`
}

// Machine is the size of a virtual machine.
type Machine struct {
	// CPUs is the number of virtual CPUs.
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=64
	CPUs int32 `json:"cpus,omitempty"`
	// Memory of the machine, at least 512Mi.
	// +kubebuilder:default="1Gi"
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('512Mi')) >= 0",message="memory must be at least 512Mi"
	Memory resource.Quantity `json:"memory,omitzero"`
}

// Consoles are where a machine's consoles are found on the host that runs it.
type Consoles struct {
	// SerialLog is the file with everything the serial console said.
	SerialLog string `json:"serialLog,omitempty"`
	// SerialSocket is the UNIX socket of the serial console.
	SerialSocket string `json:"serialSocket,omitempty"`
	// VNCSocket is the UNIX socket of the graphical console (RFB).
	VNCSocket string `json:"vncSocket,omitempty"`
}

// LocalObjectReference names an object in the same namespace.
type LocalObjectReference struct {
	// Name of the object.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// TextSource is a text given inline or in a Secret.
// +kubebuilder:validation:XValidation:rule="has(self.inline) != has(self.secretRef)",message="give exactly one of inline and secretRef"
type TextSource struct {
	// Inline text.
	// +optional
	// +kubebuilder:validation:MaxLength=262144
	Inline string `json:"inline,omitempty"`
	// SecretRef selects a key of a Secret in the same namespace.
	// +optional
	SecretRef *SecretKeyReference `json:"secretRef,omitempty"`
}

// SecretKeyReference selects a key of a Secret in the same namespace.
type SecretKeyReference struct {
	// Name of the Secret.
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
	// Key in the Secret's data.
	// +kubebuilder:validation:MinLength=1
	Key string `json:"key"`
}

// Conditions of every kind. Each condition's reason is one of the Reason
// constants of its kind.
const (
	// ConditionReady: the object is what was declared.
	ConditionReady = "Ready"
	// ConditionValid: the declaration makes sense together with the objects
	// it refers to. False names the field to change.
	ConditionValid = "Valid"
)

// Reasons used by more than one kind.
const (
	ReasonReady    = "Ready"
	ReasonValid    = "Valid"
	ReasonInvalid  = "Invalid"
	ReasonDeleting = "Deleting"
	ReasonFailed   = "Failed"

	ReasonReferenceNotFound = "ReferenceNotFound"
	ReasonAddressConflict   = "AddressConflict"
	ReasonAddressOutside    = "AddressOutsideNetwork"
	ReasonBadTemplate       = "BadTemplate"
	ReasonArchMismatch      = "ArchitectureMismatch"

	ReasonDownloading      = "Downloading"
	ReasonConverting       = "Converting"
	ReasonArtifactError    = "ArtifactError"
	ReasonChecksumMismatch = "ChecksumMismatch"
	ReasonUnreachable      = "Unreachable"
	ReasonNotFound         = "NotFound"
	ReasonTruncated        = "Truncated"
	ReasonUnsupported      = "UnsupportedFormat"
	ReasonTooLarge         = "TooLarge"
	ReasonNoSpace          = "NoSpace"
	ReasonAvailable        = "Available"

	ReasonStarting = "Starting"
	ReasonRunning  = "Running"
	ReasonStopped  = "Stopped"
	ReasonExited   = "ProcessExited"
	// ReasonDiskError: the host could not write a machine's disk.
	ReasonDiskError = "DiskError"
)

// Finalizer keeps an object until what was made for it on the host is gone.
const Finalizer = "pxelab.io/cleanup"
