// SPDX-License-Identifier: Apache-2.0

package simulator_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/simulator/internal/control"
	"github.com/pxelab/pxelab/internal/simulator/server"
	"github.com/pxelab/pxelab/internal/version"
)

// peer is the test's end of a connection of the control protocol.
type peer struct {
	t     *testing.T
	conn  net.Conn
	lines *control.Lines
}

func newPeer(t *testing.T, conn net.Conn) *peer {
	t.Helper()
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	return &peer{t: t, conn: conn, lines: control.NewLines(conn)}
}

func (p *peer) send(v any) {
	p.t.Helper()
	line, err := control.Encode(v)
	if err == nil {
		_, err = p.conn.Write(line)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// request reads a request, which must be of the given operation.
func (p *peer) request(want control.Operation) control.Request {
	p.t.Helper()
	var r control.Request
	if err := p.lines.Next(&r); err != nil {
		p.t.Fatal(err)
	}
	if r.Operation != want {
		p.t.Fatalf("got request %+v, want %s", r, want)
	}
	return r
}

// ask sends a request and returns the code of its reply.
func (p *peer) ask(r control.Request) control.Code {
	p.t.Helper()
	p.send(r)
	return p.until(func(m control.Message) bool { return m.Reply != nil && m.Reply.Sequence == r.Sequence }).Reply.Code
}

// until reads messages until one matches.
func (p *peer) until(match func(control.Message) bool) control.Message {
	p.t.Helper()
	for {
		var m control.Message
		if err := p.lines.Next(&m); err != nil {
			p.t.Fatal(err)
		}
		if match(m) {
			return m
		}
	}
}

// playedProgram is a simulator that the test plays.
type playedProgram struct {
	t        *testing.T
	listener *net.UnixListener
	hello    control.Hello
}

// play makes this process the simulator of a data directory. Its build is that of the
// program in the options.
func play(t *testing.T, data, runtime, program string) *playedProgram {
	t.Helper()
	files := control.NewFiles(data, runtime)
	if err := os.MkdirAll(filepath.Dir(files.Record), 0o700); err != nil {
		t.Fatal(err)
	}
	self, err := process.Find(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	digest, err := version.FileDigest(program)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: files.Socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	if err := control.SaveProgram(files.Record, control.Program{Process: self, Socket: files.Socket}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(files.Record) })
	return &playedProgram{t: t, listener: listener, hello: control.Hello{Protocol: control.Version, Program: digest, Process: self}}
}

// accept accepts a Runner that attaches, and returns its request.
func (p *playedProgram) accept() (*peer, control.Request) {
	p.t.Helper()
	if err := p.listener.SetDeadline(time.Now().Add(limit)); err != nil {
		p.t.Fatal(err)
	}
	conn, err := p.listener.Accept()
	if err != nil {
		p.t.Fatal(err)
	}
	c := newPeer(p.t, conn)
	c.send(control.Message{Hello: &p.hello})
	return c, c.request(control.Attach)
}

// lose closes a connection with what was not answered, and accepts the next one, over
// which it lists no machine.
func (p *playedProgram) lose(c *peer) (*peer, control.Request) {
	p.t.Helper()
	if err := c.conn.Close(); err != nil {
		p.t.Fatal(err)
	}
	next, attached := p.accept()
	next.send(control.Message{Synced: true})
	return next, attached
}

// TestLostRequests loses connections with requests that were not carried out: a start is
// sent again, unless a stop has followed it.
func TestLostRequests(t *testing.T) {
	o := options(t)
	p := play(t, o.DataDir, o.RuntimeDir, o.Program)
	r, m := open(t, o), described(t, o)
	c, first := p.accept()
	c.send(control.Message{Synced: true})
	if err := r.Start(within(t), m); err != nil {
		t.Fatal(err)
	}
	lost := c.request(control.Start)
	c, second := p.lose(c)
	if first.Runner == "" || second.Runner != first.Runner || second.Sequence <= lost.Sequence || lost.Sequence <= first.Sequence {
		t.Errorf("got %+v, %+v, %+v; want one Runner and ascending sequences", first, lost, second)
	}
	again := c.request(control.Start)
	if again.Sequence <= second.Sequence || !again.Record.StartedAt.Equal(lost.Record.StartedAt) {
		t.Errorf("got %+v after %+v, want the same start with a new sequence", again, lost)
	}

	stopped := make(chan error, 1)
	ctx := within(t)
	go func() {
		_, err := r.Stop(ctx, m.ID, machine.StopOptions{})
		stopped <- err
	}()
	c.request(control.Stop)
	c, _ = p.lose(c)
	if err := <-stopped; err != nil {
		t.Errorf("Stop: got error %v, want none", err)
	}
	if s := observe(t, r, m.ID); s.Phase != machine.PhaseNotFound {
		t.Errorf("after Stop: got state %+v, want none", s)
	}
	stop := c.request(control.Stop) // was lost as well
	c.send(control.Message{Reply: &control.Reply{Sequence: stop.Sequence, Code: control.NotRunning}})
	if err := r.Start(within(t), m); err != nil {
		t.Fatal(err)
	}
	if next := c.request(control.Start); next.Record.StartedAt.Equal(lost.Record.StartedAt) {
		t.Error("got the start again that a stop has followed, want only the next one")
	}
}

// TestOutdatedRequests sends requests over a connection that its Runner has replaced.
func TestOutdatedRequests(t *testing.T) {
	o := options(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- server.Run(ctx, server.Options{DataDir: o.DataDir, RuntimeDir: o.RuntimeDir, NewGuest: newFakeGuest, Log: o.Log})
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	socket := control.NewFiles(o.DataDir, o.RuntimeDir).Socket
	dial := func() *peer {
		for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
			conn, err := net.Dial("unix", socket)
			if err == nil {
				return newPeer(t, conn)
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	m := described(t, o)
	m.Paths = machine.NewSimulatedPaths(o.DataDir, o.RuntimeDir, m.ID)
	start := control.Request{Operation: control.Start, Machine: m.ID, Record: &control.Record{Machine: m, StartedAt: time.Now(), PowerOns: 1}}
	attach := control.Request{Operation: control.Attach, Runner: uuid.NewString()}
	isSynced := func(m control.Message) bool { return m.Synced }
	numbered := func(r control.Request, sequence uint64) control.Request {
		r.Sequence = sequence
		return r
	}

	old, current := dial(), dial()
	if got := old.ask(numbered(start, 1)); got != control.Outdated {
		t.Errorf("start before Attach: got code %q, want %q", got, control.Outdated)
	}
	old.send(numbered(attach, 2))
	old.until(isSynced)
	current.send(numbered(attach, 4))
	current.until(isSynced)
	if got := old.ask(numbered(start, 3)); got != control.Outdated {
		t.Errorf("start over the earlier connection: got code %q, want %q", got, control.Outdated)
	}
	stop := control.Request{Operation: control.Stop, Machine: m.ID}
	if got := current.ask(numbered(stop, 5)); got != control.NotRunning {
		t.Errorf("stop: got code %q, want %q", got, control.NotRunning)
	}
	if got := current.ask(numbered(start, 6)); got != control.OK {
		t.Errorf("start: got code %q, want none", got)
	}
	if got := current.ask(numbered(stop, 7)); got != control.OK {
		t.Errorf("stop: got code %q, want none", got)
	}
}
