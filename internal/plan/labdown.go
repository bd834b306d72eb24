// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
)

// labDown is the message of an object whose lab was stopped.
const labDown = "the lab was stopped, and the machine with it; both start again with \"make up\", or with the manager's pod"

// LabDownTarget returns the status of a target whose lab was stopped. Its machine, in
// state m, is off.
func LabDownTarget(s v1alpha1.BareMetalTargetStatus, m machine.State, now time.Time) v1alpha1.BareMetalTargetStatus {
	out := *s.DeepCopy()
	out.Phase = v1alpha1.TargetStopped
	out.Progress = ""
	out.Message = labDown
	out.Power = v1alpha1.PowerOff
	out.Timeline = Timeline(out.Timeline, out.Phase, now)
	setConditions(&out.Conditions, out.ObservedGeneration, now, MachineCondition(m),
		condition(v1alpha1.ConditionProgressing, false, v1alpha1.ReasonLabDown, labDown),
		condition(v1alpha1.ConditionReady, false, v1alpha1.ReasonLabDown, labDown))
	return out
}

// LabDownServer returns the status of a server whose lab was stopped. Its machine, in
// state m, is off, and netbootd with it.
func LabDownServer(s v1alpha1.ProvisioningServerStatus, m machine.State, now time.Time) v1alpha1.ProvisioningServerStatus {
	out := *s.DeepCopy()
	out.Phase = v1alpha1.ServerStopped
	out.Message = labDown
	out.PoweredOnAt = nil
	setConditions(&out.Conditions, out.ObservedGeneration, now, MachineCondition(m))
	for _, kind := range netbootdConditions {
		setConditions(&out.Conditions, out.ObservedGeneration, now, condition(kind, false, v1alpha1.ReasonLabDown, labDown))
	}
	setConditions(&out.Conditions, out.ObservedGeneration, now, condition(v1alpha1.ConditionReady, false, v1alpha1.ReasonLabDown, labDown))
	return out
}
