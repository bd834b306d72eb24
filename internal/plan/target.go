// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/diagnosis"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/storage"
)

// Blocker is why a target cannot be acted upon yet. The zero Blocker is none.
type Blocker struct {
	Reason  string
	Message string
	// Terminal blockers need a change by the user.
	Terminal bool
	// Brief blockers end by themselves in a moment.
	Brief bool
}

// TargetObservation is all that a target's phase is computed from.
type TargetObservation struct {
	Blocker Blocker
	// Unfit is what is wrong with the declaration although the target goes on:
	// it is installed already. Its Terminal is not looked at.
	Unfit   Blocker
	Machine qemu.State
	// Record is what the disks hold, ProfileDigest what the profile comes to:
	// "" while it is not ready.
	Record        storage.Record
	ProfileDigest string
	// OtherDisks says that the disks are about to be replaced, as those of
	// another installGeneration: what runs on them is not what was asked for.
	OtherDisks bool
	// Paused says that nothing is done to the machine.
	Paused bool
	// Failure is why the last step of the reconciliation could not be done; it
	// is tried again.
	Failure error
	// AgentConnected tells whether Seen is current.
	AgentConnected bool
	// Seen is what netbootd observed of the present attempt; nil for nothing.
	Seen *agent.MachineState
	// PowerOn is what netbootd was told of the present power-on.
	PowerOn string
	// Diagnosis is what the serial log says of the present boot; nil for
	// nothing, or when nobody looked.
	Diagnosis *diagnosis.Finding
	// StepSince is when the present Step was first observed.
	StepSince time.Time
	Now       time.Time
}

// Step is a point on a target's way that can be observed, finer than a phase.
type Step struct {
	Phase v1alpha1.TargetPhase
	// Name is for people, one or a few words.
	Name string
	// Stall is the reason when the step lasts longer than Limit.
	Stall string
	// Limit is generous: software emulation on a busy host. 0 is no limit.
	Limit time.Duration
	// Advice says what to look at when it stalls.
	Advice string
}

// A target's steps, in the order in which they are passed.
var (
	stepStopped  = Step{Phase: v1alpha1.TargetStopped, Name: "powered off"}
	stepStopping = Step{Phase: v1alpha1.TargetStopped, Name: "shutting down"}
	stepStart    = Step{Phase: v1alpha1.TargetPending, Name: "starting the machine", Stall: v1alpha1.ReasonStarting, Limit: 2 * time.Minute,
		Advice: "see the manager's log and qemu.log in the machine's directory"}
	stepReplace  = Step{Phase: v1alpha1.TargetPending, Name: "waits to be installed anew"}
	stepFirmware = Step{Phase: v1alpha1.TargetPXE, Name: "firmware", Stall: v1alpha1.ReasonNoDiscover, Limit: 3 * time.Minute,
		Advice: "the firmware sent no DHCP DISCOVER: see the serial log; is the lab network up?"}
	stepDHCP = Step{Phase: v1alpha1.TargetPXE, Name: "DHCP", Stall: v1alpha1.ReasonNoRequest, Limit: 2 * time.Minute,
		Advice: "the firmware asked for an address and did not take the offer: does another DHCP server answer on the lab network?"}
	stepProgram = Step{Phase: v1alpha1.TargetPXE, Name: "TFTP", Stall: v1alpha1.ReasonBootProgram, Limit: 3 * time.Minute,
		Advice: "the network boot program was not fetched whole: see the warnings and the serial log"}
	stepScript = Step{Phase: v1alpha1.TargetPXE, Name: "iPXE", Stall: v1alpha1.ReasonNoScript, Limit: 3 * time.Minute,
		Advice: "iPXE did not ask for its script: see the serial log for iPXE's error"}
	stepKernel = Step{Phase: v1alpha1.TargetPXE, Name: "kernel and initrd", Stall: v1alpha1.ReasonNoScript, Limit: 5 * time.Minute,
		Advice: "kernel and initrd were not fetched whole: see the serial log for iPXE's error"}
	stepInstaller = Step{Phase: v1alpha1.TargetPXE, Name: "installer starts", Stall: v1alpha1.ReasonNoInstaller, Limit: 5 * time.Minute,
		Advice: "the kernel was sent and the installer did not report: see the serial log for a kernel panic or a missing driver"}
	stepInstalling = Step{Phase: v1alpha1.TargetInstalling, Stall: v1alpha1.ReasonInstallerSilent, Limit: 5 * time.Minute,
		Advice: "the installer reports no progress: see the serial log"}
	stepInstallError = Step{Phase: v1alpha1.TargetFailed, Name: "installer error", Stall: v1alpha1.ReasonInstallerError}
	stepBootDisk     = Step{Phase: v1alpha1.TargetBooting, Name: "boot from disk", Stall: v1alpha1.ReasonNoPhoneHome, Limit: 10 * time.Minute,
		Advice: "the installed system did not ask for its cloud-init data: see the serial log"}
	stepCloudInit = Step{Phase: v1alpha1.TargetBooting, Name: "cloud-init", Stall: v1alpha1.ReasonNoPhoneHome, Limit: 10 * time.Minute,
		Advice: "cloud-init fetched its data and did not finish: see the serial log, or log in with kubectl lab console"}
	// Between cloud-init's report that it is nearly done and its end are moments,
	// in which a module may still turn out to have failed.
	stepCloudInitEnds  = Step{Phase: v1alpha1.TargetBooting, Name: "cloud-init ends"}
	stepCloudInitError = Step{Phase: v1alpha1.TargetFailed, Name: "cloud-init error", Stall: v1alpha1.ReasonCloudInitFailed}
	stepSSH            = Step{Phase: v1alpha1.TargetBooting, Name: "SSH", Stall: v1alpha1.ReasonNoSSH, Limit: 5 * time.Minute,
		Advice: "the SSH port does not answer: see the serial log; does the image run an SSH server?"}
	stepReady = Step{Phase: v1alpha1.TargetReady, Name: ""}
)

