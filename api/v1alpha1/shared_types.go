// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
)

// Architecture of a machine, as reported by "uname -m".
// +kubebuilder:validation:Enum=x86_64;aarch64
type Architecture string

const (
	// ArchitectureX86_64 is 64-bit x86.
	ArchitectureX86_64 Architecture = "x86_64"
	// ArchitectureAArch64 is 64-bit Arm.
	ArchitectureAArch64 Architecture = "aarch64"
)

// ArtifactSource is the location of a file and the checksum that verifies it.
// +kubebuilder:validation:XValidation:rule="has(self.url) != has(self.path)",message="set exactly one of url and path"
type ArtifactSource struct {
	// URL from which to download the file, over http or https.
	// +optional
	URL ArtifactURL `json:"url,omitempty"`
	// Path of the file, relative to the lab's image folder.
	// +optional
	Path ArtifactPath `json:"path,omitempty"`
	// Checksum of the file.
	Checksum Checksum `json:"checksum"`
}

// ArtifactURL is an http or https URL.
// +kubebuilder:validation:Pattern=`^https?://[^\s]+$`
// +kubebuilder:validation:MaxLength=2048
type ArtifactURL string

// ArtifactPath is a path relative to the lab's image folder.
// +kubebuilder:validation:MaxLength=1024
// +kubebuilder:validation:XValidation:rule="!self.startsWith('/') && !self.split('/').exists(p, p == '..')",message="path must be relative to the lab's image folder and must not contain .."
type ArtifactPath string

// Checksum is "sha256:<hex>", "sha512:<hex>", or the URL (with path, also the path) of a
// checksum file that lists the artifact, in a form that "sha256sum -c" reads or
// distributions publish, such as SHA256SUMS.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=2048
// +kubebuilder:validation:XValidation:rule="!self.matches('(?i)^sha(256|512):') || self.matches('(?i)^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$')",message="checksum must be sha256:<64 hex digits>, sha512:<128 hex digits>, or the location of a SHA256SUMS or SHA512SUMS file"
// +kubebuilder:validation:XValidation:rule="!self.matches('(?i)^([a-z0-9-]+:)?[0-9a-f]{32,}$') || self.matches('(?i)^sha(256|512):')",message="checksum must begin with sha256: or sha512:; other algorithms are not accepted"
type Checksum string

// ImageFormat of a disk image.
// +kubebuilder:validation:Enum=qcow2;raw;raw.gz;raw.xz;raw.zst
type ImageFormat string

const (
	// ImageQCOW2 is a QEMU copy-on-write image.
	ImageQCOW2 ImageFormat = "qcow2"
	// ImageRaw is an uncompressed raw image.
	ImageRaw ImageFormat = "raw"
	// ImageRawGzip is a raw image compressed with gzip.
	ImageRawGzip ImageFormat = "raw.gz"
	// ImageRawXZ is a raw image compressed with xz.
	ImageRawXZ ImageFormat = "raw.xz"
	// ImageRawZstd is a raw image compressed with Zstandard.
	ImageRawZstd ImageFormat = "raw.zst"
)

// ImageSource is the location, checksum and format of a disk image.
type ImageSource struct {
	ArtifactSource `json:",inline"`
	// Format of the image.
	// +kubebuilder:default=qcow2
	Format ImageFormat `json:"format,omitempty"`
}

// Machine describes the size of a virtual machine.
type Machine struct {
	// CPUs is the number of virtual CPUs.
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=64
	CPUs int32 `json:"cpus,omitempty"`
	// Memory is the size of the machine's memory, at least 512Mi.
	// +kubebuilder:default="1Gi"
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('512Mi')) >= 0",message="memory must be at least 512Mi"
	Memory resource.Quantity `json:"memory,omitzero"`
}

// Consoles locates the consoles of a machine on the host that runs it.
type Consoles struct {
	// SerialLog is the path of the log of the serial console.
	SerialLog string `json:"serialLog,omitempty"`
	// SerialSocket is the path of the UNIX socket of the serial console.
	SerialSocket string `json:"serialSocket,omitempty"`
	// VNCSocket is the path of the UNIX socket of the graphical console (VNC); empty
	// if the machine has none, as a simulated one.
	VNCSocket string `json:"vncSocket,omitempty"`
}

// LocalObjectReference refers to an object in the same namespace.
type LocalObjectReference struct {
	// Name of the referenced object.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// TextSource is a text, given inline or in a Secret.
// +kubebuilder:validation:XValidation:rule="has(self.inline) != has(self.secretRef)",message="set exactly one of inline and secretRef"
type TextSource struct {
	// Inline is the text itself.
	// +optional
	// +kubebuilder:validation:MaxLength=262144
	Inline string `json:"inline,omitempty"`
	// SecretRef selects the key of a Secret that contains the text. The Secret
	// must have the label pxelab.io/secret=template.
	// +optional
	SecretRef *SecretKeyReference `json:"secretRef,omitempty"`
}

// SecretKeyReference selects a key of a Secret in the same namespace.
type SecretKeyReference struct {
	// Name of the Secret.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Key of the Secret's data.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key"`
}

// Conditions of every kind. The reason of a condition is one of the Reason
// constants.
const (
	// ConditionReady reports whether the object is in its declared state.
	ConditionReady = "Ready"
	// ConditionValid reports whether the spec is valid, also in combination with
	// the objects that it refers to. If False, the message names the field to
	// change.
	ConditionValid = "Valid"
)

// Finalizer keeps an object until its resources on the host are removed.
const Finalizer = "pxelab.io/cleanup"
