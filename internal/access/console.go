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
	// viewerQueue is the number of console reads that a viewer may lag behind
	// before it misses output.
	viewerQueue = 256
	// inputTimeout is how long input waits for a guest that does not read its
	// serial port. Then the input is dropped, as on a serial line.
	inputTimeout = 2 * time.Second
)

// consoles keeps one connection per serial socket while viewers are attached: QEMU
// serves one client at a time and leaves all others waiting.
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

// hub connects one serial console with all attached viewers.
type hub struct {
	consoles *consoles
	socket   string
	upstream net.Conn
	// input serializes the viewers' writes.
	input sync.Mutex
	// viewers is guarded by consoles.mu; nil after the upstream ended.
	viewers map[*viewer]struct{}
}

// viewer is one attached client.
type viewer struct {
	hub    *hub
	output chan []byte // closed when the console ends
	missed int         // bytes not delivered; guarded by consoles.mu
}

// attach adds a viewer, and connects to the socket if it is the first. The caller
// must call detach.
func (c *consoles) attach(ctx context.Context, socket string) (*viewer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.hubs[socket]
	if h == nil {
		// The lock may be held because connecting to a local UNIX socket does not
		// block.
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err != nil {
			return nil, fmt.Errorf("the machine is not running, its console is closed (%w): %w", err, ErrUnavailable)
		}
		h = &hub{consoles: c, socket: socket, upstream: conn, viewers: map[*viewer]struct{}{}}
		c.hubs[socket] = h
		c.readers.Go(h.read)
	}
	v := &viewer{hub: h, output: make(chan []byte, viewerQueue)}
	h.viewers[v] = struct{}{}
	return v, nil
}

// read broadcasts the console's output until it ends.
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
			out = append(fmt.Appendf(nil, "\r\n[pxelab: %d bytes skipped, this viewer was too slow]\r\n", v.missed), p...)
		}
		select {
		case v.output <- out:
			v.missed = 0
		default:
			v.missed += len(p)
		}
	}
}

// end closes the upstream and the output of all viewers.
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

// forget removes the hub, so that the next attach opens a new connection. It
// requires consoles.mu.
func (h *hub) forget() {
	if h.consoles.hubs[h.socket] == h {
		delete(h.consoles.hubs, h.socket)
	}
}

// write sends p to the console. It returns nil even if the guest did not read it.
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

// detach removes the viewer, and closes the upstream after the last one. It is
// idempotent.
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

// serve copies between client and console until either or ctx ends. It closes
// client.
func (v *viewer) serve(ctx context.Context, client net.Conn) {
	defer context.AfterFunc(ctx, func() { client.Close() })()
	var input sync.WaitGroup
	input.Go(func() {
		defer v.detach() // ends the loop below
		_, _ = io.Copy(writerFunc(v.hub.write), client)
	})
	for out := range v.output {
		if _, err := client.Write(out); err != nil {
			break
		}
	}
	client.Close()
	input.Wait()
}

type writerFunc func(p []byte) error

func (f writerFunc) Write(p []byte) (int, error) {
	if err := f(p); err != nil {
		return 0, err
	}
	return len(p), nil
}
