// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// Defaults for targets that were created before these fields existed.
const (
	defaultInstallTimeout = 15 * time.Minute
	defaultMaxAttempts    = 3
)

func installTimeout(t *v1alpha1.BareMetalTarget) time.Duration {
	if d := t.Spec.InstallTimeout.Duration; d > 0 {
		return d
	}
	return defaultInstallTimeout
}

func maxAttempts(t *v1alpha1.BareMetalTarget) int {
	if n := t.Spec.MaxAttempts; n > 0 {
		return int(n)
	}
	return defaultMaxAttempts
}

// The pause between attempts doubles from firstPause to longestPause.
const (
	firstPause   = 30 * time.Second
	longestPause = 10 * time.Minute
)

func pauseAfter(failures int) time.Duration {
	return min(firstPause<<min(max(failures-1, 0), 8), longestPause)
}

// ConsecutiveFailures returns the number of consecutive failed attempts at the current spec
// and profile. profileDigest is the digest of the profile's content; "", while
// the profile is not ready, does not count as a change.
func ConsecutiveFailures(t *v1alpha1.BareMetalTarget, r targetdisk.Record, profileDigest string) int {
	f := r.Failure
	switch {
	case f == nil || f.Attempt.Generation != r.Generation || f.Declared != t.Generation:
		return 0
	case profileChanged(f.ProfileDigest, profileDigest):
		return 0
	}
	return r.Failures
}

// AttemptsStatus returns the status of the installation attempts in a record, or nil
// if there was none.
func AttemptsStatus(t *v1alpha1.BareMetalTarget, r targetdisk.Record, profileDigest string) *v1alpha1.InstallAttempts {
	if r.Generation == 0 {
		return nil
	}
	failures := ConsecutiveFailures(t, r, profileDigest)
	out := &v1alpha1.InstallAttempts{Number: r.Number, Failed: int32(min(failures, 1<<30))}
	if f := r.Failure; f != nil {
		out.LastFailure = &v1alpha1.AttemptFailure{Number: f.Attempt.Number, Reason: f.Reason, Message: f.Message, At: metav1.NewTime(f.At)}
		if r.Failed() && failures > 0 && failures < maxAttempts(t) {
			next := metav1.NewTime(f.At.Add(pauseAfter(failures)))
			out.NextAt = &next
		}
	}
	return out
}

// DiskObservation is what [DecideDisks] decides from, besides the target's spec.
type DiskObservation struct {
	Record targetdisk.Record
	// ProfileDigest is the digest of the profile's content, "" while the profile
	// is not ready.
	ProfileDigest string
	// Refused reports that the spec is invalid for an installation.
	Refused bool
	// Unserved is why the server cannot serve an installation now. It needs to
	// be set only if [NeedsReinstall] returns true.
	Unserved Blocker
	// Alive reports whether the machine is running.
	Alive bool
	// Done reports that the installer completed the current attempt.
	Done bool
	// Missing is the path of a disk that the record describes and that does not exist,
	// "" for none.
	Missing string
	Now     time.Time
}

// DiskDecision is what to do with a target's disks.
type DiskDecision struct {
	// Prepare is the attempt to create blank disks for; the zero Attempt keeps
	// the disks.
	Prepare targetdisk.Attempt
	// Blocker is why the disks are kept although the spec requires others.
	Blocker Blocker
	// Recheck is the time until the decision can change without a new
	// observation, 0 for never.
	Recheck time.Duration
}

// NeedsReinstall reports whether the spec or profile requires another system than the
// installed one. Only then does it matter whether the server can serve it.
func NeedsReinstall(t *v1alpha1.BareMetalTarget, r targetdisk.Record, profileDigest string) bool {
	return r.Installed && (r.Generation < Generation(t) || behind(r, profileDigest))
}

// ReinstallWanted reports whether a target that [NeedsReinstall] is installed again as
// soon as its server can serve it. With profileChangePolicy Keep, a changed profile alone
// is not a reason.
func ReinstallWanted(t *v1alpha1.BareMetalTarget, r targetdisk.Record) bool {
	return r.Generation < Generation(t) || t.Spec.ProfileChangePolicy == v1alpha1.ProfileChangeReinstall
}

// decideDisks is DecideDisks without the report of a lost disk.
func decideDisks(t *v1alpha1.BareMetalTarget, o DiskObservation) DiskDecision {
	r, declared := o.Record, Generation(t)
	switch {
	case o.Refused || t.Spec.Power == v1alpha1.PowerOff:
		return DiskDecision{}
	case r.Generation == 0:
		return DiskDecision{Prepare: targetdisk.Attempt{ID: LastAttempt(t)}.Begin(declared)}
	case r.Generation < declared:
		return replace(t, o)
	case r.Void:
		return DiskDecision{Prepare: r.Attempt}
	case r.Installed:
		if t.Spec.ProfileChangePolicy == v1alpha1.ProfileChangeReinstall && behind(r, o.ProfileDigest) {
			return renew(o)
		}
		return DiskDecision{}
	case r.Failed() && !o.Done:
		return retry(t, o)
	case o.Missing != "" && !o.Done:
		return DiskDecision{Prepare: r.Next()}
	}
	return DiskDecision{}
}

