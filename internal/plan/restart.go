// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
)

// The pause before a restart doubles from firstRestart to longestRestart. A machine
// that ran for stableRun starts over with firstRestart.
const (
	firstRestart   = time.Second
	longestRestart = 5 * time.Minute
	stableRun      = 10 * time.Minute
)

// Restarts is how a machine that should run has ended lately. The zero Restarts is
// that of a machine that has not.
type Restarts struct {
	// Count is how many processes in a row have ended, or had to be ended, by
	// themselves.
	Count int
	// At is when the last of them ended.
	At time.Time
	// process is when the last of them was started. It identifies the process, which
	// is counted once.
	process time.Time
}

// Observe returns the history after an observation of the machine.
func (r Restarts) Observe(state machine.State, now time.Time) Restarts {
	r = r.observe(state, now)
	if r.At.After(now) {
		r.At = now // the clock was set back, and may not reach that time for long
	}
	return r
}

func (r Restarts) observe(state machine.State, now time.Time) Restarts {
	if state.Phase == machine.PhaseRunning && now.Sub(state.StartedAt) >= stableRun {
		return Restarts{}
	}
	if state.Phase.Alive() || state.Exit == nil || state.Exit.Requested {
		return r
	}
	switch state.Exit.Reason {
	case machine.ExitFailed, machine.ExitNotStarted, machine.ExitGuestShutdown:
		return r.Ended(state.Exit.StartedAt, state.Exit.At)
	default:
		return r // the host or the manager ended it
	}
}

// Ended returns the history after the end of a process that was started at the given
// time. The end of one process is counted once.
func (r Restarts) Ended(startedAt, at time.Time) Restarts {
	if r.Count > 0 && r.process.Equal(startedAt) {
		return r
	}
	if !startedAt.IsZero() && at.Sub(startedAt) >= stableRun {
		r.Count = 0
	}
	return Restarts{Count: r.Count + 1, At: at, process: startedAt}
}

// pause returns the time between the last end and the next start.
func (r Restarts) pause() time.Duration {
	if r.Count == 0 {
		return 0
	}
	return min(firstRestart<<min(r.Count-1, 16), longestRestart)
}

// Wait returns how long to wait before the machine is started again; 0 or less is not
// at all.
func (r Restarts) Wait(now time.Time) time.Duration {
	return min(r.pause(), r.pause()-now.Sub(r.At)) // the clock may have been set back
}

// RestartFault is the Reason of a machine that was switched off because of a Fault.
const RestartFault = "Fault"

// Reason returns why the last process of a machine ended that is about to be started
// again: one of the machine's exit reasons or RestartFault. It is "" if the end was
// requested for another reason, or if there was no process.
func (r Restarts) Reason(state machine.State) string {
	switch exit := state.Exit; {
	case exit == nil:
		return ""
	case !exit.Requested:
		return string(exit.Reason)
	case r.Count > 0 && r.process.Equal(exit.StartedAt):
		return RestartFault
	default:
		return ""
	}
}

// Condition returns the condition MachineRunning of a machine that waits for its
// restart.
func (r Restarts) Condition(state machine.State) Condition {
	times := "once"
	if r.Count > 1 {
		times = fmt.Sprintf("%d times in a row", r.Count)
	}
	return condition(v1alpha1.ConditionMachineRunning, false, v1alpha1.ReasonRestartPending, fmt.Sprintf(
		"%s; it has ended %s and is started again at %s", MachineCondition(state).Message, times,
		r.At.Add(r.pause()).UTC().Format(time.RFC3339)))
}

// The time that a provisioning VM may take to recover by itself. A guest reboots after
// a panic if its kernel is configured to, and a busy host may delay QEMU's answers.
const (
	panicPatience  = time.Minute
	answerPatience = 2 * time.Minute
)

// Fault returns why a provisioning VM that has a process cannot do its work, and how
// long that may last; "" for one that can. otherVersion reports that its netbootd has
// another API than the manager; a restart replaces it. A machine whose guest a failed
// write has stopped is resumed by its Runner, and one that an administrator has paused
// is left alone.
func Fault(state machine.State, otherVersion bool) (why string, patience time.Duration) {
	switch {
	case otherVersion && state.Phase == machine.PhaseRunning:
		return "its netbootd is of another version than the manager", 0
	case state.Phase == machine.PhaseInternalError:
		return "the accelerator failed and stopped the guest", 0
	case state.Phase == machine.PhaseUnresponsive:
		return "QEMU does not respond", answerPatience
	case state.GuestPanicked:
		return "the guest's kernel panicked", panicPatience
	default:
		return "", 0
	}
}

// FaultCondition returns the condition MachineRunning of a machine that is switched off
// because of a fault.
func FaultCondition(why string) Condition {
	return condition(v1alpha1.ConditionMachineRunning, false, v1alpha1.ReasonRestartPending,
		why+"; the machine is switched off and started again")
}
