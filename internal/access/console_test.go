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

	"github.com/pxelab/pxelab/internal/access"
)

// serialPort listens at the machine's serial console as QEMU does.
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

	// One viewer detaches, the other keeps the same connection.
	ann.Close()
	fmt.Fprint(guest, "still here")
	expect(t, bob, "still here")

	// The last viewer's detach frees the port for the next.
	bob.Close()
	if err := guest.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, guest); err != nil {
		t.Fatalf("waiting until the console is released: got error %v, want none", err)
	}
	eve, err := client.Console(t.Context(), machine)
	if err != nil {
		t.Fatal(err)
	}
	defer eve.Close()
	guest = accept(t, qemu)
	fmt.Fprint(guest, "hello eve")
	expect(t, eve, "hello eve")

	// Powering off the machine ends its viewers' streams.
	guest.Close()
	if err := eve.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, eve); err != nil {
		t.Errorf("reading to the end of the console: got error %v, want none", err)
	}
}

func TestSlowConsoleViewerDoesNotDelayOthers(t *testing.T) {
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

	// More output than the queue and the socket buffers hold, then a heartbeat: a
	// viewer that missed output is notified with the next output that fits.
	stop := make(chan struct{})
	var output sync.WaitGroup
	output.Go(func() {
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
	defer output.Wait()
	defer close(stop)
	expect(t, quick, "heartbeat")
	expect(t, slow, "this viewer was too slow")
}

func TestLog(t *testing.T) {
	b := &backend{}
	client, _ := serve(t, b)
	path := filepath.Join(b.dir, "serial.log")

	err := closed(client.Log(t.Context(), machine, access.LogOptions{}))
	if err == nil || !strings.Contains(err.Error(), "no serial log yet") {
		t.Errorf("Log before the first start: got error %v, want one that contains \"no serial log yet\"", err)
	}

	// A followed log need not exist yet.
	followed, err := client.Log(t.Context(), machine, access.LogOptions{Follow: true})
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
				t.Fatalf("got line %q, want %q", got, want)
			}
		case <-time.After(patience):
			t.Fatalf("timed out waiting for line %q", want)
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
	// Shorter than before, so that the truncation is detected at any time.
	fmt.Fprintln(file, "again")
	next("again")

	whole, err := client.Log(t.Context(), machine, access.LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	text, err := io.ReadAll(whole)
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != "again\n" {
		t.Errorf("got log %q, want %q", text, "again\n")
	}

	// The machine is deleted.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	select {
	case line, more := <-lines:
		if more {
			t.Errorf("got line %q, want the end of the log", line)
		}
	case <-time.After(patience):
		t.Error("after its file was removed: got a followed log that continues, want it to end")
	}
}