// replace decides for a target whose installGeneration was raised.
func replace(t *v1alpha1.BareMetalTarget, o DiskObservation) DiskDecision {
	switch {
	case o.ProfileDigest == "":
		return DiskDecision{Blocker: Blocker{Reason: v1alpha1.ReasonWaitingForProfile, Message: fmt.Sprintf(
			"profile %s is not ready; the disk is kept until it is", t.Spec.BootProfileRef.Name)}}
	case o.Record.Installed && o.Unserved.Reason != "":
		b := o.Unserved
		b.Message += "; the disk is kept until then"
		return DiskDecision{Blocker: b}
	}
	return DiskDecision{Prepare: o.Record.Begin(Generation(t))}
}

// renew decides for an installed target whose profile has changed.
func renew(o DiskObservation) DiskDecision {
	switch {
	case o.Unserved.Reason == "":
		return DiskDecision{Prepare: o.Record.Next()}
	case o.Unserved.Transient && !o.Alive:
		// The machine was stopped for the installation: do not start the old
		// system again in between.
		return DiskDecision{Blocker: o.Unserved}
	}
	return DiskDecision{}
}

// retry decides for a target whose attempt failed.
func retry(t *v1alpha1.BareMetalTarget, o DiskObservation) DiskDecision {
	again := DiskDecision{Prepare: o.Record.Next()}
	failures := ConsecutiveFailures(t, o.Record, o.ProfileDigest)
	if failures == 0 {
		return again // the spec or profile has changed
	}
	if failures >= maxAttempts(t) {
		return DiskDecision{}
	}
	pause := pauseAfter(failures)
	wait := o.Record.Failure.At.Add(pause).Sub(o.Now)
	if wait > 0 && wait <= pause { // else the clock was set back, and may not reach that time for long
		return DiskDecision{Recheck: wait}
	}
	return again
}

// attemptOutcome returns the outcome for a target whose current attempt has
// failed; ok is false for any other target.
func attemptOutcome(t *v1alpha1.BareMetalTarget, o TargetObservation) (out TargetOutcome, ok bool) {
	r := o.Record
	failures := ConsecutiveFailures(t, r, o.ProfileDigest)
	if !r.Failed() || r.Installed || failures == 0 || installDone(o.Seen) || o.OtherDisks || t.Spec.Power == v1alpha1.PowerOff {
		return out, false
	}
	out = TargetOutcome{
		Phase:   v1alpha1.TargetFailed,
		Stalled: true,
		Reason:  r.Failure.Reason,
		Message: fmt.Sprintf("attempt %d of %d failed: %s", failures, maxAttempts(t), r.Failure.Message),
		Lines:   r.Failure.Lines,
		Install: installProgress(o.Seen),
	}
	if failures >= maxAttempts(t) {
		out.Message += "; to try again, change the target or its profile, or raise spec.installGeneration"
		return out, true
	}
	next := r.Failure.At.Add(pauseAfter(failures))
	out.Phase, out.Progress = v1alpha1.TargetPending, "waiting to retry"
	out.Message += "; the next attempt starts at " + next.UTC().Format(time.RFC3339)
	out.Recheck = max(time.Second, next.Sub(o.Now))
	return out, true
}

// AttemptFailed reports whether out ends the current installation attempt. It is
// false for an installed target, because a failure of its system must never
// cause its disk to be wiped.
func AttemptFailed(t *v1alpha1.BareMetalTarget, o TargetObservation, out TargetOutcome) bool {
	r := o.Record
	return out.Ended && !o.Paused && !o.OtherDisks && !r.Installed && !r.Failed() && r.Generation == Generation(t)
}

// installDone reports whether the installer has completed.
func installDone(seen *netbootapi.MachineState) bool {
	return seen != nil && seen.Install != nil && !seen.Install.DoneAt.IsZero()
}

// asPaused returns a paused target as if its observed state were the desired one, and
// what was observed of it without what keeps it from another state.
func asPaused(t *v1alpha1.BareMetalTarget, o TargetObservation) (*v1alpha1.BareMetalTarget, TargetObservation) {
	asObserved := t.DeepCopy()
	asObserved.Spec.Power = powerOf(o.Machine)
	if asObserved.Status.DiskGeneration != 0 {
		asObserved.Spec.InstallGeneration = asObserved.Status.DiskGeneration
		asObserved.Status.HighestInstallGeneration = asObserved.Status.DiskGeneration
	}
	o.Paused = false
	o.Blocker = Blocker{}
	o.OtherDisks = false
	o.Failure = nil
	return asObserved, o
}

// paused returns the outcome for a target whose reconciliation is paused. It
// describes the observed state as if it were the desired state.
func paused(t *v1alpha1.BareMetalTarget, o TargetObservation) TargetOutcome {
	failure := o.Failure
	out := TargetStatus(asPaused(t, o))
	message := "paused by the annotation " + v1alpha1.PausedAnnotation + ": the machine is not changed; remove the annotation to resume"
	if !t.DeletionTimestamp.IsZero() {
		out.Phase = v1alpha1.TargetDeleting
		message += " the deletion"
	}
	out.Message = joinNonEmpty("; ", message, out.Message)
	out.Stalled = true
	out.Ended = false
	out.Reason = v1alpha1.ReasonPaused
	return withFailure(out, failure)
}
