// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/seriallog"
	"github.com/pxelab/pxelab/internal/startrecord"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// Blocker is the reason why a target cannot be reconciled yet. The zero value
// means that nothing blocks it.
type Blocker struct {
	Reason  string
	Message string
	// Terminal blockers persist until the user changes something.
	Terminal bool
	// Transient is set if the blocker resolves itself within moments.
	Transient bool
}

// TargetObservation is what a target's phase and conditions are computed from,
// besides its spec and status.
type TargetObservation struct {
	Blocker Blocker
	// Unfit is an error in the spec of a target that keeps running because it is
	// already installed. Its Terminal is ignored.
	Unfit   Blocker
	Machine machine.State
	// Restarts is set while the machine waits for its restart.
	Restarts Restarts
	// Record describes the content of the disks.
	Record targetdisk.Record
	// ProfileDigest is the digest of the profile's content, "" while the profile
	// is not ready.
	ProfileDigest string
	// Network is what the system's network configuration is compared with, as in
	// UpToDateInput.
	Network netip.Prefix
	// Declared is what the target would be installed with now, nil if that is unknown.
	Declared *netbootapi.Declaration
	// Started is what the machine was last started from.
	Started startrecord.Record
	// OtherDisks is set when the disks are about to be replaced, for example
	// because they belong to another installGeneration. What runs from them is
	// then not the declared system.
	OtherDisks bool
	// Paused is set when the machine must not be changed.
	Paused bool
	// Failure is the error of the last reconciliation step, which is retried.
	Failure error
	// AgentConnected reports whether Seen is current.
	AgentConnected bool
	// Connecting is set while a manager that has just started is connecting to the
	// target's server for the first time.
	Connecting bool
	// Seen is what netbootd observed of the current attempt, nil for nothing.
	Seen *netbootapi.MachineState
	// PowerOn is the ID of the current power-on, as sent to netbootd.
	PowerOn string
	// Diagnosis is the finding in the serial log of the current boot, nil for
	// none or if the log was not read.
	Diagnosis *seriallog.Finding
	// StepSince is when the current Step was first observed, or Furthest if that is a
	// later one.
	StepSince time.Time
	// Furthest is the last step of the network boot that was reached since the
	// power-on. A machine that resets itself returns to earlier ones.
	Furthest Step
	// Earlier is the last finding since StepSince. The log of a boot that has just
	// begun has none yet.
	Earlier *seriallog.Finding
	Now     time.Time
}

// current returns what netbootd observed since the last power-on. Until netbootd
// receives the ID of that power-on it keeps reporting an installation that the
// power-off interrupted, so current drops it.
func (o TargetObservation) current() *netbootapi.MachineState {
	s := o.Seen
	switch {
	case s == nil || s.Install == nil || !s.Install.DoneAt.IsZero() || s.Install.Error != "":
		return s
	case o.PowerOn == "" || s.SSH.PowerOn == "" || s.SSH.PowerOn == o.PowerOn:
		return s
	}
	return &netbootapi.MachineState{Attempt: s.Attempt, Warnings: s.Warnings}
}

// TargetOutcome is the result of [TargetStatus]: the content of a target's status.
type TargetOutcome struct {
	Phase    v1alpha1.TargetPhase
	Progress string
	Message  string
	Install  *v1alpha1.InstallProgress
	// Unobserved is set when nothing but the machine's state was observed since the
	// manager started.
	Unobserved bool
	// Stalled is set when the target makes no progress; Reason and Message
	// contain the step and the cause.
	Stalled bool
	Reason  string
	// Lines are the lines of the serial log that support Message.
	Lines []string
	// Ended reports that the current boot or attempt cannot succeed, so that
	// waiting is pointless.
	Ended bool
	// Recheck is the time until the outcome can change without a new
	// observation, 0 for never.
	Recheck time.Duration
}

// TargetStatus computes the phase, progress and message of a target. An error of the
// reconciliation (o.Failure) takes precedence over every other message.
func TargetStatus(t *v1alpha1.BareMetalTarget, o TargetObservation) TargetOutcome {
	if o.Paused {
		return paused(t, o)
	}
	if out, failed := attemptOutcome(t, o); failed && !o.Blocker.Terminal {
		return withFailure(out, o.Failure)
	}
	if observationPending(t, o) {
		return unobservedOutcome(t, o)
	}
	step := CurrentStep(t, o)
	if o.Blocker.Reason != "" && step.Phase == v1alpha1.TargetPending {
		return withFailure(blocked(o.Blocker), o.Failure)
	}
	out := TargetOutcome{Phase: step.Phase, Progress: step.Name, Reason: phaseReason[step.Phase], Install: installProgress(o.current())}
	if step.Phase == v1alpha1.TargetInstalling {
		out.Progress = fmt.Sprintf("%d%%", out.Install.Percent)
	}
	switch {
	case step == stepCloudInitError:
		out.fail(cloudInitFinding(o.Seen.CloudInit))
		out.Progress = ""
	case step.Phase == v1alpha1.TargetFailed:
		out.fail(seriallog.Installer(o.Seen.Install.Error))
		out.Progress = ""
	case o.Machine.Stall != nil:
		out.Stalled = true
		out.Reason = stallReason(o.Machine.Stall)
		out.Message = o.Machine.Stall.String()
	case o.Blocker.Reason == v1alpha1.ReasonDiskMissing:
		out.Stalled = true
		out.Reason = o.Blocker.Reason
		out.Message = o.Blocker.Message
	case bootFailed(t, o) != nil:
		out.fail(*bootFailed(t, o))
	case step.Phase == v1alpha1.TargetInstalling:
		out.Message = joinNonEmpty(": ", "installer", strings.ToLower(out.Install.Stage), o.current().Install.Waiting)
	case step.Phase == v1alpha1.TargetReady:
		out.Message = readyMessage
	default:
		out.Message = step.Name
	}
	if !o.AgentConnected && step.Phase != v1alpha1.TargetStopped && !out.Stalled {
		out.Message = joinNonEmpty("; ", out.Message, outOfDate)
	}
	if !out.Stalled && step.Limit > 0 && !o.StepSince.IsZero() {
		out.checkStall(t, o, step)
	}
	return withFailure(out, o.Failure)
}

