// SPDX-License-Identifier: Apache-2.0

package access_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// serialPort listens where the machine's serial console is, as QEMU does.
func serialPort(t *testing.T, b *backend) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(b.dir, "serial.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func accept(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	if err := l.(*net.UnixListener).SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestConsoleIsShared(t *testing.T) {
	b := &backend{}
	client, _ := serve(t, b)
	qemu := serialPort(t, b)

	ann, err := client.Console(t.Context(), machine)
	if err != nil {
		t.Fatal(err)
	}
	defer ann.Close()
	guest := accept(t, qemu)
	bob, err := client.Console(t.Context(), machine)
	if err != nil {
		t.Fatal(err)
	}
	defer bob.Close()

	fmt.Fprint(guest, "login: ")
	expect(t, ann, "login: ")
	expect(t, bob, "login: ")
	fmt.Fprint(ann, "ann")
	expect(t, guest, "ann")
	fmt.Fprint(bob, "bob")
	expect(t, guest, "bob")

	// One leaves, the other stays on the same connection.
	ann.Close()
	fmt.Fprint(guest, "still here")
	expect(t, bob, "still here")

	// When the last has left, the port is free for the next.
	bob.Close()
	if err := guest.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, guest); err != nil {
		t.Fatalf("waiting for the console to be let go: %v", err)
	}
	eve, err := client.Console(t.Context(), machine)
	if err != nil {
		t.Fatal(err)
	}
	defer eve.Close()
	guest = accept(t, qemu)
	fmt.Fprint(guest, "hello eve")
	expect(t, eve, "hello eve")

	// The machine is powered off: its viewers see the end.
	guest.Close()
	if err := eve.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, eve); err != nil {
		t.Errorf("reading to the end of the console: %v", err)
	}
}

func TestSlowViewerHoldsUpNobody(t *testing.T) {
	b := &backend{}
	client, _ := serve(t, b)
	qemu := serialPort(t, b)
	slow, err := client.Console(t.Context(), machine) // reads nothing at first
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	guest := accept(t, qemu)
	quick, err := client.Console(t.Context(), machine)
	if err != nil {
		t.Fatal(err)
	}
	defer quick.Close()

	// More than queue and socket buffers hold, then a heartbeat: somebody who
	// missed something is told with the next output there is room for.
	stop := make(chan struct{})
	var talking sync.WaitGroup
	talking.Go(func() {
		w := bufio.NewWriter(guest)
		for i := range 500_000 {
			fmt.Fprintf(w, "line %013d\r\n", i)
		}
		w.Flush()
		for {
			fmt.Fprint(guest, "heartbeat ")
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	defer talking.Wait()
	defer close(stop)
	expect(t, quick, "heartbeat")
	expect(t, slow, "this viewer was too slow")
}

func TestLog(t *testing.T) {
	b := &backend{}
	client, _ := serve(t, b)
	path := filepath.Join(b.dir, "serial.log")

	if err := closed(client.Log(t.Context(), machine, false)); err == nil || !strings.Contains(err.Error(), "no serial log yet") {
		t.Errorf("error %v before the first start, want one that says so", err)
	}

	// A followed log may come later.
	followed, err := client.Log(t.Context(), machine, true)
	if err != nil {
		t.Fatal(err)
	}
	defer followed.Close()
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(followed); s.Scan(); {
			lines <- s.Text()
		}
	}()
	next := func(want string) {
		t.Helper()
		select {
		case got := <-lines:
			if got != want {
				t.Fatalf("line %q, want %q", got, want)
			}
		case <-time.After(patience):
			t.Fatalf("%q did not come", want)
		}
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fmt.Fprintln(file, "firmware")
	next("firmware")
	fmt.Fprintln(file, "kernel")
	next("kernel")
	if err := file.Truncate(0); err != nil {
		t.Fatal(err)
	}
	// Shorter than before, so that the shrinking shows whenever it is seen.
	fmt.Fprintln(file, "again")
	next("again")

	whole, err := client.Log(t.Context(), machine, false)
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	text, err := io.ReadAll(whole)
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != "again\n" {
		t.Errorf("log %q, want %q", text, "again\n")
	}

	// The machine is deleted.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	select {
	case line, more := <-lines:
		if more {
			t.Errorf("unexpected line %q", line)
		}
	case <-time.After(patience):
		t.Error("the followed log did not end with its file")
	}
}
