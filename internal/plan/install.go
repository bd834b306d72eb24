// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/storage"
)

// What holds for targets that were declared before there was a choice.
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

// Pauses between attempts.
const (
	firstPause   = 30 * time.Second
	longestPause = 10 * time.Minute
)

func pauseAfter(failures int) time.Duration {
	return min(firstPause<<min(max(failures-1, 0), 8), longestPause)
}

// Failures counts the attempts in a row that failed at what is declared now.
// profileDigest is what the profile comes to, "" while it is not ready: that is
// no change.
func Failures(t *v1alpha1.BareMetalTarget, r storage.Record, profileDigest string) int {
	f := r.Failure
	switch {
	case f == nil || f.Attempt.Generation != r.Generation || f.Declared != t.Generation:
		return 0
	case profileDigest != "" && f.ProfileDigest != "" && f.ProfileDigest != profileDigest:
		return 0
	}
	return r.Failures
}

// Attempts is what a status says of a record.
func Attempts(t *v1alpha1.BareMetalTarget, r storage.Record, profileDigest string) *v1alpha1.InstallAttempts {
	if r.Generation == 0 {
		return nil
	}
	failures := Failures(t, r, profileDigest)
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

// DiskObservation is what is decided from what becomes of a target's disks.
type DiskObservation struct {
	Record storage.Record
	// ProfileDigest is what the profile comes to; "" while it is not ready.
	ProfileDigest string
	// Refused says that the declaration makes no sense for an installation.
	Refused bool
	// Unserved is why the server could not serve an installation now; it need
	// not be asked unless Replaces says so.
	Unserved Blocker
	// Alive says that the machine runs.
	Alive bool
	// Done says that the installer has reported the end of the present attempt.
	Done bool
	Now  time.Time
}

// DiskDecision is what becomes of a target's disks.
type DiskDecision struct {
	// Prepare is the attempt that blank disks are to be made for; the zero
	// Attempt keeps what there is.
	Prepare storage.Attempt
	// Blocker is why they are kept although something else is declared.
	Blocker Blocker
	// Recheck is when the decision changes by time alone; 0 for never.
	Recheck time.Duration
}

// Replaces reports whether something else is declared than the system that is
// installed: only then does it matter whether the server can serve it.
func Replaces(t *v1alpha1.BareMetalTarget, r storage.Record, profileDigest string) bool {
	return r.Installed && (r.Generation < t.Spec.InstallGeneration || behind(r, profileDigest))
}

// DecideDisks decides what becomes of a target's disks. A system that was
// installed is wiped only once all that takes its place is with the server.
func DecideDisks(t *v1alpha1.BareMetalTarget, o DiskObservation) DiskDecision {
	r, declared := o.Record, t.Spec.InstallGeneration
	switch {
	case o.Refused || t.Spec.Power == v1alpha1.PowerOff || r.Generation > declared:
		return DiskDecision{}
	case r.Generation == 0:
		return DiskDecision{Prepare: storage.Attempt{Generation: declared, Number: 1}}
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
	}
	return DiskDecision{}
}

// replace is for a raised installGeneration.
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
	return DiskDecision{Prepare: storage.Attempt{Generation: t.Spec.InstallGeneration, Number: 1}}
}

// renew is for a profile that was changed.
func renew(o DiskObservation) DiskDecision {
	switch {
	case o.Unserved.Reason == "":
		return DiskDecision{Prepare: o.Record.Next()}
	case o.Unserved.Brief && !o.Alive:
		// It was just stopped for this: it is not started once more in between.
		return DiskDecision{Blocker: o.Unserved}
	}
	return DiskDecision{}
}

func retry(t *v1alpha1.BareMetalTarget, o DiskObservation) DiskDecision {
	again := DiskDecision{Prepare: o.Record.Next()}
	failures := Failures(t, o.Record, o.ProfileDigest)
	if failures == 0 {
		return again // something else is declared since
	}
	if failures >= maxAttempts(t) {
		return DiskDecision{}
	}
	pause := pauseAfter(failures)
	if wait := min(o.Record.Failure.At.Add(pause).Sub(o.Now), pause); wait > 0 { // a clock may be set back
		return DiskDecision{Recheck: wait}
	}
	return again
}

// behind reports whether the profile is known to have changed since.
func behind(r storage.Record, profileDigest string) bool {
	return r.Installed && r.ProfileDigest != "" && profileDigest != "" && r.ProfileDigest != profileDigest
}

