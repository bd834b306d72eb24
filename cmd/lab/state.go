// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// objectState is the observed state of an object.
type objectState struct {
	// state is printed whenever it changes; detail is for the live line only.
	state, detail string
	done          bool
	// waits is the condition that keeps the object from being done; "" if none does.
	waits string
	// unknown means that the status reports itself that the object was not observed.
	unknown bool
	// failure is why waiting is pointless; empty if it is not.
	failure string
}

// unobservedState returns the state of an object that the manager has not observed yet:
// what its status reports may not hold any more, unless it reports just that.
func unobservedState(s objectState) objectState {
	if !s.unknown {
		return objectState{state: "not observed yet by the manager", detail: "unobserved"}
	}
	s.done = false
	s.failure = ""
	return s
}

// joinNonEmpty joins its non-empty arguments with spaces.
func joinNonEmpty(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " ")
}

func serverState(p *v1alpha1.ProvisioningServer) objectState {
	s := objectState{
		state:  joinNonEmpty(string(p.Status.Phase), p.Status.Message),
		detail: string(p.Status.Phase),
		done:   p.Status.Phase == v1alpha1.ServerReady && p.Status.ObservedGeneration == p.Generation,
	}
	if p.Status.Phase == v1alpha1.ServerFailed && p.Status.ObservedGeneration == p.Generation {
		s.failure = p.Status.Message
	}
	return orWaiting(s.waitingFor(p.Status.Conditions))
}

// terminalReasons lists the reasons that persist until the profile is changed.
var terminalReasons = []string{
	v1alpha1.ReasonInvalid, v1alpha1.ReasonChecksumMismatch, v1alpha1.ReasonNotFound, v1alpha1.ReasonUnsupported,
	v1alpha1.ReasonTooLarge, v1alpha1.ReasonBadTemplate, v1alpha1.ReasonReferenceNotFound, v1alpha1.ReasonArchitectureMismatch,
	v1alpha1.ReasonForbiddenAddress,
}

func profileState(p *v1alpha1.BootProfile) objectState {
	ready := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil || p.Status.ObservedGeneration != p.Generation {
		return orWaiting(objectState{})
	}
	if ready.Status == metav1.ConditionTrue {
		return objectState{state: "Ready", done: true}
	}
	s := objectState{state: joinNonEmpty(ready.Reason, ready.Message), detail: joinNonEmpty(ready.Reason, p.Status.Progress)}
	// The message of a download contains its progress: do not print a line per
	// change.
	if p.Status.Progress != "" {
		s.state = ready.Reason
	}
	if slices.Contains(terminalReasons, ready.Reason) {
		s.failure = ready.Message
	}
	return s.waitingFor(p.Status.Conditions)
}

func targetState(t *v1alpha1.BareMetalTarget) objectState {
	current := t.Status.ObservedGeneration == t.Generation
	s := objectState{
		state:  joinNonEmpty(string(t.Status.Phase), t.Status.Message),
		detail: joinNonEmpty(string(t.Status.Phase), t.Status.Progress),
		done:   current && t.Status.Phase == v1alpha1.TargetReady,
	}
	switch t.Status.Phase {
	case v1alpha1.TargetInstalling:
		// The message changes with every report.
		s.state = joinNonEmpty(string(t.Status.Phase), roundedProgress(t.Status.Install))
	case v1alpha1.TargetStopped:
		s.done = current && t.Spec.Power == v1alpha1.PowerOff
	case v1alpha1.TargetFailed:
		if current {
			s.failure = t.Status.Message
		}
	}
	return orWaiting(s.waitingFor(t.Status.Conditions))
}

// waitingFor sets the condition for which an object waits that is not done: the one that
// reports why it makes no progress, else Ready.
func (s objectState) waitingFor(conditions []metav1.Condition) objectState {
	if s.done {
		return s
	}
	for _, kind := range []string{v1alpha1.ConditionProgressing, v1alpha1.ConditionReady} {
		c := meta.FindStatusCondition(conditions, kind)
		if c == nil || kind == v1alpha1.ConditionProgressing && c.Status != metav1.ConditionFalse {
			continue
		}
		s.waits = fmt.Sprintf("%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message)
		s.unknown = c.Status == metav1.ConditionUnknown
		return s
	}
	return s
}

// roundedProgress returns the progress of an installation, rounded down to a
// quarter, so that few changes are printed.
func roundedProgress(p *v1alpha1.InstallProgress) string {
	if p == nil || p.Stage == "" {
		return ""
	}
	return fmt.Sprintf("%s %d%%", p.Stage, p.Percent/25*25)
}

// orWaiting sets the state of an object that has no status yet.
func orWaiting(s objectState) objectState {
	if s.state == "" {
		s.state, s.detail = "waiting for the manager", "waiting"
	}
	return s
}
