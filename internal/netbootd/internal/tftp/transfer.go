// SPDX-License-Identifier: Apache-2.0

package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// maxBackoff limits the wait for an acknowledgement if the client did not
// negotiate a timeout.
const maxBackoff = 8 * time.Second

// transfer sends one file to one client, from a separate port.
type transfer struct {
	opts   *Options
	req    request
	client netip.AddrPort
	local  netip.Addr
	start  time.Time

	conn      *net.UDPConn
	file      File
	blockSize int
	window    int64
	timeout   time.Duration
	buf       []byte // one packet

	// Block numbers count from 1, without the roll-over of those on the wire:
	// acked is the last acknowledged block, sent the last sent block, and last
	// the final block, which is shorter than the others and may be empty.
	acked, sent, last int64
}

// run performs the transfer and emits an event with its result.
func (t *transfer) run(ctx context.Context) {
	err := t.serve(ctx)
	var remote *remoteError
	switch {
	case err == nil, t.lastUnanswered(err):
		t.event(Done, "")
	case errors.As(err, &remote) && t.acked == 0 && t.sent == 0 && t.req.hasOptions():
		// EDK2 requests the options, aborts with error 8 or 0, and requests again.
		t.event(Probe, "")
	default:
		t.event(Abort, err.Error())
	}
}

// lastUnanswered reports whether only the acknowledgement of the last block is
// missing. It may be lost like any packet, and a client that has the whole file
// does not repeat it and may have closed its port.
func (t *transfer) lastUnanswered(err error) bool {
	ended := errors.Is(err, errGone) || errors.Is(err, errSilent)
	return ended && t.acked > 0 && t.acked == t.last-1
}

func (t *transfer) event(k Kind, text string) {
	t.opts.Events(Event{
		Kind: k, Client: t.client, Name: t.req.name, Bytes: t.bytesAcked(), Size: t.file.Size,
		Duration: time.Since(t.start), Err: text,
	})
}

func (t *transfer) bytesAcked() int64 { return min(t.acked*int64(t.blockSize), t.file.Size) }

func (t *transfer) serve(ctx context.Context) (err error) {
	// On a connected socket the kernel drops packets from other senders (RFC
	// 1350's unknown transfer ID) and reports when the client closed its port.
	t.conn, err = net.DialUDP("udp4",
		net.UDPAddrFromAddrPort(netip.AddrPortFrom(t.local, 0)), net.UDPAddrFromAddrPort(t.client))
	if err != nil {
		return fmt.Errorf("opening a port for the transfer: %w", err)
	}
	defer t.conn.Close()
	defer context.AfterFunc(ctx, func() { _ = t.conn.SetReadDeadline(time.Unix(1, 0)) })()

	t.file, err = t.opts.Handler.Open(ctx, t.req.name, t.client)
	if err != nil {
		t.sendError(openError(err))
		return fmt.Errorf("opening the file: %w", err)
	}
	if t.file.Close != nil {
		defer func() { err = errors.Join(err, t.file.Close()) }()
	}
	t.negotiate()
	if t.req.hasOptions() {
		if err := t.sendOptions(ctx); err != nil {
			return err
		}
	}
	t.event(Start, "")
	return t.sendFile(ctx)
}

func openError(err error) *remoteError {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &remoteError{codeNotFound, "file not found"}
	case errors.Is(err, fs.ErrPermission):
		return &remoteError{codeAccess, "access denied"}
	}
	return &remoteError{codeUndefined, "cannot open file"}
}

// negotiate sets the transfer's parameters: those the client requested, within
// the server's limits.
func (t *transfer) negotiate() {
	if t.req.blockSize != 0 {
		t.req.blockSize = min(t.req.blockSize, t.opts.MaxBlockSize)
	}
	if t.req.window != 0 {
		t.req.window = min(t.req.window, t.opts.MaxWindow)
	}
	t.blockSize = defaultBlockSize
	if t.req.blockSize != 0 {
		t.blockSize = t.req.blockSize
	}
	t.window = max(1, int64(t.req.window))
	t.timeout = t.opts.Timeout
	if t.req.timeout != 0 {
		t.timeout = t.req.timeout
	}
	t.last = t.file.Size/int64(t.blockSize) + 1
	t.buf = make([]byte, 4+t.blockSize)
}

// sendOptions sends the OACK until the client acknowledges it as block 0.
func (t *transfer) sendOptions(ctx context.Context) error {
	b := binary.BigEndian.AppendUint16(nil, uint16(opOACK))
	if t.req.blockSize != 0 {
		b = appendOption(b, "blksize", int64(t.req.blockSize))
	}
	if t.req.timeout != 0 {
		b = appendOption(b, "timeout", int64(t.req.timeout/time.Second))
	}
	if t.req.size {
		b = appendOption(b, "tsize", t.file.Size)
	}
	if t.req.window != 0 {
		b = appendOption(b, "windowsize", int64(t.req.window))
	}
	wait := t.newBackoff()
	for {
		if err := t.write(b); err != nil {
			return err
		}
		block, err := t.readAck(ctx, wait.deadline(), func(block uint16) bool { return block == 0 })
		if err == nil && block == 0 {
			return nil
		}
		if err := t.afterTimeout(&wait, err); err != nil {
			return err
		}
	}
}

