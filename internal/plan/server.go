// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/qemu"
)

func microTime(t time.Time) metav1.MicroTime { return metav1.NewMicroTime(t) }

// ServerObservation is what a server's conditions are computed from once its
// machine was asked to run.
type ServerObservation struct {
	Machine qemu.State
	// Connected, and since when; Error is the last failure otherwise.
	Connected bool
	Error     string
	// RenewError is why netbootd did not take its new credentials.
	RenewError string
	// Silent: netbootd, or its machine, is there and hangs.
	Silent bool
	// State is netbootd's last; meaningful only while connected.
	State agent.State
	// WantedDigest is the document that netbootd ought to have.
	WantedDigest string
	// Upload says how far the content is that goes to the server, for people;
	// empty when nothing does.
	Upload string
	// WasReady tells whether the server has been Ready before.
	WasReady bool
	Now      time.Time
}

// Condition is a condition without its bookkeeping.
type Condition struct {
	Type    string
	Status  metav1.ConditionStatus
	Reason  string
	Message string
}

func condition(kind string, ok bool, reason, message string) Condition {
	status := metav1.ConditionFalse
	if ok {
		status = metav1.ConditionTrue
	}
	return Condition{Type: kind, Status: status, Reason: reason, Message: message}
}

// ServerConditions are the conditions of a server's machine, agent and
// services, Ready last.
func ServerConditions(o ServerObservation) []Condition {
	out := []Condition{MachineCondition(o.Machine)}
	if o.Connected {
		out = append(out, condition(v1alpha1.ConditionAgentConnected, true, v1alpha1.ReasonConnected, joinNonEmpty("; its credentials could not be renewed: ", "netbootd "+o.State.Version+" answers", o.RenewError)))
	} else {
		out = append(out, unconnected(o))
	}
	out = append(out,
		serviceCondition(v1alpha1.ConditionDHCPReady, "dhcp", o),
		serviceCondition(v1alpha1.ConditionTFTPReady, "tftp", o),
		serviceCondition(v1alpha1.ConditionHTTPReady, "http", o),
		contentCondition(o))
	return append(out, readyCondition(out))
}

// MachineCondition says whether a machine runs.
func MachineCondition(m qemu.State) Condition {
	switch m.Phase {
	case qemu.PhaseRunning:
		return condition(v1alpha1.ConditionMachineRunning, true, v1alpha1.ReasonRunning, fmt.Sprintf("runs since %s on %s", m.StartedAt.UTC().Format(time.RFC3339), m.Accelerator))
	case qemu.PhaseNotFound, "":
		return condition(v1alpha1.ConditionMachineRunning, false, v1alpha1.ReasonStarting, "not started yet")
	case qemu.PhaseStopped:
		if m.Exit == nil || m.Exit.Reason == qemu.ExitGuestShutdown || m.Exit.Reason == qemu.ExitStopped {
			return condition(v1alpha1.ConditionMachineRunning, false, v1alpha1.ReasonStopped, poweredOff(m.Exit))
		}
		return condition(v1alpha1.ConditionMachineRunning, false, v1alpha1.ReasonExited, joinNonEmpty(": ", string(m.Exit.Reason), m.Exit.Output))
	default:
		if m.Stall != nil {
			return condition(v1alpha1.ConditionMachineRunning, false, stallReason(m.Stall), m.Stall.String())
		}
		return condition(v1alpha1.ConditionMachineRunning, false, string(m.Phase), "QEMU is in run state "+m.RunState)
	}
}

// FailureReason is the reason of a condition for an error that is tried again.
func FailureReason(err error) string {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return v1alpha1.ReasonNoSpace
	}
	return v1alpha1.ReasonFailed
}

func stallReason(s *qemu.Stall) string {
	if s.NoSpace {
		return v1alpha1.ReasonNoSpace
	}
	return v1alpha1.ReasonDiskError
}

// poweredOff says which way a machine went that was to.
func poweredOff(e *qemu.Exit) string {
	switch {
	case e == nil:
		return "powered off"
	case e.Reason == qemu.ExitGuestShutdown:
		return "powered off by its guest"
	default:
		return "powered off without its guest's doing"
	}
}

// bootPatience is how long a VM may take until its agent answers before the
// failed attempts are worth telling: slow emulation on a busy host.
const bootPatience = 10 * time.Minute

func unconnected(o ServerObservation) Condition {
	const kind = v1alpha1.ConditionAgentConnected
	switch waited := o.Now.Sub(o.Machine.StartedAt); {
	case o.WasReady && o.Silent:
		return condition(kind, false, v1alpha1.ReasonAgentSilent, joinNonEmpty(": ",
			"netbootd is there and does not answer; its watchdog starts it again within a minute, else see the machine's serial log", o.Error))
	case o.WasReady:
		return condition(kind, false, v1alpha1.ReasonDisconnected, joinNonEmpty(": ", "netbootd does not answer any more", o.Error))
	case o.Machine.Phase.Alive() && waited > bootPatience:
		return condition(kind, false, v1alpha1.ReasonConnecting, joinNonEmpty(": ", fmt.Sprintf(
			"netbootd does not answer although the machine runs for %s; see its serial log", waited.Round(time.Minute)), o.Error))
	default:
		return condition(kind, false, v1alpha1.ReasonConnecting, "the machine boots; netbootd does not answer yet")
	}
}

func serviceCondition(kind, name string, o ServerObservation) Condition {
	service := o.State.Services[name]
	switch {
	case !o.Connected:
		return Condition{Type: kind, Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonConnecting, Message: "netbootd does not answer"}
	case service.Serving:
		return condition(kind, true, v1alpha1.ReasonServing, "serves on "+service.Address)
	default:
		return condition(kind, false, v1alpha1.ReasonNotServing, joinNonEmpty(": ", "not serving", service.Error))
	}
}

func contentCondition(o ServerObservation) Condition {
	const kind = v1alpha1.ConditionContentReady
	switch {
	case !o.Connected:
		return Condition{Type: kind, Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonConnecting, Message: "netbootd does not answer"}
	case o.State.ConfigError != "":
		return condition(kind, false, v1alpha1.ReasonFailed, "netbootd refused its configuration: "+o.State.ConfigError)
	case o.Upload != "":
		return condition(kind, false, v1alpha1.ReasonUploading, o.Upload)
	case o.State.ConfigDigest != o.WantedDigest || len(o.State.MissingBlobs) > 0:
		return condition(kind, false, v1alpha1.ReasonUploading, "configuration and content are being sent")
	default:
		return condition(kind, true, v1alpha1.ReasonAvailable, "configuration and content are there")
	}
}

// readyCondition leaves the content out: a server goes on serving its targets
// while the next profile's image is sent.
func readyCondition(conditions []Condition) Condition {
	for _, c := range conditions {
		if c.Status != metav1.ConditionTrue && c.Type != v1alpha1.ConditionContentReady {
			return condition(v1alpha1.ConditionReady, false, c.Reason, c.Type+": "+c.Message)
		}
	}
	return condition(v1alpha1.ConditionReady, true, v1alpha1.ReasonReady, "DHCP, TFTP and HTTP are served")
}
