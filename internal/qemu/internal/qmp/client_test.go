// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const limit = time.Minute

const hello = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}`

// server is a fake QEMU whose messages the test determines.
type server struct {
	path string
	ln   net.Listener
	wg   sync.WaitGroup
}

// serve accepts one connection at a time and calls handle after the greeting and
// qmp_capabilities. The connection is closed when handle returns.
func serve(t *testing.T, handle func(conn net.Conn, in *bufio.Scanner)) string {
	t.Helper()
	return serveRaw(t, func(conn net.Conn) {
		fmt.Fprintln(conn, hello)
		in := bufio.NewScanner(conn)
		in.Buffer(nil, 1<<20)
		if !in.Scan() {
			return
		}
		fmt.Fprintf(conn, `{"return": {}, "id": %d}`+"\n", requestOf(in).ID)
		handle(conn, in)
	})
}

func serveRaw(t *testing.T, handle func(conn net.Conn)) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "qmp")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{path: filepath.Join(dir, "s")}
	s.ln, err = net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	s.wg.Go(func() {
		for {
			conn, err := s.ln.Accept()
			if err != nil {
				return
			}
			handle(conn)
			conn.Close()
		}
	})
	t.Cleanup(func() {
		s.ln.Close()
		s.wg.Wait()
		os.RemoveAll(dir)
	})
	return s.path
}

type parsed struct {
	Execute   string          `json:"execute"`
	Arguments json.RawMessage `json:"arguments"`
	ID        uint64          `json:"id"`
}

func requestOf(in *bufio.Scanner) parsed {
	var r parsed
	if err := json.Unmarshal(in.Bytes(), &r); err != nil {
		panic(err)
	}
	return r
}

// echo answers every command with its own arguments.
func echo(conn net.Conn, in *bufio.Scanner) {
	for in.Scan() {
		r := requestOf(in)
		fmt.Fprintf(conn, `{"return": %s, "id": %d}`+"\r\n", r.Arguments, r.ID)
	}
}

func dial(t *testing.T, path string) *Client {
	t.Helper()
	c, err := Dial(within(t), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func TestExecute(t *testing.T) {
	c := dial(t, serve(t, echo))
	if diff := cmp.Diff(Version{Major: 7, Minor: 2, Micro: 22, Package: "Debian"}, c.Version()); diff != "" {
		t.Error(diff)
	}
	pid, err := c.PeerPID()
	if err != nil || pid != os.Getpid() {
		t.Errorf("PeerPID: got %d, %v; want %d", pid, err, os.Getpid())
	}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			var got map[string]int
			if err := c.Execute(within(t), "echo", map[string]int{"n": i}, &got); err != nil || got["n"] != i {
				t.Errorf("command %d: got %v, %v; want n = %d", i, got, err, i)
			}
		})
	}
	wg.Wait()
}

func TestBigReply(t *testing.T) {
	c := dial(t, serve(t, echo))
	big := strings.Repeat("schema ", 130_000)
	var got []string
	if err := c.Execute(within(t), "echo", []string{big}, &got); err != nil {
		t.Fatal(err)
	}
	if got[0] != big {
		t.Errorf("got a reply of %d bytes that differs from the %d sent", len(got[0]), len(big))
	}
}

func TestErrorKeepsClass(t *testing.T) {
	c := dial(t, serve(t, func(conn net.Conn, in *bufio.Scanner) {
		in.Scan()
		fmt.Fprintf(conn, `{"id": %d, "error": {"class": "DeviceNotFound", "desc": "no 'x'"}}`+"\n", requestOf(in).ID)
		in.Scan()
	}))
	err := c.Execute(within(t), "device_del", nil, nil)
	var qerr *Error
	if !errors.As(err, &qerr) {
		t.Fatalf("got %v, want an *Error", err)
	}
	if diff := cmp.Diff(&Error{Command: "device_del", Class: DeviceNotFound, Desc: "no 'x'"}, qerr); diff != "" {
		t.Error(diff)
	}
}

// TestEventsNeverBlockReplies reads no events while more arrive than the queue
// holds.
func TestEventsNeverBlockReplies(t *testing.T) {
	const sent = 5 * eventBuffer
	c := dial(t, serve(t, func(conn net.Conn, in *bufio.Scanner) {
		in.Scan()
		for i := range sent {
			fmt.Fprintf(conn, `{"event": "TICK", "data": {"n": %d}, "timestamp": {"seconds": 5, "microseconds": 7}}`+"\n", i)
		}
		fmt.Fprintf(conn, `{"return": {}, "id": %d}`+"\n", requestOf(in).ID)
	}))
	if err := c.Execute(within(t), "query-status", nil, nil); err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	var got []Event
	for e := range c.Events() {
		got = append(got, e)
	}
	if len(got) != eventBuffer || c.Dropped() != sent-eventBuffer {
		t.Fatalf("got %d events and %d dropped, want %d and %d", len(got), c.Dropped(), eventBuffer, sent-eventBuffer)
	}
	want := Event{Name: "TICK", Data: json.RawMessage(fmt.Sprintf(`{"n": %d}`, sent-1)), At: time.Unix(5, 7000)}
	if diff := cmp.Diff(want, got[len(got)-1]); diff != "" {
		t.Errorf("last event (-want +got):\n%s", diff)
	}
}

func TestDialReportsBusySocket(t *testing.T) {
	path := serve(t, echo)
	dial(t, path)
	// The server is busy with the first client, as QEMU would be.
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, path); !errors.Is(err, ErrBusy) {
		t.Errorf("Dial: %v, want ErrBusy", err)
	}
	ctx, cancel2 := context.WithCancel(context.Background())
	cancel2()
	if _, err := Dial(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("Dial: %v, want context.Canceled", err)
	}
}

func TestDialMissingSocket(t *testing.T) {
	if _, err := Dial(within(t), filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Dial: %v, want os.ErrNotExist", err)
	}
}

func TestDeadline(t *testing.T) {
	late := make(chan struct{})
	c := dial(t, serve(t, func(conn net.Conn, in *bufio.Scanner) {
		in.Scan()
		first := requestOf(in).ID
		<-late
		fmt.Fprintf(conn, `{"return": {"late": true}, "id": %d}`+"\n", first)
		echo(conn, in)
	}))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := c.Execute(ctx, "stuck", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Execute: %v, want context.DeadlineExceeded", err)
	}
	close(late)
	// The late reply is discarded.
	var got map[string]bool
	if err := c.Execute(within(t), "echo", map[string]bool{"now": true}, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]bool{"now": true}, got); diff != "" {
		t.Error(diff)
	}
}

// TestWriteDeadline sends commands to a server that does not read them.
func TestWriteDeadline(t *testing.T) {
	release := make(chan struct{})
	c := dial(t, serve(t, func(net.Conn, *bufio.Scanner) { <-release }))
	defer close(release)
	huge := strings.Repeat("x", 8<<20)
	over := within(t)
	for timeout := 20 * time.Millisecond; c.Err() == nil; timeout *= 2 {
		// A deadline before the first byte is sent does not end the connection.
		ctx, cancel := context.WithTimeout(over, timeout)
		if err := c.Execute(ctx, "huge", huge, nil); err == nil {
			t.Fatal("Execute of a command that was not read: got no error")
		}
		cancel()
		if over.Err() != nil {
			t.Fatal("the connection is open after a partial write")
		}
	}
	<-c.Done()
}

func TestHostileServer(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want error
	}{
		"not JSON":             {"HTTP/1.1 200 OK\n", ErrProtocol},
		"not an object":        {"[1, 2]\n", ErrProtocol},
		"deep nesting":         {strings.Repeat("[", 1<<20) + "\n", ErrProtocol},
		"neither":              {"{}\n", ErrProtocol},
		"error without id":     {`{"error": {"class": "GenericError", "desc": "JSON parse error"}}` + "\n", ErrProtocol},
		"negative id":          {`{"return": {}, "id": -1}` + "\n", ErrProtocol},
		"cut in a message":     {`{"return": `, ErrClosed},
		"ends":                 {"", ErrClosed},
		"unknown id, then end": {`{"return": {}, "id": 99}` + "\n\r\n\n", ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, serve(t, func(conn net.Conn, in *bufio.Scanner) {
				in.Scan()
				fmt.Fprint(conn, tc.text)
			}))
			if err := c.Execute(within(t), "query-status", nil, nil); !errors.Is(err, tc.want) {
				t.Errorf("Execute: %v, want %v", err, tc.want)
			}
			<-c.Done()
			if err := c.Execute(within(t), "again", nil, nil); !errors.Is(err, tc.want) {
				t.Errorf("afterwards: %v, want %v", err, tc.want)
			}
		})
	}
}

func TestHostileGreeting(t *testing.T) {
	for name, text := range map[string]string{
		"event": `{"event": "RESET"}`,
		"text":  "220 smtp ready",
		"null":  "null",
	} {
		t.Run(name, func(t *testing.T) {
			path := serveRaw(t, func(conn net.Conn) { fmt.Fprintln(conn, text) })
			if _, err := Dial(within(t), path); !errors.Is(err, ErrProtocol) {
				t.Errorf("Dial: %v, want ErrProtocol", err)
			}
		})
	}
}

func TestEndlessMessage(t *testing.T) {
	c := dial(t, serve(t, func(conn net.Conn, in *bufio.Scanner) {
		chunk := []byte(strings.Repeat("x", 1<<20))
		for {
			if _, err := conn.Write(chunk); err != nil {
				return
			}
		}
	}))
	select {
	case <-c.Done():
	case <-within(t).Done():
		t.Fatal("timed out waiting for the connection to end")
	}
	if !errors.Is(c.Err(), ErrProtocol) {
		t.Errorf("got %v, want ErrProtocol", c.Err())
	}
}

func TestClose(t *testing.T) {
	c := dial(t, serve(t, echo))
	waiting := make(chan error)
	release := dial(t, serve(t, func(_ net.Conn, in *bufio.Scanner) {
		for in.Scan() {
		}
	}))
	go func() { waiting <- release.Execute(context.Background(), "never", nil, nil) }()
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		release.Close()
	}
	if err := <-waiting; !errors.Is(err, ErrClosed) {
		t.Errorf("Execute: %v, want ErrClosed", err)
	}
	if err := c.Execute(within(t), "x", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Execute: %v, want ErrClosed", err)
	}
}
