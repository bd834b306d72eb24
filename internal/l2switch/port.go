// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// socketBuffer is asked for in both directions; the kernel may give less.
	// On macOS it also bounds the size of one datagram.
	socketBuffer = 4 << 20
	// absentPause is how long a missing peer is not tried again, unless it
	// sends something first.
	absentPause = 20 * time.Millisecond
	// fullPause is the wait between tries where the system cannot tell when
	// the peer has room again (macOS).
	fullPause = 200 * time.Microsecond
)

// port is one machine's connection. It receives on a bound socket that takes
// frames from anybody, and sends on a second one that is connected to the
// machine's: only a connected socket tells when a full peer has room again,
// and a connected one would refuse frames from a machine that came back.
type port struct {
	s             *Switch
	name          string
	local, remote string
	rx            *net.UnixConn
	rxFile        os.FileInfo
	policy        atomic.Pointer[policy]

	rxFrames, rxBytes, txFrames, txBytes, unlearned atomic.Uint64
	drops                                           dropCounters

	heard atomic.Bool // the machine sent something since it was found absent
	done  chan struct{}
	wake  chan struct{}
	wg    sync.WaitGroup

	mu     sync.Mutex
	closed bool
	queue  queue
	// chance and lastDue are for impairment: a source of its own, so that what
	// happens to a port does not depend on the others, and when the latest frame
	// may leave.
	chance  *rand.Rand
	lastDue time.Time
	// busy: the writer holds a frame it has taken from the queue. Who sends
	// while it is set must queue.
	busy bool

	// The connection belongs to whoever holds mu while the port is not busy,
	// else to the writer. tx is atomic for close alone.
	tx      atomic.Pointer[net.UnixConn]
	txRaw   syscall.RawConn
	retryAt time.Time

	// The frame and result of the try in progress, and the functions that
	// RawConn calls: made once, because a closure per frame would allocate.
	trying  []byte
	result  error
	tryOnce func(fd uintptr)
	tryWait func(fd uintptr) bool
}

type dropCounters struct {
	runt, oversize, badSource, spoofed, dhcpServer, router atomic.Uint64
	queueFull, peerAbsent, impaired                        atomic.Uint64
}

func openPort(s *Switch, c PortConfig) (*port, error) {
	rx, file, err := bind(c.Local, c.Remote)
	if err != nil {
		return nil, err
	}
	p := &port{
		s: s, name: c.Name, local: c.Local, remote: c.Remote,
		rx: rx, rxFile: file,
		done: make(chan struct{}), wake: make(chan struct{}, 1),
		chance: chance(s.opts.Seed, c.Name),
		queue:  queue{maxFrames: s.opts.QueueFrames, maxBytes: s.opts.QueueBytes, large: s.maxFrame},
	}
	p.tryOnce = func(fd uintptr) { p.result = writeFrame(fd, p.trying) }
	p.tryWait = func(fd uintptr) bool {
		p.result = writeFrame(fd, p.trying)
		return !errors.Is(p.result, syscall.EAGAIN)
	}
	return p, nil
}

func writeFrame(fd uintptr, b []byte) error {
	for {
		_, err := syscall.Write(int(fd), b)
		if err != syscall.EINTR { // an errno, on the path of every frame
			return err
		}
	}
}

func (p *port) start() {
	p.wg.Go(p.receive)
	p.wg.Go(p.drain)
}

// close ends both goroutines and waits for them.
func (p *port) close() {
	p.mu.Lock()
	p.closed = true
	p.queue.clear()
	p.mu.Unlock()
	close(p.done) // before tx is looked at: connect looks the other way round
	_ = p.rx.Close()
	// A switch that took over meanwhile keeps its file.
	if now, err := os.Lstat(p.local); err == nil && os.SameFile(now, p.rxFile) {
		if err := removeStale(p.local); err != nil && !errors.Is(err, ErrInUse) {
			p.s.log.Warn("cannot remove switch socket", "port", p.name, "err", err)
		}
	}
	if tx := p.tx.Load(); tx != nil {
		_ = tx.Close()
	}
	p.wg.Wait()
	p.disconnect()
}

// receive reads frames until the port is closed.
func (p *port) receive() {
	// One byte more than the largest frame tells a truncated one.
	buf := make([]byte, p.s.maxFrame+1)
	for {
		n, err := p.rx.Read(buf)
		switch {
		case err == nil:
			p.heard.Store(true)
			p.s.forward(p, buf[:n])
		case errors.Is(err, net.ErrClosed):
			return
		default:
			p.s.log.Warn("cannot read from switch port", "port", p.name, "err", err)
			if !p.sleep(absentPause) {
				return
			}
		}
	}
}

