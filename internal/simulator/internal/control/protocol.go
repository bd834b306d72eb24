// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/process"
)

// Version of the protocol. Programs of different versions do not understand each
// other, except for the Hello.
const Version = 2

// HeartbeatInterval is the longest time between two messages of the program.
const HeartbeatInterval = 2 * time.Second

// ExitRuns is the exit status of a program that finds another one running.
const ExitRuns = 3

// maxLine bounds a message. A description of a machine has a few kilobytes.
const maxLine = 1 << 20

// Hello is the first message of the program.
type Hello struct {
	// Protocol is the program's Version.
	Protocol int `json:"protocol"`
	// Program is the digest of the program's executable, Release its version.
	Program string `json:"program"`
	Release string `json:"release"`
	// Process is the program's process.
	Process process.Identity `json:"process"`
}

// Message is a line of the program. One of Hello, Record, Synced and Reply is set, or
// none in a heartbeat.
type Message struct {
	Hello *Hello `json:"hello,omitempty"`
	// Record is the state of a machine after Event.
	Record *Record `json:"record,omitempty"`
	// Event is what has changed Record; nil while the state is listed after Hello.
	Event *Event `json:"event,omitempty"`
	// Synced ends the list.
	Synced bool   `json:"synced,omitempty"`
	Reply  *Reply `json:"reply,omitempty"`
}

// Event is a change of a machine.
type Event struct {
	Type   machine.EventType `json:"type"`
	Detail string            `json:"detail,omitempty"`
	At     time.Time         `json:"at"`
}

// Operation is what a Request asks for.
type Operation string

const (
	// Attach is the first request of a connection. The program then lists its machines,
	// and sends each change. From then on it carries out no older request of the same
	// Runner, such as one that an earlier connection of it still contains.
	Attach Operation = "attach"
	// Start makes a machine run, unless it does.
	Start Operation = "start"
	// Stop ends a machine. The reply comes when it has ended.
	Stop Operation = "stop"
	// Reset presses the reset button, PowerDown the power button.
	Reset     Operation = "reset"
	PowerDown Operation = "powerDown"
	// SetBootOrder sets the boot order.
	SetBootOrder Operation = "setBootOrder"
	// Retire ends the program, unless it runs a machine.
	Retire Operation = "retire"
)

// Request is a line of the Runner. Requests for one machine are carried out in their
// order.
type Request struct {
	// Sequence is higher than that of all earlier requests of the Runner, also over
	// other connections. It is repeated in the Reply.
	Sequence  uint64    `json:"sequence"`
	Operation Operation `json:"operation"`
	// Runner identifies the Runner that attaches.
	Runner string `json:"runner,omitempty"`
	// Machine is the ID of the machine.
	Machine string `json:"machine,omitempty"`
	// Record is that of the machine to start.
	Record *Record `json:"record,omitempty"`
	// Devices is the boot order to set.
	Devices []string `json:"devices,omitempty"`
}

// Code is why a Request was refused.
type Code string

const (
	// OK: the request was carried out. The result of a start is in the record.
	OK Code = ""
	// NotRunning: the machine does not run.
	NotRunning Code = "NotRunning"
	// Running: a machine runs, so that the program does not retire.
	Running Code = "Running"
	// Retiring: the program is about to end.
	Retiring Code = "Retiring"
	// Outdated: a later request of the Runner was carried out before.
	Outdated Code = "Outdated"
	// Failed: the request failed for the reason in Detail.
	Failed Code = "Failed"
)

// Reply is the result of a Request.
type Reply struct {
	Sequence uint64 `json:"sequence"`
	Code     Code   `json:"code,omitempty"`
	Detail   string `json:"detail,omitempty"`
}

// Err returns the reply as an error, nil if the request was carried out.
func (r Reply) Err() error {
	switch r.Code {
	case OK:
		return nil
	case NotRunning:
		return machine.ErrNotRunning
	case Running:
		return machine.ErrRunning
	case Retiring:
		return ErrRetiring
	case Outdated:
		return ErrOutdated
	default:
		return errors.New(r.Detail)
	}
}

// ErrRetiring is returned by a program that is about to end.
var ErrRetiring = errors.New("the simulator is about to exit")

// ErrOutdated is returned for a request that a later one of the same Runner has
// overtaken.
var ErrOutdated = errors.New("a later request was carried out before")

// Encode returns v as a line.
func Encode(v any) ([]byte, error) {
	line, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding a message: %w", err)
	}
	if len(line) >= maxLine {
		return nil, fmt.Errorf("encoding a message: it has %d bytes, at most %d are allowed", len(line), maxLine-1)
	}
	return append(line, '\n'), nil
}

// Lines reads lines of JSON.
type Lines struct{ scanner *bufio.Scanner }

// NewLines returns a reader of the lines of r.
func NewLines(r io.Reader) *Lines {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4<<10), maxLine)
	return &Lines{scanner: s}
}

// Next decodes the next line into v. It returns io.EOF at the end.
func (l *Lines) Next(v any) error {
	if !l.scanner.Scan() {
		if err := l.scanner.Err(); err != nil {
			return fmt.Errorf("reading a message: %w", err)
		}
		return io.EOF
	}
	if err := json.Unmarshal(l.scanner.Bytes(), v); err != nil {
		return fmt.Errorf("reading a message: %w", err)
	}
	return nil
}
