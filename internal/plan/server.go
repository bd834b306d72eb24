// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

func microTime(t time.Time) metav1.MicroTime { return metav1.NewMicroTime(t) }

// ServerObservation is what a server's conditions are computed from after the
// start of its machine was requested.
type ServerObservation struct {
	Machine machine.State
	// Connected reports whether netbootd responds.
	Connected bool
	// Error is the last connection error while not connected.
	Error string
	// RenewError is why netbootd did not accept its new credentials, "" if it did.
	RenewError string
	// Silent reports that netbootd accepts connections but does not respond: it
	// hangs, or its machine does.
	Silent bool
	// State is the last state that netbootd reported; meaningful only while
	// connected.
	State netbootapi.State
	// InForce reports whether netbootd serves the current configuration, and
	// ConfigError why it does not accept it, "" if it does.
	InForce     bool
	ConfigError string
	// Pending is how many files and texts are still to be sent.
	Pending int
	// Upload is the human-readable progress of an upload to the server, "" for
	// none.
	Upload string
	// Invalid is why the spec is invalid although the machine runs, nil if it is not:
	// the server keeps its last valid configuration.
	Invalid error
	// WasReady reports whether the server has been Ready before.
	WasReady bool
	Now      time.Time
}

// Condition is a metav1.Condition without the generation and transition time.
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

// ServerConditions returns the conditions of a server's machine, netbootd and
// services, Ready last.
func ServerConditions(o ServerObservation) []Condition {
	out := []Condition{MachineCondition(o.Machine)}
	if o.Connected {
		out = append(out, condition(v1alpha1.ConditionAgentConnected, true, v1alpha1.ReasonConnected,
			joinNonEmpty("; its credentials could not be renewed: ", "netbootd "+o.State.Version+" responds", o.RenewError)))
	} else {
		out = append(out, unconnected(o))
	}
	out = append(out,
		serviceCondition(v1alpha1.ConditionDHCPReady, "dhcp", o),
		serviceCondition(v1alpha1.ConditionTFTPReady, "tftp", o),
		serviceCondition(v1alpha1.ConditionHTTPReady, "http", o),
		serviceCondition(v1alpha1.ConditionDNSReady, "dns", o),
		serviceCondition(v1alpha1.ConditionNTPReady, "ntp", o),
		contentCondition(o))
	return append(out, readyCondition(out))
}

// MachineCondition returns the condition MachineRunning for a machine's state.
func MachineCondition(m machine.State) Condition {
	switch m.Phase {
	case machine.PhaseRunning:
		return condition(v1alpha1.ConditionMachineRunning, true, v1alpha1.ReasonRunning,
			fmt.Sprintf("running since %s on %s", m.StartedAt.UTC().Format(time.RFC3339), m.Accelerator))
	case machine.PhaseStarting:
		return condition(v1alpha1.ConditionMachineRunning, false, v1alpha1.ReasonStarting, "being started")
	case machine.PhaseNotFound, "":
		return condition(v1alpha1.ConditionMachineRunning, false, v1alpha1.ReasonStarting, "not started yet")
	case machine.PhaseStopped:
		if m.Exit == nil || m.Exit.Reason == machine.ExitGuestShutdown || m.Exit.Reason == machine.ExitStopped {
			return condition(v1alpha1.ConditionMachineRunning, false, v1alpha1.ReasonStopped, poweredOff(m.Exit))
		}
		return condition(v1alpha1.ConditionMachineRunning, false, v1alpha1.ReasonExited,
			joinNonEmpty(": ", string(m.Exit.Reason), m.Exit.Output))
	default:
		if m.Stall != nil {
			return condition(v1alpha1.ConditionMachineRunning, false, stallReason(m.Stall), m.Stall.String())
		}
		if m.Problem != "" {
			return condition(v1alpha1.ConditionMachineRunning, false, haltedReason(m.Phase), m.Problem)
		}
		return condition(v1alpha1.ConditionMachineRunning, false, haltedReason(m.Phase), "QEMU is in run state "+m.RunState)
	}
}