// send takes a frame to the machine now if it can, else queues a copy; or
// loses or delays it as i wants. It never blocks.
func (p *port) send(frame []byte, now time.Time, i *Impairment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	if i.Loss > 0 && p.chance.Float64() < i.Loss {
		p.drops.impaired.Add(1)
		return
	}
	due := p.due(now, i)
	if due.IsZero() && !p.busy && p.queue.len() == 0 {
		if err := p.try(frame); !isFull(err) {
			p.account(err, len(frame))
			return
		}
	}
	room := 1
	if !p.lastDue.IsZero() {
		room = latencyRoom
	}
	if !p.queue.push(frame, due, room) {
		p.drops.queueFull.Add(1)
		return
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// drain sends what is queued until the port is closed.
func (p *port) drain() {
	for {
		it, wait := p.take()
		switch {
		case it.buf != nil:
			err := p.sendWaiting(it.frame())
			p.account(err, it.n)
			p.queue.release(it)
		case wait > 0:
			if !p.sleep(wait) {
				return
			}
		default:
			select {
			case <-p.wake:
			case <-p.done:
				return
			}
		}
	}
}

// take gives the next frame that is due and makes the port busy with it, or
// says how long to wait for it; neither when the queue is empty.
func (p *port) take() (item, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy = false
	it, ok := p.queue.front()
	if !ok || p.closed {
		return item{}, 0
	}
	if !it.due.IsZero() {
		if wait := time.Until(it.due); wait > 0 {
			return item{}, wait
		}
	}
	p.queue.pop()
	p.busy = true
	return it, 0
}

// try sends without waiting. It needs p.mu, or busy.
func (p *port) try(frame []byte) error {
	return p.attempt(frame, func() error {
		if err := p.txRaw.Control(p.tryOnce); err != nil {
			return err
		}
		return p.result
	})
}

// sendWaiting sends and waits while the machine is full; it ends when the
// machine goes away or the port is closed. Busy must be set.
func (p *port) sendWaiting(frame []byte) error {
	for {
		err := p.attempt(frame, func() error {
			if err := p.txRaw.Write(p.tryWait); err != nil {
				return err
			}
			return p.result
		})
		if !isFull(err) {
			return err
		}
		if !p.sleep(fullPause) {
			return net.ErrClosed
		}
	}
}

// attempt runs write with a connection there, and once more with a new one if
// the machine behind the old one is gone.
func (p *port) attempt(frame []byte, write func() error) error {
	for range 2 {
		if p.txRaw == nil {
			if err := p.connect(); err != nil {
				return err
			}
		}
		p.trying = frame
		err := write()
		p.trying = nil
		if err == nil || isFull(err) || errors.Is(err, syscall.EMSGSIZE) {
			return err
		}
		p.disconnect()
	}
	return errAbsent
}

var errAbsent = errors.New("no machine at the port")

func (p *port) connect() error {
	if heard := p.heard.Swap(false); !heard && time.Now().Before(p.retryAt) {
		return errAbsent
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: p.remote, Net: "unixgram"})
	if err != nil {
		p.retryAt = time.Now().Add(absentPause)
		return errAbsent
	}
	_ = c.SetWriteBuffer(socketBuffer) // best effort: the system's limit stands
	raw, err := c.SyscallConn()
	if err != nil {
		_ = c.Close()
		return errAbsent
	}
	p.tx.Store(c)
	p.txRaw = raw
	select {
	case <-p.done:
		p.disconnect()
		return net.ErrClosed
	default:
		return nil
	}
}

func (p *port) disconnect() {
	if c := p.tx.Swap(nil); c != nil {
		_ = c.Close()
	}
	p.txRaw = nil
}

// account counts what became of a frame of n bytes on its way out.
func (p *port) account(err error, n int) {
	switch {
	case err == nil:
		p.txFrames.Add(1)
		p.txBytes.Add(uint64(n))
	case errors.Is(err, syscall.EMSGSIZE):
		p.drops.oversize.Add(1)
	default:
		p.drops.peerAbsent.Add(1)
	}
}

func (p *port) stats() PortStats {
	p.mu.Lock()
	queued := p.queue.len()
	if p.busy {
		queued++
	}
	p.mu.Unlock()
	return PortStats{
		Name:     p.name,
		RxFrames: p.rxFrames.Load(), RxBytes: p.rxBytes.Load(),
		TxFrames: p.txFrames.Load(), TxBytes: p.txBytes.Load(),
		Unlearned: p.unlearned.Load(),
		Queued:    queued,
		Drops: Drops{
			Runt: p.drops.runt.Load(), Oversize: p.drops.oversize.Load(),
			BadSource: p.drops.badSource.Load(), Spoofed: p.drops.spoofed.Load(),
			DHCPServer: p.drops.dhcpServer.Load(), Router: p.drops.router.Load(),
			QueueFull:  p.drops.queueFull.Load(),
			PeerAbsent: p.drops.peerAbsent.Load(), Impaired: p.drops.impaired.Load(),
		},
	}
}

// sleep waits, and says whether the port is still open.
func (p *port) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-p.done:
		return false
	}
}

// isFull says whether the machine's socket has no room now: Linux says EAGAIN,
// macOS ENOBUFS.
func isFull(err error) bool {
	return errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.ENOBUFS)
}
