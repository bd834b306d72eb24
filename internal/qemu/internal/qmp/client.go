// SPDX-License-Identifier: Apache-2.0

// Package qmp is a client of the QEMU Machine Protocol: JSON messages, one to a
// line, over a UNIX socket.
//
// Every call has a deadline, replies of any sensible size are read, errors keep
// their class, and unread events never delay a reply. The peer is not trusted: a
// guest may have broken out into it.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pxelab/pxelab/internal/process"
)

const (
	// DefaultTimeout bounds a Dial or Execute whose context has no deadline.
	DefaultTimeout = 10 * time.Second
	// MaxMessage is the largest message that is read, in bytes. The largest that
	// QEMU sends in practice is query-qmp-schema's reply, under 1 MiB.
	MaxMessage = 16 << 20
	// eventBuffer is how many events wait for a slow reader.
	eventBuffer = 256
)

// What Dial and Execute can fail with, wrapped.
var (
	// ErrBusy: the socket accepted the connection and sent no greeting. QEMU serves one
	// client at a time, so the likely cause is another client.
	ErrBusy = errors.New("no greeting from QEMU: another QMP client is probably connected, and QEMU serves one at a time")
	// ErrClosed: the connection has ended.
	ErrClosed = errors.New("QMP connection is closed")
	// ErrProtocol: the other side does not speak QMP.
	ErrProtocol = errors.New("QMP protocol violation")
)

// Error is QEMU's refusal of a command.
type Error struct {
	Command string
	// Class is one of the constants below, which are stable in QEMU.
	Class string
	// Desc is human-readable and may change.
	Desc string
}

// Error classes, from QEMU's qapi/error.json.
const (
	GenericError    = "GenericError"
	CommandNotFound = "CommandNotFound"
	DeviceNotActive = "DeviceNotActive"
	DeviceNotFound  = "DeviceNotFound"
	KVMMissingCap   = "KVMMissingCap"
)

func (e *Error) Error() string {
	return fmt.Sprintf("QMP %s: %s (%s)", e.Command, e.Desc, e.Class)
}

// Event is something that happened in QEMU.
type Event struct {
	Name string
	// Data belongs to the event; nil when it has none.
	Data json.RawMessage
	// At is the time by QEMU's clock; zero when it is unknown.
	At time.Time
}

// Version is QEMU's version, from the greeting.
type Version struct {
	Major, Minor, Micro int
	Package             string
}

// Client is one connection. Safe for concurrent use.
type Client struct {
	conn    *net.UnixConn
	version Version

	events  chan Event
	dropped atomic.Uint64

	writing sync.Mutex // one command at a time on the wire

	mu      sync.Mutex
	nextID  uint64
	pending map[uint64]chan reply
	err     error // why the connection ended; nil while it is open

	done chan struct{} // closed when the reader has returned
}

type reply struct {
	result json.RawMessage
	err    *Error
}

// Dial connects to the UNIX socket, waits for the greeting and makes the
// connection ready for commands. The caller closes the Client.
func Dial(ctx context.Context, path string) (*Client, error) {
	ctx, cancel := withDefault(ctx)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connecting to QMP: %w", err)
	}
	c := &Client{
		conn:    conn.(*net.UnixConn),
		events:  make(chan Event, eventBuffer),
		pending: map[uint64]chan reply{},
		done:    make(chan struct{}),
	}
	r := bufio.NewReaderSize(conn, 64<<10)
	if err := c.greet(ctx, r); err != nil {
		conn.Close()
		return nil, fmt.Errorf("QMP socket %s: %w", path, err)
	}
	go c.read(r)
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, fmt.Errorf("QMP socket %s: %w", path, err)
	}
	return c, nil
}

func withDefault(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, DefaultTimeout)
}

func (c *Client) greet(ctx context.Context, r *bufio.Reader) error {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	m, err := readMessage(r)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if errors.Is(ctx.Err(), context.Canceled) {
			return ctx.Err()
		}
		return ErrBusy
	}
	if err != nil {
		return err
	}
	if m.Greeting == nil {
		return fmt.Errorf("%w: the first message is not a greeting", ErrProtocol)
	}
	v := m.Greeting.Version
	c.version = Version{Major: v.QEMU.Major, Minor: v.QEMU.Minor, Micro: v.QEMU.Micro, Package: v.Package}
	return nil
}

// Version returns QEMU's version.
func (c *Client) Version() Version { return c.version }

