// SPDX-License-Identifier: Apache-2.0

package tftp

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/netip"
	"time"
)

// Handler opens the files that clients request.
type Handler interface {
	// Open opens the file with the given name, which is relative, has forward
	// slashes, no "..", and is not empty. The client is sent fs.ErrNotExist and
	// fs.ErrPermission as such, and any other error without its text. ctx ends
	// with the transfer. Open is called concurrently.
	Open(ctx context.Context, name string, client netip.AddrPort) (File, error)
}

// HandlerFunc adapts a function to a [Handler].
type HandlerFunc func(ctx context.Context, name string, client netip.AddrPort) (File, error)

// Open calls f.
func (f HandlerFunc) Open(ctx context.Context, name string, client netip.AddrPort) (File, error) {
	return f(ctx, name, client)
}

// File is an open file of a known size.
type File struct {
	io.ReaderAt
	Size int64
	// Close, which may be nil, is called once at the end of the transfer.
	Close func() error
}

// BytesFile returns a File with the content b, which must not change while the
// File is in use.
func BytesFile(b []byte) File { return File{ReaderAt: bytes.NewReader(b), Size: int64(len(b))} }

// Kind is the kind of an Event.
type Kind string

const (
	// Start means that the first data block is about to be sent.
	Start Kind = "Start"
	// Done means that the client has received the whole file.
	Done Kind = "Done"
	// Probe means that the client requested only the options: EDK2 requests the
	// size, aborts, and sends the request again. It is not a failure.
	Probe Kind = "Probe"
	// Abort means that the transfer failed or was refused; Err is the reason.
	Abort Kind = "Abort"
)

// Event is a change in the state of a transfer.
type Event struct {
	Kind   Kind
	Client netip.AddrPort
	Name   string
	// Bytes is the number of acknowledged bytes; Size is the size of the file.
	Bytes, Size int64
	// Duration is the time since the request.
	Duration time.Duration
	// Err is set for Abort.
	Err string
}

// Options are the options of a Server. Handler is required; a zero number
// selects the default given in parentheses.
type Options struct {
	// Addr is the "host:port" on which to listen. Without a host, the server
	// listens on all networks and replies from the address to which a request
	// was sent. Port 0 selects a free port.
	Addr    string
	Handler Handler
	// Events, if set, is called concurrently with every event. It must not
	// block.
	Events func(Event)
	// Log is the server's log; nil discards it.
	Log *slog.Logger
	// MaxTransfers (256) and MaxPerClient (8, by address) limit the concurrent
	// transfers; further requests are refused with an error.
	MaxTransfers, MaxPerClient int
	// MaxBlockSize (65464) and MaxWindow (64) limit the negotiated options.
	MaxBlockSize, MaxWindow int
	// Timeout (1 s) is the first wait for an acknowledgement if the client did
	// not negotiate a timeout; it doubles up to 8 s. Retries (6) is how often a
	// window is sent again.
	Timeout time.Duration
	Retries int
}
