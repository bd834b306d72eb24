// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/simulator/internal/control"
)

const (
	// queueLimit is how many messages a client may lag behind before it is
	// disconnected. It then connects again and reads the current state.
	queueLimit = 8192
	// writeTimeout is how long a client may read nothing.
	writeTimeout = 30 * time.Second
)

// client is a connected Runner.
type client struct {
	conn *net.UnixConn
	// runner identifies the Runner, and attached is set once it receives the states of
	// the machines; both are guarded by server.mu.
	runner   string
	attached bool

	mu    sync.Mutex
	queue [][]byte
	// finishing ends the writer when the queue is empty.
	finishing bool
	// wake holds a token when queue or finishing has changed.
	wake chan struct{}
}

// connect serves a client until its connection ends.
func (s *server) connect(conn *net.UnixConn) {
	c := &client{conn: conn, wake: make(chan struct{}, 1), queue: [][]byte{s.hello}}
	s.mu.Lock()
	if s.retiring {
		s.mu.Unlock()
		_ = conn.Close()
		return
	}
	s.clients[c] = struct{}{}
	s.checkIdle()
	s.mu.Unlock()

	s.writers.Go(func() { s.write(c) })
	s.readers.Go(func() { s.read(c) })
}

// attach sends the state of all machines to a client, and from then on each change.
func (s *server) attach(c *client, runner string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.runner, c.attached = runner, true
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range s.machines {
		record := m.published
		if line := s.encode(control.Message{Record: &record}); line != nil {
			c.queue = append(c.queue, line)
		}
	}
	c.queue = append(c.queue, s.encode(control.Message{Synced: true}))
	c.poke()
}

// accepts reports whether a request is newer than all that were received from its
// Runner, over any connection: after Attach, what an earlier connection still contains
// must not be carried out, such as a start after the stop that has followed it.
func (s *server) accepts(c *client, r control.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	runner := c.runner
	if r.Operation == control.Attach {
		runner = r.Runner
	}
	if runner == "" || r.Sequence <= s.received[runner] {
		return false
	}
	s.received[runner] = r.Sequence
	return true
}

// encode returns a message as a line; nil if it cannot be encoded.
func (s *server) encode(m control.Message) []byte {
	line, err := control.Encode(m)
	if err != nil {
		s.log.Error(err, "Sending to the manager")
		return nil
	}
	return line
}

// read carries out the client's requests until its connection ends.
func (s *server) read(c *client) {
	lines := control.NewLines(c.conn)
	for {
		var request control.Request
		if err := lines.Next(&request); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				s.log.Info("Disconnecting a client", "error", err.Error())
			}
			if s.ctx.Err() == nil { // else the ends of the machines are sent first
				c.finish()
			}
			return
		}
		s.handle(c, request)
	}
}

// write sends messages until the connection fails or is finished, and heartbeats in
// between.
func (s *server) write(c *client) {
	defer func() {
		_ = c.conn.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.clients, c)
		s.checkIdle()
	}()
	heartbeat := time.NewTicker(control.HeartbeatInterval / 2)
	defer heartbeat.Stop()
	idle := s.encode(control.Message{})
	for {
		c.mu.Lock()
		batch, finishing := c.queue, c.finishing
		c.queue = nil
		c.mu.Unlock()
		if len(batch) == 0 {
			if finishing {
				return
			}
			select {
			case <-c.wake:
				continue
			case <-heartbeat.C:
				batch = [][]byte{idle}
			}
		}
		if err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return
		}
		lines := net.Buffers(batch)
		if _, err := lines.WriteTo(c.conn); err != nil {
			return
		}
	}
}

// send queues a message. It never blocks.
func (c *client) send(line []byte) {
	if line == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) >= queueLimit {
		_ = c.conn.Close()
		c.queue, c.finishing = nil, true
	}
	if !c.finishing {
		c.queue = append(c.queue, line)
	}
	c.poke()
}

// finish ends the connection when what is queued has been sent.
func (c *client) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finishing = true
	c.poke()
}

// poke wakes the writer. The caller holds mu.
func (c *client) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// stopReading ends read.
func (c *client) stopReading() { _ = c.conn.CloseRead() }

// publish sends the state of a machine to all clients. The caller holds the machine's
// mutex, so that changes are sent in their order. With the exit in its record the
// machine is forgotten.
func (s *server) publish(m *instance, t machine.EventType, detail string) {
	record := m.record.Clone()
	line := s.encode(control.Message{Record: &record, Event: &control.Event{Type: t, Detail: detail, At: time.Now()}})
	s.mu.Lock()
	defer s.mu.Unlock()
	m.published = record
	if record.Exit != nil && s.machines[m.id] == m {
		delete(s.machines, m.id)
		delete(s.dirty, m)
		s.checkIdle()
	}
	for c := range s.clients {
		if c.attached {
			c.send(line)
		}
	}
}

// handle carries out a request. It does not block. Requests are handled one after the
// other, so that none is carried out after a newer one was accepted.
func (s *server) handle(c *client, r control.Request) {
	s.handling.Lock()
	defer s.handling.Unlock()
	reply := func(code control.Code, detail string) {
		c.send(s.encode(control.Message{Reply: &control.Reply{Sequence: r.Sequence, Code: code, Detail: detail}}))
	}
	if !s.accepts(c, r) {
		reply(control.Outdated, "")
		return
	}
	switch r.Operation {
	case control.Attach:
		s.attach(c, r.Runner)
	case control.Start:
		s.start(r, reply)
	case control.Retire:
		s.retire(reply)
	case control.Stop, control.Reset, control.PowerDown, control.SetBootOrder:
		s.mu.Lock()
		m := s.machines[r.Machine]
		s.mu.Unlock()
		if m == nil {
			reply(control.NotRunning, "")
			return
		}
		m.enqueue(func() {
			code, detail := control.Failed, "a bug in the simulator"
			defer func() { reply(code, detail) }()
			code, detail = m.carryOut(r)
		})
	default:
		reply(control.Failed, "unknown operation "+string(r.Operation))
	}
}

// start makes a machine run, in the background.
func (s *server) start(r control.Request, reply func(control.Code, string)) {
	if r.Record == nil || r.Record.Machine.ID == "" || r.Record.Machine.ID != r.Machine {
		reply(control.Failed, "the request does not describe the machine")
		return
	}
	s.mu.Lock()
	switch {
	case s.retiring:
		s.mu.Unlock()
		reply(control.Retiring, "")
		return
	case s.machines[r.Machine] != nil:
		s.mu.Unlock()
		reply(control.OK, "")
		return
	}
	m := newInstance(s, *r.Record)
	s.machines[m.id] = m
	m.published = m.record.Clone()
	s.checkIdle()
	s.mu.Unlock()

	m.mu.Lock()
	s.publish(m, machine.EventChanged, "start")
	m.mu.Unlock()
	m.enqueue(m.begin)
	reply(control.OK, "")
}

// retire ends the program unless it runs a machine.
func (s *server) retire(reply func(control.Code, string)) {
	s.mu.Lock()
	busy := len(s.machines) > 0
	if !busy {
		s.retiring = true
	}
	s.mu.Unlock()
	if busy {
		reply(control.Running, "")
		return
	}
	reply(control.OK, "")
	s.stop()
}