// sendFile sends the file window by window. A block is sent again only after a
// timeout or, with windows, when the client reports a lost one: answering every
// repeated acknowledgement would double the traffic for the rest of the transfer
// (the Sorcerer's Apprentice Syndrome).
func (t *transfer) sendFile(ctx context.Context) error {
	wait := t.newBackoff()
	// The deadline moves with progress and with timeouts, not with every packet,
	// so that a client that repeats a packet cannot keep the transfer alive.
	deadline := wait.deadline()
	mayResend := true
	for t.acked < t.last {
		for t.sent < min(t.acked+t.window, t.last) {
			if err := t.sendBlock(t.sent + 1); err != nil {
				return err
			}
			t.sent++
		}
		ack, err := t.readAck(ctx, deadline, t.inWindow)
		if err != nil {
			if err := t.afterTimeout(&wait, err); err != nil {
				return err
			}
			t.sent = t.acked
			mayResend = true
			deadline = wait.deadline()
			continue
		}
		progress := int64(ack - uint16(t.acked)) // modulo 2^16, which handles roll-over
		switch {
		case progress > 0:
			t.acked += progress
			wait, mayResend = t.newBackoff(), true
			deadline = wait.deadline()
			// RFC 7440: an acknowledgement within the window means that the rest
			// of the window was lost.
			if t.sent > t.acked {
				t.sent = t.acked
			}
		case t.window > 1 && mayResend:
			t.sent, mayResend = t.acked, false
		}
	}
	return nil
}

// inWindow reports whether an acknowledgement is for a block in flight or repeats
// the last one. Older ones are late duplicates.
func (t *transfer) inWindow(block uint16) bool {
	return int64(block-uint16(t.acked)) <= t.sent-t.acked
}

func (t *transfer) sendBlock(n int64) error {
	binary.BigEndian.PutUint16(t.buf, uint16(opData))
	binary.BigEndian.PutUint16(t.buf[2:], uint16(n))
	offset := (n - 1) * int64(t.blockSize)
	size := int(min(int64(t.blockSize), t.file.Size-offset))
	if got, err := t.file.ReadAt(t.buf[4:4+size], offset); got < size {
		t.sendError(&remoteError{codeUndefined, "cannot read file"})
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading at offset %d of %d: %w", offset, t.file.Size, err)
	}
	return t.write(t.buf[:4+size])
}

func (t *transfer) write(b []byte) error {
	_, err := t.conn.Write(b)
	switch {
	case err == nil, errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.EPERM):
		// Treat the packet as lost; the timeout handles it.
		return nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return errGone
	}
	return fmt.Errorf("sending: %w", err)
}

var (
	errGone   = errors.New("client closed its port")
	errSilent = errors.New("no acknowledgement")
)

// readAck waits until deadline for an acknowledgement that accept returns true
// for, and ignores others.
func (t *transfer) readAck(ctx context.Context, deadline time.Time, accept func(uint16) bool) (uint16, error) {
	var buf [4 + maxErrorText]byte
	_ = t.conn.SetReadDeadline(deadline)
	for {
		// Check after setting the deadline: cancellation sets one in the past,
		// which must not be overwritten unnoticed.
		if ctx.Err() != nil {
			if !errors.Is(context.Cause(ctx), errReplaced) {
				t.sendError(&remoteError{codeUndefined, "the server is shutting down"})
			}
			return 0, context.Cause(ctx)
		}
		n, err := t.conn.Read(buf[:])
		if err != nil {
			if errors.Is(err, syscall.ECONNREFUSED) {
				return 0, errGone
			}
			if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
				continue
			}
			return 0, err
		}
		block, remote, ok := parseReply(buf[:n])
		switch {
		case !ok:
		case remote != nil:
			return 0, fmt.Errorf("client sent %w", remote)
		case accept(block):
			return block, nil
		}
	}
}

// sendError sends an error packet, once: clients do not acknowledge it.
func (t *transfer) sendError(e *remoteError) {
	if err := t.write(e.packet()); err != nil {
		t.opts.Log.Debug("tftp: cannot send error", "client", t.client, "err", err)
	}
}

// afterTimeout returns nil if err is a timeout and retries are left, after
// extending the backoff. Otherwise it returns the error that ends the transfer.
func (t *transfer) afterTimeout(b *backoff, err error) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if b.tries++; b.tries > t.opts.Retries {
		t.sendError(&remoteError{codeUndefined, "no acknowledgement in time"})
		return fmt.Errorf("%w after block %d, sent %d times", errSilent, t.acked, b.tries)
	}
	if t.req.timeout == 0 {
		b.wait = min(2*b.wait, max(maxBackoff, t.timeout))
	}
	return nil
}

// backoff is the state of the wait for an acknowledgement.
type backoff struct {
	wait  time.Duration
	tries int
}

func (t *transfer) newBackoff() backoff { return backoff{wait: t.timeout} }

func (b backoff) deadline() time.Time { return time.Now().Add(b.wait) }