// Execute runs a command and waits for its reply. args is encoded as the
// command's arguments unless nil, and the reply decoded into result unless nil.
// QEMU's refusal is an [*Error]. When ctx ends first, QEMU may still execute the
// command.
func (c *Client) Execute(ctx context.Context, command string, args, result any) error {
	ctx, cancel := withDefault(ctx)
	defer cancel()
	id, answer, err := c.register()
	if err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	defer c.unregister(id)
	text, err := json.Marshal(request{Execute: command, Arguments: args, ID: id})
	if err != nil {
		return fmt.Errorf("QMP %s: encoding the arguments: %w", command, err)
	}
	if err := c.write(ctx, append(text, '\n')); err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	select {
	case r := <-answer:
		return r.decode(command, result)
	case <-c.done:
		select {
		case r := <-answer: // the reply arrived just before the end
			return r.decode(command, result)
		default:
		}
		return fmt.Errorf("QMP %s: %w", command, c.Err())
	case <-ctx.Done():
		return fmt.Errorf("QMP %s: waiting for the reply: %w", command, ctx.Err())
	}
}

func (r reply) decode(command string, result any) error {
	if r.err != nil {
		r.err.Command = command
		return r.err
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(r.result, result); err != nil {
		return fmt.Errorf("QMP %s: decoding the reply: %w", command, err)
	}
	return nil
}

func (c *Client) register() (uint64, chan reply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, nil, c.err
	}
	c.nextID++
	answer := make(chan reply, 1)
	c.pending[c.nextID] = answer
	return c.nextID, answer, nil
}

func (c *Client) unregister(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
}

// write sends one command. A partial command would corrupt all later ones, so a
// failure ends the connection.
func (c *Client) write(ctx context.Context, line []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	if err := c.conn.SetWriteDeadline(deadline); err != nil {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := c.conn.Write(line); err != nil {
		c.end(fmt.Errorf("%w: sending a command: %w", ErrClosed, err))
		return c.Err()
	}
	return nil
}

// Events delivers QEMU's events. When the queue is full, the oldest events are
// dropped and counted; a reader compares Dropped and queries QEMU's state.
// Closed when the connection ends.
func (c *Client) Events() <-chan Event { return c.events }

// Dropped returns how many events were dropped because the queue was full.
func (c *Client) Dropped() uint64 { return c.dropped.Load() }

// Done returns a channel that is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns why the connection ended, wrapping [ErrClosed] or [ErrProtocol]. It
// returns nil while the connection is open.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// PeerPID returns the PID of the process that listens on the socket, as reported
// by the kernel.
func (c *Client) PeerPID() (int, error) { return process.PeerPID(c.conn) }

// Close ends the connection, fails the commands that wait for a reply, and returns
// when the reader has ended. Idempotent.
func (c *Client) Close() error {
	c.end(ErrClosed)
	<-c.done
	return nil
}

// end closes the connection and records the reason unless one is recorded.
func (c *Client) end(why error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = why
	}
	c.mu.Unlock()
	_ = c.conn.Close()
}

// read dispatches messages until the connection ends.
func (c *Client) read(r *bufio.Reader) {
	defer close(c.done)
	defer close(c.events)
	for {
		m, err := readMessage(r)
		if err == nil {
			err = c.dispatch(m)
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, ErrProtocol) {
			err = fmt.Errorf("%w: %w", ErrClosed, err)
		}
		c.end(err)
		return
	}
}

func (c *Client) dispatch(m message) error {
	switch {
	case m.Event != "":
		c.emit(Event{Name: m.Event, Data: m.Data, At: m.Timestamp.time()})
		return nil
	case m.ID != nil:
		c.mu.Lock()
		answer := c.pending[*m.ID]
		delete(c.pending, *m.ID)
		c.mu.Unlock()
		if answer == nil {
			return nil // The caller gave up waiting.
		}
		r := reply{result: m.Return}
		if m.Error != nil {
			r.err = &Error{Class: m.Error.Class, Desc: m.Error.Desc}
		}
		answer <- r
		return nil
	case m.Error != nil:
		// QEMU could not parse what we sent, so its error has no id.
		return fmt.Errorf("%w: %s: %s", ErrProtocol, m.Error.Class, m.Error.Desc)
	default:
		return fmt.Errorf("%w: a message that is neither reply nor event", ErrProtocol)
	}
}

// emit queues an event; only the reader calls it.
func (c *Client) emit(e Event) {
	for {
		select {
		case c.events <- e:
			return
		default:
		}
		select {
		case <-c.events:
			c.dropped.Add(1)
		default:
		}
	}
}