// TargetStep is the step a target is at, from what was observed alone.
func TargetStep(t *v1alpha1.BareMetalTarget, o TargetObservation) Step {
	switch {
	case t.Spec.Power == v1alpha1.PowerOff && o.Machine.Phase.Alive():
		return stepStopping
	case t.Spec.Power == v1alpha1.PowerOff:
		return stepStopped
	case o.OtherDisks:
		return stepReplace
	case !o.Machine.Phase.Alive():
		return stepStart
	case Installed(t):
		return bootStep(t, o)
	}
	return installStep(o.present())
}

// installStep goes by the latest thing that was seen: one before it may have
// been missed.
func installStep(seen *agent.MachineState) Step {
	switch {
	case seen == nil:
		return stepFirmware
	case seen.Install != nil && seen.Install.Error != "":
		return stepInstallError
	case seen.Install != nil:
		step := stepInstalling
		// Every change of stage and bytes is a step of its own, so that a
		// standstill is noticed however slow the whole is.
		step.Name = fmt.Sprintf("%s %d", seen.Install.Stage, seen.Install.BytesWritten)
		return step
	case !seen.KernelAt.IsZero() && !seen.InitrdAt.IsZero():
		return stepInstaller
	case !seen.ScriptAt.IsZero():
		return stepKernel
	case !seen.ProgramAt.IsZero():
		return stepScript
	case !seen.RequestAt.IsZero():
		return stepProgram
	case !seen.DiscoverAt.IsZero():
		return stepDHCP
	default:
		return stepFirmware
	}
}

// bootStep is the way of an installed machine. What it reported of itself once
// counts for every later boot of the same installation: cloud-init phones home
// once per instance.
func bootStep(t *v1alpha1.BareMetalTarget, o TargetObservation) Step {
	phoned := len(t.Status.SSHHostKeys) > 0 || (o.Seen != nil && o.Seen.PhoneHome != nil)
	switch {
	case !phoned && (o.Seen == nil || o.Seen.CloudInitAt.IsZero()):
		return stepBootDisk
	case cloudInitFailed(o.Seen, phoned):
		return stepCloudInitError
	case !phoned:
		return stepCloudInit
	case cloudInitEnds(o):
		return stepCloudInitEnds
	case o.Seen != nil && o.Seen.SSH.Up && o.Seen.SSH.PowerOn == o.PowerOn && o.PowerOn != "":
		return stepReady
	default:
		return stepSSH
	}
}

// TargetOutcome is what a target's status says.
type TargetOutcome struct {
	Phase    v1alpha1.TargetPhase
	Progress string
	Message  string
	Install  *v1alpha1.InstallProgress
	// Stalled is set when the target does not move; Reason and Message say
	// where and why.
	Stalled bool
	Reason  string
	// Lines are the machine's own last words on it.
	Lines []string
	// Ended is set when the present attempt to install comes to nothing,
	// however long one waits.
	Ended bool
	// Recheck is when the outcome changes by time alone; 0 for never.
	Recheck time.Duration
}

