// SPDX-License-Identifier: Apache-2.0

// Package tftp is a read-only TFTP server (RFC 1350 with the options of RFC
// 2347, 2348, 2349 and 7440) for network boot. It refuses writes and netascii,
// and leaves to its [Handler] which names exist.
package tftp

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/netip"
	"time"
)

// Handler opens what clients ask for.
type Handler interface {
	// Open returns the file of a name that is already clean: relative, with
	// forward slashes, without "..", never empty. An error that is
	// fs.ErrNotExist or fs.ErrPermission is told the client as such, any other
	// only as a failure. ctx ends with the transfer.
	Open(ctx context.Context, name string, client netip.AddrPort) (File, error)
}

// HandlerFunc makes a function a [Handler].
type HandlerFunc func(ctx context.Context, name string, client netip.AddrPort) (File, error)

// Open calls f.
func (f HandlerFunc) Open(ctx context.Context, name string, client netip.AddrPort) (File, error) {
	return f(ctx, name, client)
}

// File is an open file of a known size.
type File struct {
	io.ReaderAt
	Size int64
	// Close is called once when the transfer is over; nil is fine.
	Close func() error
}

// BytesFile is a File over bytes, which must not change while it is in use.
func BytesFile(b []byte) File { return File{ReaderAt: bytes.NewReader(b), Size: int64(len(b))} }

// Kind is what happened to a transfer.
type Kind string

const (
	// Start: the first data block is about to be sent.
	Start Kind = "Start"
	// Done: the client acknowledged the last block.
	Done Kind = "Done"
	// Probe: the client asked for the options only (EDK2 asks for the size
	// and aborts, then asks again). No failure.
	Probe Kind = "Probe"
	// Abort: the transfer failed or was refused; Err says why.
	Abort Kind = "Abort"
)

// Event is one step of a transfer.
type Event struct {
	Kind   Kind
	Client netip.AddrPort
	Name   string
	// Bytes is how much the client has acknowledged; Size is the whole.
	Bytes, Size int64
	// Duration is since the request.
	Duration time.Duration
	// Err is set with Abort.
	Err string
}

// Options of a server. Handler is required; zero values elsewhere mean the
// defaults named there.
type Options struct {
	// Addr is where to listen, "host:port". A host is wanted where the machine
	// has several networks; without one, replies still come from the address
	// that was asked. Port 0 picks a free one.
	Addr    string
	Handler Handler
	// Events is called with every event, from several goroutines at once. It
	// must not block.
	Events func(Event)
	Log    *slog.Logger
	// MaxTransfers (256) and MaxPerClient (8, by address) limit what runs at
	// the same time; more is refused with an error.
	MaxTransfers, MaxPerClient int
	// MaxBlockSize (65464) and MaxWindow (64) cap what clients negotiate.
	MaxBlockSize, MaxWindow int
	// Timeout (1 s) is the first wait for an acknowledgement where the client
	// negotiated none; it doubles up to 8 s. Retries (6) is how often the same
	// window is sent again.
	Timeout time.Duration
	Retries int
}
