// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"errors"
	"net"
	"syscall"
	"time"
)

// send delivers a frame to the machine immediately if possible and queues a copy
// otherwise, subject to the loss and delay of i. It never blocks.
func (p *port) send(frame []byte, now time.Time, i *Impairment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	if i.Loss > 0 && p.rand.Float64() < i.Loss {
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
	switch {
	case !p.lastDue.IsZero():
		room = latencyRoom
	case p.draining && now.Sub(p.progress) > stuckAfter:
		p.drops.queueFull.Add(p.queue.trim())
	}
	if !p.queue.push(frame, due, room) {
		p.drops.queueFull.Add(1)
		return
	}
	if !p.draining {
		p.draining = true
		p.progress = now
		p.wg.Go(p.drain)
	}
}

// drain sends queued frames until none is left or the port is closed.
func (p *port) drain() {
	for {
		it, wait := p.take()
		switch {
		case it.buf != nil:
			err := p.sendWaiting(it.frame())
			p.account(err, it.n)
			p.queue.release(it)
		case wait == 0, !p.sleep(wait):
			return
		}
	}
}

// take returns the next frame that is due and marks the port busy, or returns how
// long to wait for it. Both are zero if the queue is empty: the writer must end.
func (p *port) take() (item, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy = false
	it, ok := p.queue.front()
	if !ok || p.closed {
		p.draining = false
		p.queue.shrink()
		return item{}, 0
	}
	if !it.due.IsZero() {
		if wait := time.Until(it.due); wait > 0 {
			return item{}, wait
		}
	}
	p.queue.pop()
	p.busy = true
	p.progress = time.Now()
	return it, 0
}

// try sends without waiting. It requires p.mu or busy.
func (p *port) try(frame []byte) error {
	return p.attempt(frame, func() error {
		if err := p.txRaw.Control(p.tryOnce); err != nil {
			return err
		}
		return p.result
	})
}

// sendWaiting sends and waits while the machine's socket is full. It returns when
// the machine disappears or the port is closed. It requires busy.
func (p *port) sendWaiting(frame []byte) error {
	for pause := fullPause; ; pause = min(2*pause, longestFullPause) {
		err := p.attempt(frame, func() error {
			if err := p.txRaw.Write(p.tryWait); err != nil {
				return err
			}
			return p.result
		})
		if !isFull(err) {
			return err
		}
		if !p.sleep(pause) {
			return net.ErrClosed
		}
	}
}

// attempt calls write on the connection, and once more on a new connection if the
// peer of the old one is gone.
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
	_ = c.SetWriteBuffer(socketBuffer) // best effort: the kernel may grant less
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

// sleep waits for d and returns whether the port is still open.
func (p *port) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.done:
		return false
	}
}

// isFull reports whether the machine's socket is full: Linux returns EAGAIN, macOS
// ENOBUFS.
func isFull(err error) bool {
	return errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.ENOBUFS)
}