// haltedReason returns the reason for a machine whose process is alive but does
// not execute the guest. It never returns Paused, the reason for the annotation.
func haltedReason(p machine.Phase) string {
	switch p {
	case machine.PhasePaused:
		return v1alpha1.ReasonSuspended
	case machine.PhaseInternalError:
		return v1alpha1.ReasonInternalError
	case machine.PhaseUnresponsive:
		return v1alpha1.ReasonUnresponsive
	default:
		return v1alpha1.ReasonFailed
	}
}

// FailureReason returns the reason of a condition for an error after which the
// reconciler retries.
func FailureReason(err error) string {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return v1alpha1.ReasonNoSpace
	}
	return v1alpha1.ReasonFailed
}

func stallReason(s *machine.Stall) string {
	if s.NoSpace {
		return v1alpha1.ReasonNoSpace
	}
	return v1alpha1.ReasonDiskError
}

// poweredOff describes how a machine was powered off.
func poweredOff(e *machine.Exit) string {
	switch {
	case e == nil:
		return "powered off"
	case e.Reason == machine.ExitGuestShutdown:
		return "powered off by its guest"
	default:
		return "powered off without a shutdown of its guest"
	}
}

// bootTimeout is how long a VM may take until its netbootd responds before the
// connection errors are reported; emulation on a busy host is slow.
const bootTimeout = 10 * time.Minute

func unconnected(o ServerObservation) Condition {
	const kind = v1alpha1.ConditionAgentConnected
	switch waited := o.Now.Sub(o.Machine.StartedAt); {
	case o.WasReady && o.Silent:
		return condition(kind, false, v1alpha1.ReasonAgentSilent, joinNonEmpty(": ",
			"netbootd accepts connections but does not respond; "+
				"its watchdog restarts it within a minute, else read the machine's serial log", o.Error))
	case o.WasReady:
		return condition(kind, false, v1alpha1.ReasonDisconnected, joinNonEmpty(": ", "netbootd no longer responds", o.Error))
	case o.Machine.Phase.Alive() && waited > bootTimeout:
		return condition(kind, false, v1alpha1.ReasonConnecting, joinNonEmpty(": ", fmt.Sprintf(
			"netbootd does not respond although the machine has been running for %s; read its serial log", waited.Round(time.Minute)), o.Error))
	default:
		return condition(kind, false, v1alpha1.ReasonConnecting, "the machine is booting; netbootd does not respond yet")
	}
}

func serviceCondition(kind, name string, o ServerObservation) Condition {
	service := o.State.Services[name]
	switch {
	case !o.Connected:
		return unknown(kind, v1alpha1.ReasonConnecting, "netbootd does not respond")
	case service.Serving:
		return condition(kind, true, v1alpha1.ReasonServing, "serving on "+service.Address)
	default:
		return condition(kind, false, v1alpha1.ReasonNotServing, joinNonEmpty(": ", "not serving", service.Error))
	}
}

func contentCondition(o ServerObservation) Condition {
	const kind = v1alpha1.ConditionContentReady
	switch {
	case !o.Connected:
		return unknown(kind, v1alpha1.ReasonConnecting, "netbootd does not respond")
	case o.ConfigError != "":
		return condition(kind, false, v1alpha1.ReasonFailed, "netbootd rejected its configuration: "+o.ConfigError)
	case o.Upload != "":
		return condition(kind, false, v1alpha1.ReasonUploading, o.Upload)
	case !o.InForce || o.Pending > 0:
		return condition(kind, false, v1alpha1.ReasonUploading, "configuration and content are being sent")
	default:
		return condition(kind, true, v1alpha1.ReasonAvailable, "netbootd has the current configuration and all content")
	}
}

// readyCondition ignores ContentReady, because a server keeps serving its targets
// while the image of another profile is uploaded.
func readyCondition(conditions []Condition) Condition {
	for _, c := range conditions {
		if c.Status != metav1.ConditionTrue && c.Type != v1alpha1.ConditionContentReady {
			return condition(v1alpha1.ConditionReady, false, c.Reason, c.Type+": "+c.Message)
		}
	}
	return condition(v1alpha1.ConditionReady, true, v1alpha1.ReasonReady, "DHCP, TFTP, HTTP, DNS and NTP are being served")
}