// Target computes what to say of a target.
func Target(t *v1alpha1.BareMetalTarget, o TargetObservation) TargetOutcome {
	if o.Paused {
		return paused(t, o)
	}
	if out, failed := attemptOutcome(t, o); failed && !o.Blocker.Terminal {
		return failing(out, o.Failure)
	}
	if unknown(t, o) {
		return unchanged(t, o)
	}
	step := TargetStep(t, o)
	if o.Blocker.Reason != "" && step.Phase == v1alpha1.TargetPending {
		return failing(blocked(o.Blocker), o.Failure)
	}
	out := TargetOutcome{Phase: step.Phase, Progress: step.Name, Reason: phaseReason[step.Phase], Install: installProgress(o.present())}
	if step.Phase == v1alpha1.TargetInstalling {
		out.Progress = fmt.Sprintf("%d%%", out.Install.Percent)
	}
	switch {
	case step == stepCloudInitError:
		out.fails(cloudInitFinding(o.Seen.CloudInit))
		out.Progress = ""
	case step.Phase == v1alpha1.TargetFailed:
		out.fails(diagnosis.Installer(o.Seen.Install.Error))
		out.Progress = ""
	case o.Machine.Stall != nil:
		out.Stalled, out.Reason, out.Message = true, stallReason(o.Machine.Stall), o.Machine.Stall.String()
	case bootFailed(t, o) != nil:
		out.fails(*bootFailed(t, o))
	case step.Phase == v1alpha1.TargetInstalling:
		out.Message = "installer: " + strings.ToLower(out.Install.Stage)
	case step.Phase == v1alpha1.TargetReady:
		out.Message = readyMessage
	default:
		out.Message = step.Name
	}
	if !o.AgentConnected && step.Phase != v1alpha1.TargetStopped && !out.Stalled {
		out.Message = joinNonEmpty("; ", out.Message, outOfDate)
	}
	if !out.Stalled && step.Limit > 0 && !o.StepSince.IsZero() {
		out.standsStill(t, o, step)
	}
	return failing(out, o.Failure)
}

// standsStill says so of a target that is at a step for too long, and when that
// ends its attempt.
func (out *TargetOutcome) standsStill(t *v1alpha1.BareMetalTarget, o TargetObservation, step Step) {
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
	// Without its server it is not known whether it moves.
	out.Ended = waited >= patience && o.AgentConnected
	out.Stalled, out.Reason = true, step.Stall
	advice := step.Advice + cloudInitPlace(step, o.Seen)
	if f := finding(step.Phase, o); f != nil {
		advice, out.Lines = f.Explanation, f.Lines
		out.Reason = cmp.Or(findingReason[f.Kind], out.Reason)
	}
	out.Message = fmt.Sprintf("no progress for %s at %q: %s", waited.Round(time.Second), out.Progress, advice)
	out.Message += lastWarning(o.Seen)
}

const readyMessage = "installed, has phoned home, SSH answers"

// outOfDate ends the message of a target whose server is away.
const outOfDate = "the provisioning server does not answer, so this may be out of date"

// unknown reports whether nothing can be said of a running machine because its
// server has not been heard yet, as when the manager has just started, while
// its status speaks of the same power-on.
func unknown(t *v1alpha1.BareMetalTarget, o TargetObservation) bool {
	if o.AgentConnected || o.Seen != nil || o.OtherDisks || !o.Machine.Phase.Alive() || t.Spec.Power == v1alpha1.PowerOff || len(t.Status.Timeline) == 0 {
		return false
	}
	since := t.Status.Timeline[len(t.Status.Timeline)-1].StartedAt.Time
	switch t.Status.Phase {
	case v1alpha1.TargetPXE, v1alpha1.TargetInstalling, v1alpha1.TargetBooting, v1alpha1.TargetReady, v1alpha1.TargetFailed:
		return !o.Machine.StartedAt.Truncate(time.Microsecond).After(since)
	}
	return false
}

// unchanged is what the status said already.
func unchanged(t *v1alpha1.BareMetalTarget, o TargetObservation) TargetOutcome {
	out := TargetOutcome{Phase: t.Status.Phase, Progress: t.Status.Progress, Reason: phaseReason[t.Status.Phase], Install: t.Status.Install}
	out.Message = joinNonEmpty("; ", strings.TrimSuffix(strings.TrimSuffix(t.Status.Message, outOfDate), "; "), outOfDate)
	out.Stalled = out.Phase == v1alpha1.TargetFailed
	return failing(out, o.Failure)
}

