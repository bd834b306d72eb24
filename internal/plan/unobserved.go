// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
)

// A manager that has just started finds statuses that an earlier one wrote. One that
// describes a machine that is off, or that was started since, is stale and is replaced at
// once. Any other holds for the moments until the manager has observed the object, so
// that a restart of a manager writes nothing for objects that did not change.

// poweredOn are the phases that describe a target's machine as running.
var poweredOn = []v1alpha1.TargetPhase{v1alpha1.TargetPXE, v1alpha1.TargetInstalling, v1alpha1.TargetBooting, v1alpha1.TargetReady}

// DescribesRunningTarget reports whether a target's status describes a machine that runs.
func DescribesRunningTarget(s *v1alpha1.BareMetalTargetStatus) bool {
	return slices.Contains(poweredOn, s.Phase) || meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionReady)
}

// IsTargetStale reports whether a target's status describes a machine that runs although
// the machine is off, or was started since.
func IsTargetStale(s *v1alpha1.BareMetalTargetStatus, m machine.State) bool {
	return DescribesRunningTarget(s) && !describesTargetPowerOn(s, m)
}

// describesTargetPowerOn reports whether a target's status was written during the current
// power-on of its machine.
func describesTargetPowerOn(s *v1alpha1.BareMetalTargetStatus, m machine.State) bool {
	if !m.Phase.Alive() || len(s.Timeline) == 0 {
		return false
	}
	since := s.Timeline[len(s.Timeline)-1].StartedAt.Time
	return !m.StartedAt.Truncate(time.Microsecond).After(since)
}

// UnobservedTarget returns what replaces a stale status of a target: nothing but the
// machine's state is known.
func UnobservedTarget(s v1alpha1.BareMetalTargetStatus, m machine.State, now time.Time) v1alpha1.BareMetalTargetStatus {
	out := *s.DeepCopy()
	out.Phase = v1alpha1.TargetPending
	out.Progress = ""
	out.Message = unobservedMessage(m)
	out.Power = powerOf(m)
	out.Timeline = Timeline(out.Timeline, out.Phase, now)
	setConditions(&out.Conditions, out.ObservedGeneration, now, MachineCondition(m),
		unknown(v1alpha1.ConditionProgressing, v1alpha1.ReasonNotYetObserved, out.Message),
		unknown(v1alpha1.ConditionReady, v1alpha1.ReasonNotYetObserved, out.Message))
	return out
}

// IsServerStale reports whether a server's status describes a machine that runs although
// the machine is off or was started since, or reports that the lab is stopped although
// there is a manager.
func IsServerStale(s *v1alpha1.ProvisioningServerStatus, m machine.State) bool {
	if readyReason(s.Conditions) == v1alpha1.ReasonLabDown {
		return true
	}
	at := poweredOnAt(m)
	switch s.Phase {
	case v1alpha1.ServerReady:
	case v1alpha1.ServerBooting, v1alpha1.ServerDegraded:
		if s.PoweredOnAt == nil {
			return false
		}
	default:
		if !meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionReady) {
			return false
		}
	}
	return at == nil || !at.Equal(s.PoweredOnAt)
}

// netbootdConditions are the conditions of a server that only its netbootd can report.
var netbootdConditions = []string{
	v1alpha1.ConditionAgentConnected, v1alpha1.ConditionDHCPReady, v1alpha1.ConditionTFTPReady, v1alpha1.ConditionHTTPReady,
	v1alpha1.ConditionDNSReady, v1alpha1.ConditionNTPReady, v1alpha1.ConditionContentReady,
}

// UnobservedServer returns what replaces a stale status of a server: nothing but the
// machine's state is known.
func UnobservedServer(s v1alpha1.ProvisioningServerStatus, m machine.State, now time.Time) v1alpha1.ProvisioningServerStatus {
	out := *s.DeepCopy()
	out.Phase = v1alpha1.ServerPending
	out.Message = unobservedMessage(m)
	out.PoweredOnAt = nil
	setConditions(&out.Conditions, out.ObservedGeneration, now, MachineCondition(m))
	for _, kind := range append(slices.Clone(netbootdConditions), v1alpha1.ConditionReady) {
		setConditions(&out.Conditions, out.ObservedGeneration, now, unknown(kind, v1alpha1.ReasonNotYetObserved, out.Message))
	}
	return out
}

func unobservedMessage(m machine.State) string {
	return "not observed yet since the manager started; machine: " + MachineCondition(m).Message
}

// StatusHolds reports whether the status that an earlier manager wrote for a target holds
// while this one connects to the target's server for the first time: the machine runs
// since the power-on that the status describes.
func StatusHolds(t *v1alpha1.BareMetalTarget, o TargetObservation) bool {
	if o.Paused {
		t, o = asPaused(t, o)
	}
	return o.Connecting && observationPending(t, o)
}

// observationPending reports whether a running machine has not been observed because its
// server has not connected yet, as after a start of the manager, while its status
// describes the same power-on.
func observationPending(t *v1alpha1.BareMetalTarget, o TargetObservation) bool {
	if o.AgentConnected || o.Seen != nil || o.OtherDisks || t.Spec.Power == v1alpha1.PowerOff {
		return false
	}
	if !describesTargetPowerOn(&t.Status, o.Machine) {
		return false
	}
	return DescribesRunningTarget(&t.Status) || t.Status.Phase == v1alpha1.TargetFailed ||
		readyReason(t.Status.Conditions) == v1alpha1.ReasonNotYetObserved
}

// unobservedOutcome returns the outcome for a target of which nothing but its machine's
// state was observed, because its server does not respond. A phase before Ready stays: it
// began in this power-on, and nothing contradicts it.
func unobservedOutcome(t *v1alpha1.BareMetalTarget, o TargetObservation) TargetOutcome {
	out := TargetOutcome{
		Phase: t.Status.Phase, Progress: t.Status.Progress, Install: t.Status.Install, Unobserved: true,
		Reason: v1alpha1.ReasonNotYetObserved, Message: "not observed: the provisioning server does not respond",
		Stalled: t.Status.Phase == v1alpha1.TargetFailed,
	}
	if out.Phase == v1alpha1.TargetReady {
		out.Phase, out.Progress = v1alpha1.TargetPending, ""
	}
	return withFailure(out, o.Failure)
}

// powerOf returns the power state of a machine.
func powerOf(m machine.State) v1alpha1.PowerState {
	if m.Phase.Alive() {
		return v1alpha1.PowerOn
	}
	return v1alpha1.PowerOff
}

// readyReason returns the reason of the condition Ready, or "".
func readyReason(conditions []metav1.Condition) string {
	if c := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady); c != nil {
		return c.Reason
	}
	return ""
}

func unknown(kind, reason, message string) Condition {
	return Condition{Type: kind, Status: metav1.ConditionUnknown, Reason: reason, Message: message}
}

// setConditions sets conditions that were observed at now.
func setConditions(to *[]metav1.Condition, generation int64, now time.Time, conditions ...Condition) {
	for _, c := range conditions {
		meta.SetStatusCondition(to, metav1.Condition{
			Type: c.Type, Status: c.Status, Reason: c.Reason, Message: c.Message, ObservedGeneration: generation,
			LastTransitionTime: metav1.NewTime(now),
		})
	}
}
