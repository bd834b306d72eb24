// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"errors"
	"time"
)

// Runner runs machines. All methods are safe for concurrent use. Callers are
// level-triggered: they observe, compare, act, and are woken by Watch.
//
// Only Stop waits for a machine. Every other method returns at once, whatever state
// the machine is in: a request is carried out in the background, its result is part
// of State, and an Event announces it. Requests to a machine are carried out in their
// order; one that is under way already is not repeated. A request fails at once only
// for the reasons that are listed with it.
//
// A machine that was created and whose guest was never let run, because the start
// was cut off, is continued by the Runner that finds it.
type Runner interface {
	// Start makes the machine run. Until its guest executes it is in PhaseStarting;
	// a start that fails ends in PhaseStopped with an Exit that has the cause. A
	// machine with this ID that runs or starts already is left as it is, even when
	// its description differs (compare State.Digest). A paused machine resumes,
	// unless its guest has panicked. ErrInvalid.
	Start(ctx context.Context, m Machine) error
	// Observe returns the last known state of a machine. A machine that was never
	// started, or was removed, is in PhaseNotFound; that is not an error.
	Observe(ctx context.Context, id string) (State, error)
	// List observes every machine that was started and not removed, by ID.
	List(ctx context.Context) ([]State, error)

	// PowerDown presses the power button, see State.PowerDownRequestedAt. Whether
	// the guest obeys is seen by Observe. ErrNotRunning when there is nothing to
	// press.
	PowerDown(ctx context.Context, id string) error
	// Stop ends the machine's process, as gently as the options allow, and returns
	// when it is gone or ctx ends. It ends requests that are under way, a start
	// included. Stopping a stopped machine is not an error.
	Stop(ctx context.Context, id string, o StopOptions) (StopMethod, error)
	// Reset presses the reset button: the guest starts over in its firmware
	// without warning, see State.Resets. ErrNotRunning when there is nothing to
	// press.
	Reset(ctx context.Context, id string) error
	// SetBootOrder makes these devices, in this order and no others, what the
	// firmware tries from the next reset on, see State.BootOrder. It lasts until
	// the process ends; Start goes by the description. The error is ErrNotRunning,
	// ErrNoDevice or ErrInvalid, or that of the same request shortly before; a later
	// call tries again.
	SetBootOrder(ctx context.Context, id string, devices []string) error
	// Remove forgets a machine that does not run and deletes what the Runner
	// made for it. Disks, which it did not make, stay. ErrRunning, else
	// idempotent.
	Remove(ctx context.Context, id string) error

	// Watch delivers what happens to any machine from now on, until ctx ends;
	// then the channel is closed. A reader that falls far behind loses older
	// events of a machine before newer ones, never the last.
	Watch(ctx context.Context) <-chan Event
}

// What the methods of a Runner can refuse with, wrapped.
var (
	ErrNotRunning = errors.New("machine is not running")
	ErrRunning    = errors.New("machine is running")
	ErrNoDevice   = errors.New("machine has no such device")
	// ErrInvalid is a description that cannot be run; the caller must change it.
	ErrInvalid = errors.New("invalid machine")
)

// Phase is a one-word summary of a machine's process.
type Phase string

// The phases of a machine.
const (
	// PhaseNotFound: never started, or removed.
	PhaseNotFound Phase = "NotFound"
	// PhaseStopped: there is no process. State.Exit records how it ended.
	PhaseStopped Phase = "Stopped"
	// PhaseStarting: a start was accepted and the guest does not execute yet.
	PhaseStarting Phase = "Starting"
	// PhaseRunning: the guest's processors execute.
	PhaseRunning Phase = "Running"
	// PhasePaused: the process lives and the guest does not execute: it was
	// paused, panicked under PanicPause, or a disk error stopped it.
	// State.RunState has the reason.
	PhasePaused Phase = "Paused"
	// PhaseInternalError: the accelerator gave up on the guest.
	PhaseInternalError Phase = "InternalError"
	// PhaseUnresponsive: the process lives and has not answered for some seconds.
	PhaseUnresponsive Phase = "Unresponsive"
)

// Alive reports whether a process exists in this phase, or is about to.
func (p Phase) Alive() bool { return p != PhaseNotFound && p != PhaseStopped }

