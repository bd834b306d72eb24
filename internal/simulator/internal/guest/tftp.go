// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// A TFTP client after RFC 1350, 2347, 2348, 2349 and 7440.

const (
	tftpPort = 69

	tftpRead  = 1
	tftpData  = 3
	tftpACK   = 4
	tftpError = 5
	tftpOACK  = 6

	tftpDefaultBlock = 512
)

// tftpRequest is how one program requests a file.
type tftpRequest struct {
	server netip.Addr
	name   string
	// options are sent in this order: name, value.
	options [][2]string
	// probe ends the transfer after the server's options, with an error packet.
	probe bool
	// abortAfter ends the transfer with an error packet after that many blocks; 0
	// does not.
	abortAfter int
	// wait is how long to wait for a packet, tries how often a packet is sent.
	wait  time.Duration
	tries int
}

// Outcomes of a transfer.
var (
	errTFTPSilent  = errors.New("the TFTP server does not answer")
	errTFTPAborted = errors.New("the transfer was aborted")
)

// tftpServerError is an error packet of the server.
type tftpServerError struct {
	code uint16
	text string
}

func (e *tftpServerError) Error() string { return fmt.Sprintf("TFTP error %d: %s", e.code, e.text) }

// tftp fetches a file and passes its bytes to to. It returns the size that the server
// announced, -1 if it announced none.
func (w *network) tftp(ctx context.Context, r tftpRequest, to io.Writer) (int64, error) {
	conn, err := w.listenUDP(0)
	if err != nil {
		return -1, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	t := tftpTransfer{
		request: r, conn: conn, to: to, size: -1, block: tftpDefaultBlock, window: 1,
		peer: net.UDPAddrFromAddrPort(netip.AddrPortFrom(r.server, tftpPort)),
	}
	t.write = func(b []byte) error {
		_, err := conn.WriteTo(b, t.peer)
		return err
	}
	t.last = t.readRequest()
	err = t.run(ctx)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return t.size, err
}

type tftpTransfer struct {
	request tftpRequest
	conn    *gonet.UDPConn
	// write sends a packet to peer.
	write func([]byte) error
	to    io.Writer
	// peer is the server's port for this transfer, once known is set.
	peer  *net.UDPAddr
	known bool
	// last is the packet that is sent again if nothing is received.
	last []byte

	size           int64
	block, window  int
	received       uint16 // the last block received in order
	blocks         int
	unacknowledged int
	// complained is set after a lost block was reported, until the next block.
	complained bool
}

func (t *tftpTransfer) readRequest() []byte {
	b := binary.BigEndian.AppendUint16(nil, tftpRead)
	for _, s := range []string{t.request.name, "octet"} {
		b = append(append(b, s...), 0)
	}
	for _, o := range t.request.options {
		b = append(append(append(append(b, o[0]...), 0), o[1]...), 0)
	}
	return b
}

func (t *tftpTransfer) run(ctx context.Context) error {
	buf := make([]byte, t.maxPacket())
	if err := t.write(t.last); err != nil {
		return err
	}
	deadline := time.Now().Add(t.request.wait)
	for tries := 1; ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := t.conn.SetReadDeadline(deadline); err != nil {
			return err
		}
		n, from, err := t.conn.ReadFrom(buf)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			if tries++; tries > t.request.tries {
				return errTFTPSilent
			}
			if err := t.write(t.last); err != nil {
				return err
			}
			deadline = time.Now().Add(t.request.wait)
			continue
		}
		if err != nil {
			return err
		}
		if !t.accept(from) {
			continue
		}
		progress, done, err := t.handle(buf[:n])
		if done || err != nil {
			return err
		}
		if progress {
			tries = 1
			deadline = time.Now().Add(t.request.wait)
		}
	}
}

// maxPacket is the largest packet that the requested options allow.
func (t *tftpTransfer) maxPacket() int {
	size := defaultMTU
	for _, o := range t.request.options {
		if n, err := strconv.Atoi(o[1]); err == nil && o[0] == "blksize" {
			size = max(size, 4+n)
		}
	}
	return size
}

// accept reports whether a packet is from the server's port of this transfer, which
// the first packet determines.
func (t *tftpTransfer) accept(from net.Addr) bool {
	a, ok := from.(*net.UDPAddr)
	if !ok || !a.IP.Equal(t.peer.IP) {
		return false
	}
	if !t.known {
		t.peer, t.known = a, true
	}
	return a.Port == t.peer.Port
}

func (t *tftpTransfer) handle(b []byte) (progress, done bool, err error) {
	if len(b) < 4 {
		return false, false, nil
	}
	number := binary.BigEndian.Uint16(b[2:])
	switch binary.BigEndian.Uint16(b) {
	case tftpError:
		return false, true, &tftpServerError{number, text(b[4:])}
	case tftpOACK:
		if t.blocks > 0 {
			return false, false, nil
		}
		t.negotiate(b[2:])
		if t.request.probe {
			return true, true, t.fail(8, "User aborted the transfer")
		}
		return true, false, t.acknowledge(0)
	case tftpData:
		return t.data(number, b[4:])
	}
	return false, false, nil
}

func (t *tftpTransfer) data(number uint16, payload []byte) (progress, done bool, err error) {
	switch {
	case number == t.received+1:
	case number == t.received && t.unacknowledged == 0:
		return false, false, t.acknowledge(number) // the acknowledgement was lost
	case int16(number-t.received) > 0 && !t.complained: // modulo 2^16
		// A block was lost: the server continues after the last one in order.
		t.complained = true
		return false, false, t.acknowledge(t.received)
	default:
		return false, false, nil
	}
	t.received = number
	t.complained = false
	t.blocks++
	t.unacknowledged++
	if t.request.probe || t.request.abortAfter > 0 && t.blocks >= t.request.abortAfter {
		// Code 0 in the middle of a transfer, as OVMF sends it.
		return true, true, t.fail(0, "User aborted the transfer")
	}
	if _, err := t.to.Write(payload); err != nil {
		return false, true, errors.Join(err, t.fail(3, "Out of resources"))
	}
	last := len(payload) < t.block
	if last || t.unacknowledged >= t.window {
		if err := t.acknowledge(number); err != nil {
			return false, true, err
		}
	}
	return true, last, nil
}

// negotiate reads the server's options, which cannot exceed what was requested.
func (t *tftpTransfer) negotiate(b []byte) {
	fields := bytes.Split(b, []byte{0})
	for i := 0; i+1 < len(fields); i += 2 {
		n, err := strconv.ParseInt(string(fields[i+1]), 10, 64)
		if err != nil || n < 0 {
			continue
		}
		switch name := string(bytes.ToLower(fields[i])); {
		case name == "tsize":
			t.size = n
		case name == "blksize" && n >= 8 && n <= int64(t.maxPacket()-4):
			t.block = int(n)
		case name == "windowsize" && n >= 1 && n <= 64:
			t.window = int(n)
		}
	}
}

func (t *tftpTransfer) acknowledge(number uint16) error {
	t.unacknowledged = 0
	b := binary.BigEndian.AppendUint16(nil, tftpACK)
	t.last = binary.BigEndian.AppendUint16(b, number)
	return t.write(t.last)
}

// fail sends an error packet, which ends the transfer.
func (t *tftpTransfer) fail(code uint16, reason string) error {
	b := binary.BigEndian.AppendUint16(nil, tftpError)
	b = binary.BigEndian.AppendUint16(b, code)
	if err := t.write(append(append(b, reason...), 0)); err != nil {
		return err
	}
	return errTFTPAborted
}
