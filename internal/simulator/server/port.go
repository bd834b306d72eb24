// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/machine"
)

const (
	// maxDatagram is more than the longest Ethernet frame of a lab network.
	maxDatagram = 16 << 10
	// sendPatience is how long a frame waits for room in the switch's socket, which
	// holds ten frames. A switch that hangs must not stop a guest for longer.
	sendPatience = 20 * time.Millisecond
	// absentPause is the time until a missing switch is tried again.
	absentPause = 20 * time.Millisecond
)

// port is the connection of a NIC. As QEMU does for "-netdev dgram", it receives on a
// socket that it binds and sends to that of the switch, which may appear, vanish and
// reappear at any time. It sends on a second socket, which is connected: only that one
// reports when a full peer has room again.
type port struct {
	id            string
	local, remote string
	rx            *net.UnixConn
	receiving     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	tx      *net.UnixConn
	txRaw   syscall.RawConn
	retryAt time.Time
}

// openPort binds the socket of a NIC.
func openPort(id string, d machine.Dgram) (*port, error) {
	if err := removeSocket("unixgram", d.Local); err != nil {
		return nil, err
	}
	rx, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: d.Local, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("binding the socket of a network card: %w", err)
	}
	if err := os.Chmod(d.Local, 0o600); err != nil {
		return nil, errors.Join(err, rx.Close())
	}
	return &port{id: id, local: d.Local, remote: d.Remote, rx: rx}, nil
}

// start delivers received frames, each in memory of its own, until the port is closed.
func (p *port) start(deliver func(frame []byte)) {
	p.receiving.Go(func() { p.receive(deliver) })
}

// buffers are shared by all ports, so that one that waits for a frame needs none.
var buffers = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

func (p *port) receive(deliver func(frame []byte)) {
	raw, err := p.rx.SyscallConn()
	if err != nil {
		return
	}
	var frame []byte
	var result error
	read := func(fd uintptr) bool {
		buffer := buffers.Get().(*[maxDatagram]byte)
		defer buffers.Put(buffer)
		n, err := syscall.Read(int(fd), buffer[:])
		for errors.Is(err, syscall.EINTR) {
			n, err = syscall.Read(int(fd), buffer[:])
		}
		frame, result = nil, err
		if err == nil && n < maxDatagram { // a longer one may be cut
			frame = append(frame, buffer[:n]...)
		}
		return !errors.Is(err, syscall.EAGAIN)
	}
	for {
		if err := raw.Read(read); err != nil {
			return // closed
		}
		if result != nil {
			time.Sleep(absentPause)
			continue
		}
		if len(frame) > 0 {
			deliver(frame)
		}
	}
}

// send transmits a frame. It blocks for sendPatience at most, and drops the frame when
// the switch is absent or has no room by then.
func (p *port) send(frame []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range 2 {
		if p.closed || p.tx == nil && !p.connect() {
			return
		}
		err := p.write(frame)
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.EMSGSIZE) || errors.Is(err, syscall.ENOBUFS) {
			return
		}
		p.disconnect() // the switch has been replaced
	}
}

// connect connects to the switch, unless it was absent a moment ago. The caller holds
// mu.
func (p *port) connect() bool {
	now := time.Now()
	if now.Before(p.retryAt) {
		return false
	}
	tx, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: p.remote, Net: "unixgram"})
	if err != nil {
		p.retryAt = now.Add(absentPause)
		return false
	}
	raw, err := tx.SyscallConn()
	if err != nil {
		_ = tx.Close()
		return false
	}
	p.tx, p.txRaw = tx, raw
	return true
}

// disconnect closes the connection to the switch. The caller holds mu.
func (p *port) disconnect() {
	if p.tx != nil {
		_ = p.tx.Close()
	}
	p.tx, p.txRaw = nil, nil
}

// write sends a frame, and waits for room. The caller holds mu.
func (p *port) write(frame []byte) error {
	var result error
	err := p.txRaw.Control(func(fd uintptr) { result = writeFrame(fd, frame) })
	if err != nil || !errors.Is(result, syscall.EAGAIN) {
		return errors.Join(err, result)
	}
	if err := p.tx.SetWriteDeadline(time.Now().Add(sendPatience)); err != nil {
		return err
	}
	err = p.txRaw.Write(func(fd uintptr) bool {
		result = writeFrame(fd, frame)
		return !errors.Is(result, syscall.EAGAIN)
	})
	if err != nil {
		result = nil
	}
	return errors.Join(err, result, p.tx.SetWriteDeadline(time.Time{}))
}

func writeFrame(fd uintptr, frame []byte) error {
	for {
		_, err := syscall.Write(int(fd), frame)
		if err != syscall.EINTR { // a plain errno; errors.Is would cost time for every frame
			return err
		}
	}
}

// close ends the port and removes its socket. Idempotent.
func (p *port) close() {
	p.mu.Lock()
	closed := p.closed
	p.closed = true
	p.disconnect()
	p.mu.Unlock()
	if closed {
		return
	}
	_ = p.rx.Close()
	p.receiving.Wait()
	// One that another process has bound meanwhile stays.
	_ = hostfs.RemoveStaleSocket("unixgram", p.local)
}
