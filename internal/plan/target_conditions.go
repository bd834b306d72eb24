// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// TargetConditions returns a target's conditions for an outcome, Ready last.
func TargetConditions(t *v1alpha1.BareMetalTarget, o TargetObservation, out TargetOutcome) []Condition {
	valid := condition(v1alpha1.ConditionValid, true, v1alpha1.ReasonValid, "the spec is valid")
	invalid := o.Blocker.Terminal && o.Blocker.Reason != v1alpha1.ReasonDiskMissing // the spec is not the cause of that
	if invalid || o.Blocker.Reason == v1alpha1.ReasonReferenceNotFound {
		valid = condition(v1alpha1.ConditionValid, false, o.Blocker.Reason, o.Blocker.Message)
	} else if o.Unfit.Reason != "" {
		valid = condition(v1alpha1.ConditionValid, false, o.Unfit.Reason, o.Unfit.Message)
	}
	installed := condition(v1alpha1.ConditionInstalled, IsInstalled(t), v1alpha1.ReasonInstalled,
		fmt.Sprintf("the disk holds installation generation %d", t.Status.InstalledGeneration))
	if warnings := o.Record.Warnings; len(warnings) > 0 {
		installed.Reason = v1alpha1.ReasonInstalledWithWarnings
		installed.Message += "; " + strings.Join(warnings, "; ")
	}
	if !IsInstalled(t) {
		installed.Reason = v1alpha1.ReasonNotInstalled
		installed.Message = fmt.Sprintf("installation generation %d is not complete", Generation(t))
	}
	machine := MachineCondition(o.Machine)
	if o.Restarts.Count > 0 {
		machine = o.Restarts.Condition(o.Machine)
	} else if IsWaiting(o.Blocker.Reason) && !o.Machine.Phase.Alive() {
		machine = WaitingCondition(o.Blocker)
	}
	ready := condition(v1alpha1.ConditionReady, out.Phase == v1alpha1.TargetReady, out.Reason, out.Message)
	if out.Phase == v1alpha1.TargetReady {
		ready.Reason, ready.Message = v1alpha1.ReasonReady, readyMessage
	}
	progressing := condition(v1alpha1.ConditionProgressing, !out.Stalled, out.Reason, MessageWithLog(out))
	if out.Unobserved {
		ready = unknown(v1alpha1.ConditionReady, v1alpha1.ReasonNotYetObserved, out.Message)
		if !out.Stalled {
			progressing.Status = metav1.ConditionUnknown
		}
	}
	in := upToDateInput(o)
	in.Pending = PendingChanges(t, o)
	return []Condition{valid, machine, installed, UpToDateCondition(t, o.Record, in), progressing, ready}
}
