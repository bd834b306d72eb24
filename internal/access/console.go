// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// viewerQueue is how many reads of the console a slow viewer may lag
	// behind before it misses some.
	viewerQueue = 256
	// inputTimeout bounds how long a guest that does not read its serial port
	// may hold up who types; what does not go out is dropped, as on a wire.
	inputTimeout = 2 * time.Second
)

// consoles keeps one connection per serial socket while anyone is attached:
// QEMU serves one client at a time, and leaves all others waiting unanswered.
type consoles struct {
	ctx  context.Context
	mu   sync.Mutex
	hubs map[string]*hub
	// readers are the hubs' goroutines.
	readers sync.WaitGroup
}

func newConsoles(ctx context.Context) *consoles {
	return &consoles{ctx: ctx, hubs: map[string]*hub{}}
}

func (c *consoles) wait() { c.readers.Wait() }

// hub is one serial console and everybody who is attached to it.
type hub struct {
	consoles *consoles
	socket   string
	upstream net.Conn
	// input keeps one viewer's writes in one piece.
	input sync.Mutex
	// viewers is guarded by consoles.mu; nil once the upstream ended.
	viewers map[*viewer]struct{}
}

// viewer is one attached client.
type viewer struct {
	hub    *hub
	output chan []byte // closed when the console ends
	missed int         // bytes; guarded by consoles.mu
}

// attach adds a viewer, connecting to the socket if it is the first. detach it
// in the end.
func (c *consoles) attach(ctx context.Context, socket string) (*viewer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.hubs[socket]
	if h == nil {
		// Connecting to a UNIX socket of this host does not wait, so the lock
		// may be held.
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err != nil {
			return nil, fmt.Errorf("the machine does not run, its console is not there (%w): %w", err, ErrUnavailable)
		}
		h = &hub{consoles: c, socket: socket, upstream: conn, viewers: map[*viewer]struct{}{}}
		c.hubs[socket] = h
		c.readers.Go(h.read)
	}
	v := &viewer{hub: h, output: make(chan []byte, viewerQueue)}
	h.viewers[v] = struct{}{}
	return v, nil
}

// read passes on what the console says until it ends.
func (h *hub) read() {
	defer context.AfterFunc(h.consoles.ctx, func() { h.upstream.Close() })()
	buffer := make([]byte, 16<<10)
	for {
		n, err := h.upstream.Read(buffer)
		if n > 0 {
			h.broadcast(buffer[:n])
		}
		if err != nil {
			h.end()
			return
		}
	}
}

func (h *hub) broadcast(p []byte) {
	h.consoles.mu.Lock()
	defer h.consoles.mu.Unlock()
	for v := range h.viewers {
		out := append([]byte(nil), p...)
		if v.missed > 0 {
			out = append(fmt.Appendf(nil, "\r\n[pxelab: %d bytes left out, this viewer was too slow]\r\n", v.missed), p...)
		}
		select {
		case v.output <- out:
			v.missed = 0
		default:
			v.missed += len(p)
		}
	}
}

// end lets go of the upstream and of all viewers.
func (h *hub) end() {
	h.upstream.Close()
	h.consoles.mu.Lock()
	defer h.consoles.mu.Unlock()
	h.forget()
	for v := range h.viewers {
		close(v.output)
	}
	h.viewers = nil
}

// forget makes the next attach connect anew. consoles.mu is held.
func (h *hub) forget() {
	if h.consoles.hubs[h.socket] == h {
		delete(h.consoles.hubs, h.socket)
	}
}

// write types p on the console. Nil also when the guest took none of it.
func (h *hub) write(p []byte) error {
	h.input.Lock()
	defer h.input.Unlock()
	if err := h.upstream.SetWriteDeadline(time.Now().Add(inputTimeout)); err != nil {
		return err
	}
	_, err := h.upstream.Write(p)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return nil
	}
	return err
}

// detach removes the viewer; the last one closes the upstream. Idempotent.
func (v *viewer) detach() {
	h := v.hub
	h.consoles.mu.Lock()
	defer h.consoles.mu.Unlock()
	if _, attached := h.viewers[v]; !attached {
		return
	}
	delete(h.viewers, v)
	close(v.output)
	if len(h.viewers) == 0 {
		h.forget()
		h.upstream.Close()
	}
}

// serve connects client and console until either ends or ctx does. It closes
// client.
func (v *viewer) serve(ctx context.Context, client net.Conn) {
	defer context.AfterFunc(ctx, func() { client.Close() })()
	var typing sync.WaitGroup
	typing.Go(func() {
		defer v.detach() // ends the loop below
		_, _ = io.Copy(writerFunc(v.hub.write), client)
	})
	for out := range v.output {
		if _, err := client.Write(out); err != nil {
			break
		}
	}
	client.Close()
	typing.Wait()
}

type writerFunc func(p []byte) error

func (f writerFunc) Write(p []byte) (int, error) {
	if err := f(p); err != nil {
		return 0, err
	}
	return len(p), nil
}