// checkStall marks a target as stalled that has been at a step, or has not come further
// than that step, for longer than the step's limit, and ends the attempt after the
// installation timeout.
func (out *TargetOutcome) checkStall(t *v1alpha1.BareMetalTarget, o TargetObservation, step Step) {
	at, finding := out.Progress, bootFinding(step.Phase, o)
	if bootRank(o.Furthest) > bootRank(step) && bootRank(step) > 0 {
		step = o.Furthest
		at = step.Name
		finding = cmp.Or(finding, o.Earlier)
	}
	patience := math.MaxInt64 * time.Nanosecond
	if step.Phase == v1alpha1.TargetPXE || step.Phase == v1alpha1.TargetInstalling {
		patience = installTimeout(t)
	}
	limit, waited := min(step.Limit, patience), o.Now.Sub(o.StepSince)
	if waited < limit {
		out.Recheck = limit - waited
		return
	}
	if waited < patience {
		out.Recheck = patience - waited
	}
	// While the server is disconnected, progress would go unnoticed.
	out.Ended = waited >= patience && o.AgentConnected
	out.Stalled = true
	out.Reason = step.Stall
	advice := step.Advice + cloudInitPosition(step, o.Seen)
	if f := finding; f != nil {
		advice, out.Lines = f.Explanation, f.Lines
		out.Reason = cmp.Or(findingReason[f.Kind], out.Reason)
	}
	out.Message = fmt.Sprintf("no progress for %s at %q: %s", waited.Round(time.Second), at, advice)
	if at != out.Progress {
		out.Message += fmt.Sprintf(" (the machine has started over, and is at %q)", out.Progress)
	}
	out.Message += lastWarning(o.Seen)
}

const readyMessage = "installed, has phoned home, SSH answers"

// outOfDate ends the message of a target whose server does not respond.
const outOfDate = "the provisioning server does not respond, so this may be out of date"

// withFailure replaces the reason and message of out by those of an error, if
// there is one.
func withFailure(out TargetOutcome, failure error) TargetOutcome {
	if failure != nil {
		out.Stalled = true
		out.Reason = FailureReason(failure)
		out.Message = failure.Error()
	}
	return out
}

var phaseReason = map[v1alpha1.TargetPhase]string{
	v1alpha1.TargetPending:    v1alpha1.ReasonStarting,
	v1alpha1.TargetPXE:        v1alpha1.ReasonNetworkBoot,
	v1alpha1.TargetInstalling: v1alpha1.ReasonInstalling,
	v1alpha1.TargetBooting:    v1alpha1.ReasonBooting,
	v1alpha1.TargetReady:      v1alpha1.ReasonReady,
	v1alpha1.TargetStopped:    v1alpha1.ReasonPoweredOff,
	v1alpha1.TargetFailed:     v1alpha1.ReasonFailed,
}

func blocked(b Blocker) TargetOutcome {
	out := TargetOutcome{Phase: v1alpha1.TargetPending, Reason: b.Reason, Message: b.Message, Stalled: b.Terminal}
	if b.Terminal {
		out.Phase = v1alpha1.TargetFailed
	}
	return out
}

func installProgress(seen *netbootapi.MachineState) *v1alpha1.InstallProgress {
	if seen == nil || seen.Install == nil {
		return nil
	}
	p := &v1alpha1.InstallProgress{Stage: seen.Install.Stage, BytesWritten: seen.Install.BytesWritten, BytesTotal: seen.Install.BytesTotal}
	if p.BytesTotal > 0 {
		// The guest reports the figures, so they may be out of range.
		p.Percent = int32(min(100, max(0, float64(p.BytesWritten)/float64(p.BytesTotal)*100)))
	}
	return p
}

func lastWarning(seen *netbootapi.MachineState) string {
	if seen == nil || len(seen.Warnings) == 0 {
		return ""
	}
	w := seen.Warnings[len(seen.Warnings)-1]
	return fmt.Sprintf(" (last warning: %s: %s)", w.Reason, w.Message)
}

func joinNonEmpty(sep string, parts ...string) string {
	var kept []string
	for _, p := range parts {
		if p != "" {
			kept = append(kept, p)
		}
	}
	return strings.Join(kept, sep)
}
