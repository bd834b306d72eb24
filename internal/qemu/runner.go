// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"time"
)

// Runner runs machines. All methods are safe for concurrent use; calls about
// one machine take turns. Callers are level-triggered: they observe, compare,
// act, and are woken by Watch.
type Runner interface {
	// Start makes the machine run, and returns when QEMU executes its guest. A
	// machine with this ID that runs already is left as it is, even when its
	// description differs: State.Digest tells. One that is paused goes on, unless
	// its guest has panicked.
	Start(ctx context.Context, m Machine) error
	// Observe tells what is known of a machine. A machine never started, or
	// removed, is an answer (PhaseNotFound), not an error.
	Observe(ctx context.Context, id string) (State, error)
	// List observes every machine that was started and not removed, by ID.
	List(ctx context.Context) ([]State, error)

	// PowerDown presses the power button and returns at once. Whether the guest
	// obeys is seen by Observe. ErrNotRunning when there is nothing to press.
	PowerDown(ctx context.Context, id string) error
	// Stop ends the machine's process, as gently as the options allow, and
	// returns when it is gone. Stopping what does not run is no error.
	Stop(ctx context.Context, id string, o StopOptions) (StopMethod, error)
	// Reset presses the reset button: the guest starts over in its firmware
	// without warning. ErrNotRunning when there is nothing to press.
	Reset(ctx context.Context, id string) error
	// SetBootOrder makes these devices, in this order and no others, what the
	// firmware tries from the next reset on. It lasts until the process ends;
	// Start goes by the description. ErrNotRunning, ErrNoDevice.
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
	// ErrInvalid is a description that no QEMU can run; the caller must change it.
	ErrInvalid = errors.New("invalid machine")
)

// Phase says in one word what a machine's process is doing.
type Phase string

// The phases of a machine.
const (
	// PhaseNotFound: never started, or removed.
	PhaseNotFound Phase = "NotFound"
	// PhaseStopped: there is no process. State.Exit tells how it ended.
	PhaseStopped Phase = "Stopped"
	// PhaseRunning: the guest's processors execute.
	PhaseRunning Phase = "Running"
	// PhasePaused: the process lives and the guest does not execute: it was
	// paused, panicked under PanicPause, or a disk error stopped it.
	// State.RunState tells which.
	PhasePaused Phase = "Paused"
	// PhaseInternalError: the accelerator gave up on the guest.
	PhaseInternalError Phase = "InternalError"
	// PhaseUnresponsive: the process lives and does not answer.
	PhaseUnresponsive Phase = "Unresponsive"
)

// Alive reports whether a process exists in this phase.
func (p Phase) Alive() bool { return p != PhaseNotFound && p != PhaseStopped }

// State is what was observed of a machine.
type State struct {
	ID    string
	Name  string
	Phase Phase
	// PID is for people; it is 0 when there is no process.
	PID int
	// StartedAt is when the process was started, zero when there is none.
	StartedAt time.Time
	// Digest is [Machine.Digest] of the description the process was started
	// with, or last ran with.
	Digest string
	// Accelerator is what the process was started with.
	Accelerator Accelerator
	// RunState is QEMU's own word, such as "running" or "io-error".
	RunState string
	// Stall is why a guest in the run state "io-error" is stopped; nil for every
	// other, and when QEMU does not tell.
	Stall *Stall
	// GuestPanicked is set by a kernel panic and cleared by a reset or start.
	GuestPanicked bool
	// Resets counts the resets since the process was started, whoever asked.
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
	// Exit tells how the last process ended; nil while one lives.
	Exit  *Exit
	Paths Paths
}

// ExitReason says why a machine's process ended.
type ExitReason string

// The reasons for an exit.
const (
	// ExitGuestShutdown: the guest powered off, by itself or asked by PowerDown.
	ExitGuestShutdown ExitReason = "GuestShutdown"
	// ExitStopped: Stop ended it without the guest's consent.
	ExitStopped ExitReason = "Stopped"
	// ExitFailed: QEMU ended with an error or by a signal nobody here sent.
	ExitFailed ExitReason = "Failed"
	// ExitHostReboot: the host has restarted since.
	ExitHostReboot ExitReason = "HostReboot"
	// ExitUnknown: it ended while nobody watched.
	ExitUnknown ExitReason = "Unknown"
)

// Exit tells how a process ended.
type Exit struct {
	Reason ExitReason `json:"reason"`
	// At is when it was noticed.
	At time.Time `json:"at"`
	// Code is QEMU's exit status, -1 when not known or when a signal ended it.
	Code int `json:"code"`
	// Signal is the name of the signal that ended it, if known.
	Signal string `json:"signal,omitempty"`
	// Output is the last lines QEMU wrote, when it failed.
	Output string `json:"output,omitempty"`
}

// StopOptions say how patient Stop is.
type StopOptions struct {
	// ACPITimeout is how long the guest may take to obey the power button; 0
	// does not press it.
	ACPITimeout time.Duration
	// QuitTimeout is how long QEMU may take to end when told to (it flushes the
	// guest's disks), before it is killed. 0 means DefaultQuitTimeout.
	QuitTimeout time.Duration
}

// DefaultQuitTimeout is generous: a quit flushes disks.
const DefaultQuitTimeout = 15 * time.Second

// StopMethod says what ended a machine.
type StopMethod string

// What Stop reports.
const (
	StoppedAlready StopMethod = "Already"
	StoppedByGuest StopMethod = "ACPI"
	StoppedByQuit  StopMethod = "Quit"
	StoppedByKill  StopMethod = "Kill"
)

// EventType says what happened to a machine.
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

// Event says that something happened to a machine; what is true now is for
// Observe to tell.
type Event struct {
	ID   string
	Type EventType
	// Detail is for people: who asked for a reset, why it stopped.
	Detail string
	At     time.Time
}