// failing puts an error before all else there is to say.
func failing(out TargetOutcome, failure error) TargetOutcome {
	if failure != nil {
		out.Stalled, out.Reason, out.Message = true, FailureReason(failure), failure.Error()
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

func installProgress(seen *agent.MachineState) *v1alpha1.InstallProgress {
	if seen == nil || seen.Install == nil {
		return nil
	}
	p := &v1alpha1.InstallProgress{Stage: seen.Install.Stage, BytesWritten: seen.Install.BytesWritten, BytesTotal: seen.Install.BytesTotal}
	if p.BytesTotal > 0 {
		// The figures are the guest's: they need not make sense.
		p.Percent = int32(min(100, max(0, float64(p.BytesWritten)/float64(p.BytesTotal)*100)))
	}
	return p
}

func lastWarning(seen *agent.MachineState) string {
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

// TargetConditions are a target's conditions for an outcome, Ready last.
func TargetConditions(t *v1alpha1.BareMetalTarget, o TargetObservation, out TargetOutcome) []Condition {
	valid := condition(v1alpha1.ConditionValid, true, v1alpha1.ReasonValid, "the declaration makes sense")
	if o.Blocker.Reason != "" && (o.Blocker.Terminal || o.Blocker.Reason == v1alpha1.ReasonReferenceNotFound) {
		valid = condition(v1alpha1.ConditionValid, false, o.Blocker.Reason, o.Blocker.Message)
	} else if o.Unfit.Reason != "" {
		valid = condition(v1alpha1.ConditionValid, false, o.Unfit.Reason, o.Unfit.Message)
	}
	installed := condition(v1alpha1.ConditionInstalled, Installed(t), v1alpha1.ReasonInstalled,
		fmt.Sprintf("the disk holds installation %d", t.Status.InstalledGeneration))
	if !Installed(t) {
		installed.Reason, installed.Message = v1alpha1.ReasonNotInstalled, fmt.Sprintf("installation %d is not complete", t.Spec.InstallGeneration)
	}
	machine := MachineCondition(o.Machine)
	ready := condition(v1alpha1.ConditionReady, out.Phase == v1alpha1.TargetReady, out.Reason, out.Message)
	if out.Phase == v1alpha1.TargetReady {
		ready.Reason, ready.Message = v1alpha1.ReasonReady, readyMessage
	}
	return []Condition{valid, machine, installed, UpToDate(t, o.Record, o.ProfileDigest),
		condition(v1alpha1.ConditionProgressing, !out.Stalled, out.Reason, WithLines(out)), ready}
}

// PhaseStart is when a phase that is observed now began. A network boot began
// with the machine's power-on, which is known exactly; so did the boot of an
// installed machine that was started anew.
func PhaseStart(phase v1alpha1.TargetPhase, records []v1alpha1.PhaseRecord, powerOn, now time.Time) time.Time {
	if powerOn.IsZero() || len(records) == 0 {
		return now
	}
	last := records[len(records)-1]
	switch phase {
	case v1alpha1.TargetPXE, v1alpha1.TargetBooting:
		if powerOn.After(last.StartedAt.Time) && powerOn.Before(now) &&
			(last.Phase == v1alpha1.TargetPending || last.Phase == v1alpha1.TargetStopped) {
			return powerOn
		}
	}
	return now
}

// maxTimeline bounds a status' timeline.
const maxTimeline = 32

// Timeline is records with the present phase added, if it is a new one. at is
// when the phase began; the records before it are closed with their duration.
// The records given are not changed.
func Timeline(records []v1alpha1.PhaseRecord, phase v1alpha1.TargetPhase, at time.Time) []v1alpha1.PhaseRecord {
	if n := len(records); n > 0 {
		records = slices.Clone(records)
		last := &records[n-1]
		if last.Phase == phase {
			return records
		}
		if at.Before(last.StartedAt.Time) {
			at = last.StartedAt.Time
		}
		last.Seconds = fmt.Sprintf("%.1f", at.Sub(last.StartedAt.Time).Seconds())
	}
	records = append(records, v1alpha1.PhaseRecord{Phase: phase, StartedAt: microTime(at)})
	if len(records) > maxTimeline {
		records = records[len(records)-maxTimeline:]
	}
	return records
}
