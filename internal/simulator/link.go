// SPDX-License-Identifier: Apache-2.0

package simulator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/simulator/internal/control"
)

// link is a connection to the program.
type link struct {
	conn  *net.UnixConn
	lines *control.Lines
	hello control.Hello
	// heard is when the last message arrived, in nanoseconds since 1970.
	heard atomic.Int64
	// listed are the machines that the program has reported; nil once it has reported
	// all of them.
	listed map[string]bool
	// ready is closed when requests can be sent.
	ready chan struct{}
	// retiring is set while the program has been asked to end; guarded by Runner.mu.
	retiring bool
}

// dial connects to a program and reads its Hello.
func (r *Runner) dial(p control.Program) (*link, error) {
	ctx, cancel := context.WithTimeout(r.ctx, helloTimeout)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", p.Socket)
	if err != nil {
		return nil, fmt.Errorf("connecting to the simulator: %w", err)
	}
	conn := c.(*net.UnixConn)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	l := &link{conn: conn, lines: control.NewLines(conn), listed: map[string]bool{}, ready: make(chan struct{})}
	err = control.CheckPeer(conn)
	if err == nil {
		var m control.Message
		err = l.lines.Next(&m)
		switch {
		case err != nil:
		case m.Hello == nil:
			err = errors.New("the simulator sent another message than its hello")
		case m.Hello.Process != p.Process:
			err = fmt.Errorf("process %d serves the socket of the simulator, not process %d", m.Hello.Process.PID, p.Process.PID)
		default:
			l.hello = *m.Hello
		}
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	l.heard.Store(time.Now().UnixNano())
	return l, nil
}

// serve exchanges messages until the connection ends or the Runner is closed.
func (r *Runner) serve(l *link) {
	r.mu.Lock()
	r.program = l.hello.Process
	r.mu.Unlock()
	_ = r.digest() // takes a moment, once
	ctx, cancel := context.WithCancel(r.ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = l.conn.Close() })()
	defer l.conn.Close()
	if err := r.attach(l); err != nil {
		r.log.Info("The connection to the simulator failed", "error", err.Error())
		return
	}
	parts.Go(func() { r.watch(ctx, l) })
	parts.Go(func() { r.send(ctx, l) })
	for {
		var m control.Message
		if err := l.lines.Next(&m); err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				r.log.Info("The connection to the simulator failed", "error", err.Error())
			}
			return
		}
		l.heard.Store(time.Now().UnixNano())
		r.handle(l, m)
	}
}

// watch marks the machines as unresponsive while the program is silent.
func (r *Runner) watch(ctx context.Context, l *link) {
	tick := time.NewTicker(control.HeartbeatInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			silent := time.Since(time.Unix(0, l.heard.Load()))
			select {
			case <-l.ready:
				r.setResponsive(silent < answerTimeout)
			default:
			}
		}
	}
}

// setResponsive records whether the program answers.
func (r *Runner) setResponsive(responsive bool) {
	r.mu.Lock()
	changed := r.responsive != responsive
	r.responsive = responsive
	var alive []string
	for _, e := range r.machines {
		if changed && e.record.Alive() {
			alive = append(alive, e.id)
			e.notify()
		}
	}
	r.mu.Unlock()
	if len(alive) > 0 {
		r.log.Info("The simulator's state has changed", "responsive", responsive, "machines", len(alive))
	}
	for _, id := range alive {
		detail := string(machine.PhaseRunning)
		if !responsive {
			detail = string(machine.PhaseUnresponsive)
		}
		r.publish(id, machine.EventChanged, detail)
	}
}

// handle handles a message of the program.
func (r *Runner) handle(l *link, m control.Message) {
	switch {
	case m.Record != nil:
		if l.listed != nil {
			l.listed[m.Record.Machine.ID] = true
		}
		r.apply(l, *m.Record, m.Event)
	case m.Synced && l.listed != nil:
		r.synced(l)
	case m.Reply != nil:
		if m.Reply.Code == control.Running { // it does not retire
			r.mu.Lock()
			l.retiring = false
			r.mu.Unlock()
			r.poke()
		}
		r.answer(m.Reply.Sequence, m.Reply.Err())
	}
}

// apply records the state of a machine.
func (r *Runner) apply(l *link, record control.Record, event *control.Event) {
	id := record.Machine.ID
	if machine.CheckID(id) != nil {
		return
	}
	r.mu.Lock()
	e := r.ensure(id)
	if e.removing {
		r.mu.Unlock()
		return // the end of a machine that another Runner has started
	}
	e.record = record
	if c := e.starting; c != nil && (record.Alive() || record.StartedAt.Equal(c.request.Record.StartedAt)) {
		e.starting = nil
	}
	if record.Exit != nil {
		e.order = nil
	}
	e.notify()
	r.retireOutdated(l)
	r.mu.Unlock()
	if event == nil {
		r.publish(id, machine.EventChanged, "adopted")
		return
	}
	r.feed.Publish(machine.Event{ID: id, Type: event.Type, Detail: event.Detail, At: event.At})
}

// synced begins to send requests, after the program has listed its machines.
func (r *Runner) synced(l *link) {
	r.mu.Lock()
	listed := l.listed
	l.listed = nil
	missing := r.alive(func(e *entry) bool { return !listed[e.id] })
	r.interruptRevoked()
	r.mu.Unlock()
	r.log.Info("Connected to the simulator", "pid", l.hello.Process.PID, "release", l.hello.Release, "machines", len(listed))
	// They have ended while no Runner was connected. The program has recorded why,
	// unless it was an earlier one.
	r.end(missing, ending{reason: machine.ExitUnknown})
	r.mu.Lock()
	r.retireOutdated(l)
	r.mu.Unlock()
	r.setResponsive(true)
	close(l.ready)
	r.settledOnce.Do(func() { close(r.settled) })
}

// alive returns the entries of machines that are recorded as running and match. The
// caller holds mu.
func (r *Runner) alive(match func(*entry) bool) []*entry {
	var all []*entry
	for _, e := range r.machines {
		if e.record.Alive() && match(e) {
			all = append(all, e)
		}
	}
	return all
}