// UpToDate says whether the disk holds what the profile is now.
func UpToDate(t *v1alpha1.BareMetalTarget, r storage.Record, profileDigest string) Condition {
	const kind = v1alpha1.ConditionUpToDate
	name := t.Spec.BootProfileRef.Name
	unknown := func(reason, message string) Condition {
		return Condition{Type: kind, Status: metav1.ConditionUnknown, Reason: reason, Message: message}
	}
	switch {
	case !r.Installed:
		return unknown(v1alpha1.ReasonNotInstalled, "nothing is installed yet")
	case r.ProfileDigest == "":
		return unknown(v1alpha1.ReasonUnknownProfile, "it is not known what the disk was installed from")
	case profileDigest == "":
		return unknown(v1alpha1.ReasonWaitingForProfile, fmt.Sprintf("profile %s is not ready", name))
	case !behind(r, profileDigest):
		return condition(kind, true, v1alpha1.ReasonUpToDate, fmt.Sprintf("the disk holds profile %s as it is", name))
	}
	message := fmt.Sprintf("profile %s is not any more what the disk was installed from; ", name)
	if t.Spec.ProfileChangePolicy == v1alpha1.ProfileChangeReinstall {
		message += "it is installed anew as soon as its server has all of it"
	} else {
		message += "raise spec.installGeneration to wipe the disk and install it, or set spec.profileChangePolicy to Reinstall"
	}
	return condition(kind, false, v1alpha1.ReasonProfileChanged, message)
}

// attemptOutcome is what to say of a target whose present attempt has failed;
// ok is false when there is nothing of that to say.
func attemptOutcome(t *v1alpha1.BareMetalTarget, o TargetObservation) (out TargetOutcome, ok bool) {
	r := o.Record
	failures := Failures(t, r, o.ProfileDigest)
	if !r.Failed() || r.Installed || failures == 0 || installDone(o.Seen) || o.OtherDisks || t.Spec.Power == v1alpha1.PowerOff {
		return out, false
	}
	out = TargetOutcome{Phase: v1alpha1.TargetFailed, Stalled: true, Reason: r.Failure.Reason, Lines: r.Failure.Lines, Install: installProgress(o.Seen)}
	out.Message = fmt.Sprintf("attempt %d of %d failed: %s", failures, maxAttempts(t), r.Failure.Message)
	if failures >= maxAttempts(t) {
		out.Message += "; change the target or its profile, or raise spec.installGeneration, to try again"
		return out, true
	}
	next := r.Failure.At.Add(pauseAfter(failures))
	out.Phase, out.Progress = v1alpha1.TargetPending, "waits to try again"
	out.Message += "; the next begins at " + next.UTC().Format(time.RFC3339)
	out.Recheck = max(time.Second, next.Sub(o.Now))
	return out, true
}

// AttemptFailed reports whether the attempt that is under way has failed, as
// what is said of the target tells. A target that is installed is never said to
// fail here: whatever becomes of its system must not cost it its disk.
func AttemptFailed(t *v1alpha1.BareMetalTarget, o TargetObservation, out TargetOutcome) bool {
	return out.Ended && !o.Paused && !o.OtherDisks && !o.Record.Installed && !o.Record.Failed() && o.Record.Generation == t.Spec.InstallGeneration
}

// installDone reports whether the installer has reported the end.
func installDone(seen *agent.MachineState) bool {
	return seen != nil && seen.Install != nil && !seen.Install.DoneAt.IsZero()
}

// paused is what was observed of a target that is left alone: it is what it is,
// not what is declared.
func paused(t *v1alpha1.BareMetalTarget, o TargetObservation) TargetOutcome {
	as := t.DeepCopy()
	as.Spec.Power = v1alpha1.PowerOff
	if o.Machine.Phase.Alive() {
		as.Spec.Power = v1alpha1.PowerOn
	}
	if as.Status.DiskGeneration != 0 {
		as.Spec.InstallGeneration = as.Status.DiskGeneration
	}
	failure := o.Failure
	o.Paused, o.Blocker, o.OtherDisks, o.Failure = false, Blocker{}, false, nil
	out := Target(as, o)
	message := "paused by the annotation " + v1alpha1.PausedAnnotation + ": nothing is done to the machine"
	if !t.DeletionTimestamp.IsZero() {
		out.Phase = v1alpha1.TargetDeleting
		message += ", and it is deleted only when the annotation is removed"
	}
	out.Message = joinNonEmpty("; ", message, out.Message)
	out.Stalled, out.Ended, out.Reason = true, false, v1alpha1.ReasonPaused
	return failing(out, failure)
}
