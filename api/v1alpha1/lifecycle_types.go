// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Annotations that a user sets.
const (
	// PausedAnnotation pauses reconciliation: while it is set to any value but
	// "false", the object's machine is left alone and the object is not deleted.
	PausedAnnotation = "pxelab.io/paused"
	// RestartAnnotation on a ProvisioningServer, with any value, shuts down its
	// machine and starts it again, once. The controller removes the annotation
	// when the machine is off.
	RestartAnnotation = "pxelab.io/restart"
)

// Paused reports whether PausedAnnotation pauses the object.
func Paused(o metav1.Object) bool {
	value, set := o.GetAnnotations()[PausedAnnotation]
	return set && value != "false"
}

// Conditions of the life cycle.
const (
	// ConditionPaused is present, and True, while PausedAnnotation is set.
	ConditionPaused = "Paused"
	// ConditionUpToDate of a BareMetalTarget reports whether its machine runs with the
	// current spec and its disk was installed from the current spec, profile and lab
	// network; of a ProvisioningServer, whether the machine runs with its current spec.
	ConditionUpToDate = "UpToDate"
)

// ChangeEffect is what must happen before a change of a spec takes effect.
// +kubebuilder:validation:Enum=PowerOn;Install
type ChangeEffect string

const (
	// AppliesAtPowerOn is the next power-on of the machine.
	AppliesAtPowerOn ChangeEffect = "PowerOn"
	// AppliesAtInstall is the next installation of the target.
	AppliesAtInstall ChangeEffect = "Install"
)

// PendingChange is a field that was changed and whose change has no effect yet.
type PendingChange struct {
	// Field that was changed, such as spec.machine.memory. A field of another object
	// has its kind in front, such as bootProfile.spec.userData.
	Field string `json:"field"`
	// AppliesAt is when the change takes effect.
	AppliesAt ChangeEffect `json:"appliesAt"`
}

// ProfileChangePolicy determines what happens to an installed target when its
// profile changes.
// +kubebuilder:validation:Enum=Keep;Reinstall
type ProfileChangePolicy string

const (
	// ProfileChangeKeep keeps the installed system and sets the condition
	// UpToDate to False.
	ProfileChangeKeep ProfileChangePolicy = "Keep"
	// ProfileChangeReinstall wipes the disks and installs the changed profile
	// once all of its content is available.
	ProfileChangeReinstall ProfileChangePolicy = "Reinstall"
)

// InstallAttempts describes the attempts to install a target.
type InstallAttempts struct {
	// Number of the current or last attempt for diskGeneration, starting at 1.
	Number int64 `json:"number"`
	// Failed is the number of consecutive failed attempts since the target or
	// its profile was last changed.
	Failed int32 `json:"failed,omitempty"`
	// NextAt is the time at which the next attempt starts automatically.
	NextAt *metav1.Time `json:"nextAt,omitempty"`
	// LastFailure describes the most recent failed attempt.
	LastFailure *AttemptFailure `json:"lastFailure,omitempty"`
}

// AttemptFailure describes why an attempt to install a target failed.
type AttemptFailure struct {
	// Number of the attempt.
	Number int64 `json:"number"`
	// Reason is a reason of the condition Progressing.
	Reason string `json:"reason"`
	// Message is a human-readable description of the failure.
	Message string `json:"message"`
	// At is the time at which the failure was detected.
	At metav1.Time `json:"at"`
}
