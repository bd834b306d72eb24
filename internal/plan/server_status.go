// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/startrecord"
)

// ServerOutcome is the status of a server whose machine was started.
type ServerOutcome struct {
	Phase   v1alpha1.ServerPhase
	Message string
	// PoweredOnAt is the power-on that the status describes, nil while the machine
	// is off.
	PoweredOnAt *metav1.MicroTime
	// Conditions has Ready last.
	Conditions []Condition
}

// ServerStatus computes a server's status once its machine was started.
func ServerStatus(o ServerObservation) ServerOutcome {
	conditions := ServerConditions(o)
	ready := conditions[len(conditions)-1]
	out := ServerOutcome{
		Phase: v1alpha1.ServerBooting, Message: ready.Message, PoweredOnAt: poweredOnAt(o.Machine), Conditions: conditions,
	}
	switch {
	case ready.Status == metav1.ConditionTrue:
		out.Phase = v1alpha1.ServerReady
		if o.Upload != "" {
			out.Message = o.Upload
		}
		if o.Invalid != nil {
			out.Message = "keeps its last valid configuration: " + o.Invalid.Error()
		}
	case o.WasReady:
		out.Phase = v1alpha1.ServerDegraded
	}
	return out
}

// poweredOnAt returns the start of the machine's process with the precision of the API,
// nil while the machine is off.
func poweredOnAt(m machine.State) *metav1.MicroTime {
	if !m.Phase.Alive() || m.StartedAt.IsZero() {
		return nil
	}
	at := microTime(m.StartedAt.Truncate(time.Microsecond))
	return &at
}

// DescribesPowerOn reports whether a server's status describes the current power-on of
// its machine, in the machine's current run state. Such a status holds while a manager
// that has just started connects to netbootd.
func DescribesPowerOn(s *v1alpha1.ProvisioningServerStatus, m machine.State) bool {
	at := poweredOnAt(m)
	if at == nil || !at.Equal(s.PoweredOnAt) {
		return false
	}
	was, is := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionMachineRunning), MachineCondition(m)
	return was != nil && was.Status == is.Status && was.Reason == is.Reason
}

// MachineUpToDate returns the condition UpToDate of a server, from the digests of the
// machine that runs and of the one that the spec describes, and the changes that a restart
// would apply.
func MachineUpToDate(
	s *v1alpha1.ProvisioningServer, state machine.State, desired string, started startrecord.Record,
) (Condition, []v1alpha1.PendingChange) {
	if state.Digest == desired {
		return condition(v1alpha1.ConditionUpToDate, true, v1alpha1.ReasonUpToDate, "the machine runs with the current spec"), nil
	}
	pending := PendingStart(ServerStart(s), state, started)
	changed := "what the machine is started from"
	if fields := fieldsOf(pending, v1alpha1.AppliesAtPowerOn); len(fields) > 0 {
		changed = strings.Join(fields, ", ")
	}
	return condition(v1alpha1.ConditionUpToDate, false, v1alpha1.ReasonRestartNeeded, fmt.Sprintf(
		"%s changed since the machine started; restart it to apply the change: kubectl annotate provisioningserver -n %s %s %s=now",
		changed, s.Namespace, s.Name, v1alpha1.RestartAnnotation)), pending
}
