// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Annotations that a user sets.
const (
	// PausedAnnotation with any value but "false": nothing is done to the
	// object's machine, and the object is not deleted, until it is removed.
	PausedAnnotation = "pxelab.io/paused"
	// RestartAnnotation on a ProvisioningServer, with any value: its machine is
	// shut down and started anew, once. The annotation is removed by then.
	RestartAnnotation = "pxelab.io/restart"
)

// Paused reports whether an object has PausedAnnotation.
func Paused(o metav1.Object) bool {
	value, set := o.GetAnnotations()[PausedAnnotation]
	return set && value != "false"
}

// Conditions of the life cycle.
const (
	// ConditionPaused is there, and True, while PausedAnnotation is set.
	ConditionPaused = "Paused"
	// ConditionUpToDate of a BareMetalTarget: the disk holds what the profile
	// is now. Of a ProvisioningServer: the machine runs as it is declared now.
	ConditionUpToDate = "UpToDate"
)

// Reasons of the life cycle.
const (
	ReasonPaused         = "Paused"
	ReasonUpToDate       = "UpToDate"
	ReasonProfileChanged = "ProfileChanged"
	ReasonUnknownProfile = "UnknownProfile"
	ReasonRestartNeeded  = "RestartNeeded"
	ReasonRestarting     = "Restarting"
	// ReasonForcedOff: the guest did not obey its power button in time.
	ReasonForcedOff = "ForcedOff"
)

// ProfileChangePolicy is what becomes of an installed target when its profile
// changes.
// +kubebuilder:validation:Enum=Keep;Reinstall
type ProfileChangePolicy string

const (
	// ProfileChangeKeep keeps the system; the condition UpToDate tells.
	ProfileChangeKeep ProfileChangePolicy = "Keep"
	// ProfileChangeReinstall wipes the disks and installs the changed profile,
	// once all of it is there.
	ProfileChangeReinstall ProfileChangePolicy = "Reinstall"
)

// InstallAttempts are the attempts at the installation of a target.
type InstallAttempts struct {
	// Number of the present or last attempt among those of diskGeneration,
	// from 1.
	Number int64 `json:"number"`
	// Failed attempts in a row since the target or its profile was changed.
	Failed int32 `json:"failed,omitempty"`
	// NextAt is when the next attempt begins by itself.
	NextAt *metav1.Time `json:"nextAt,omitempty"`
	// LastFailure says why the last attempt that failed did.
	LastFailure *AttemptFailure `json:"lastFailure,omitempty"`
}

// AttemptFailure is why an attempt at an installation failed.
type AttemptFailure struct {
	// Number of the attempt.
	Number int64 `json:"number"`
	// Reason is one of those of the condition Progressing.
	Reason string `json:"reason"`
	// Message is for people.
	Message string `json:"message"`
	// At is when it was noticed.
	At metav1.Time `json:"at"`
}