// State is what was observed of a machine.
type State struct {
	ID    string
	Name  string
	Phase Phase
	// PID is informational; 0 when there is no process. Simulated machines share one.
	PID int
	// StartedAt is when the start was accepted, zero when there is no process and
	// no start is under way.
	StartedAt time.Time
	// Digest is [Machine.Digest] of the description the process was started
	// with, or last ran with.
	Digest string
	// Accelerator is what the process was started with.
	Accelerator Accelerator
	// HostMemory is how much of the host's memory the machine can take in bytes, its
	// overhead included, see [Footprint]; 0 when there is no process and no start is
	// under way.
	HostMemory int64
	// RunState is QEMU's own word, such as "running" or "io-error".
	RunState string
	// Problem is why the Runner does not know as which process the machine runs, as when
	// its record cannot be read; empty if it does. The phase is then PhaseUnresponsive,
	// and the machine cannot be started, stopped or removed.
	Problem string
	// Stall is why a guest in the run state "io-error" is stopped; nil for every
	// other, and when QEMU does not report a cause.
	Stall *Stall
	// GuestPanicked is set by a kernel panic and cleared by a reset or start.
	GuestPanicked bool
	// Resets counts the resets since the process was started, from any source.
	Resets int
	// SerialOffset is where in the serial log the output since the last
	// power-on or reset begins. A log that is shorter has been cut since.
	SerialOffset int64
	// BootOrder is the device IDs the firmware will try at its next start.
	BootOrder []string
	// Forwards are the host ports of user-mode NICs, by the NIC's ID.
	Forwards map[string][]Forward
	// PowerDownRequestedAt is when the power button was last pressed, zero when
	// it was not since the process was started.
	PowerDownRequestedAt time.Time
	// Exit records how the last process ended; nil while one lives.
	Exit  *Exit
	Paths Paths
}

// ByID returns a function that returns the state of a machine by its ID, from the result
// of [Runner.List]. A machine that is not in it is in PhaseNotFound.
func ByID(states []State) func(id string) State {
	known := make(map[string]State, len(states))
	for _, s := range states {
		known[s.ID] = s
	}
	return func(id string) State {
		if s, ok := known[id]; ok {
			return s
		}
		return State{ID: id, Phase: PhaseNotFound}
	}
}

// ExitReason is why a machine's process ended.
type ExitReason string

// The reasons for an exit.
const (
	// ExitGuestShutdown: the guest powered off, by itself or asked by PowerDown.
	ExitGuestShutdown ExitReason = "GuestShutdown"
	// ExitStopped: Stop ended it without the guest's consent.
	ExitStopped ExitReason = "Stopped"
	// ExitFailed: QEMU ended with an error or by a signal that the Runner did not send.
	ExitFailed ExitReason = "Failed"
	// ExitNotStarted: the process could not be started. Output has the cause.
	ExitNotStarted ExitReason = "NotStarted"
	// ExitHostReboot: the host has restarted since.
	ExitHostReboot ExitReason = "HostReboot"
	// ExitUnknown: it ended while no Runner was connected.
	ExitUnknown ExitReason = "Unknown"
)

// Exit is the end of a process.
type Exit struct {
	Reason ExitReason `json:"reason"`
	// At is when it was noticed.
	At time.Time `json:"at"`
	// StartedAt is when the start of the process was accepted.
	StartedAt time.Time `json:"startedAt,omitzero"`
	// Requested is set when Stop or PowerDown asked for the end.
	Requested bool `json:"requested,omitempty"`
	// Code is QEMU's exit status, -1 when not known or when a signal ended it.
	Code int `json:"code"`
	// Signal is the name of the signal that ended it, if known.
	Signal string `json:"signal,omitempty"`
	// Output is the last lines QEMU wrote, or the error, when it failed.
	Output string `json:"output,omitempty"`
}

// StopOptions are the timeouts of Stop.
type StopOptions struct {
	// ACPITimeout is how long the guest may take to obey the power button; 0
	// does not press it.
	ACPITimeout time.Duration
	// QuitTimeout is how long QEMU may take to quit (it flushes the
	// guest's disks), before it is killed. 0 means DefaultQuitTimeout.
	QuitTimeout time.Duration
}

// DefaultQuitTimeout is generous: a quit flushes disks.
const DefaultQuitTimeout = 15 * time.Second

// StopMethod is the means by which Stop ended a machine.
type StopMethod string

// What Stop reports.
const (
	StoppedAlready StopMethod = "Already"
	StoppedByGuest StopMethod = "ACPI"
	StoppedByQuit  StopMethod = "Quit"
	StoppedByKill  StopMethod = "Kill"
)

// EventType is the kind of an Event.
type EventType string

// The events of a machine.
const (
	EventStarted       EventType = "Started"
	EventExited        EventType = "Exited"
	EventReset         EventType = "Reset"
	EventShutdown      EventType = "Shutdown"
	EventGuestPanicked EventType = "GuestPanicked"
	// EventChanged: anything else that Observe shows.
	EventChanged EventType = "Changed"
)

// Event is a change of a machine. The current state is Observe's.
type Event struct {
	ID   string
	Type EventType
	// Detail is human-readable: the source of a reset, the cause of a stop.
	Detail string
	At     time.Time
}
