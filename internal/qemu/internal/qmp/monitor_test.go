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
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/digitalocean/go-qemu/qemu"
	goqemu "github.com/digitalocean/go-qemu/qmp"
)

// startQEMU runs a real QEMU without a guest and returns its process and a
// connection. The faults that go-qemu's SocketMonitor has with it are listed in
// docs/adr/0002-qmp-client.md.
func startQEMU(t *testing.T, machine string) (*os.Process, *Client) {
	t.Helper()
	program, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatalf("finding QEMU: %v; run \"make deps\"", err)
	}
	dir, err := os.MkdirTemp("", "qmp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	cmd := exec.Command(program, "-machine", machine, "-S", "-nodefaults", "-display", "none",
		"-qmp", "unix:"+socket+",server=on,wait=off")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	ctx := within(t)
	for {
		c, err := Dial(ctx, socket)
		if err == nil {
			t.Cleanup(func() { c.Close() })
			return cmd.Process, c
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("connecting to QEMU: %v", err)
		}
	}
}

func TestMonitor(t *testing.T) {
	t.Run("reads_replies_over_64_KiB", func(t *testing.T) {
		_, c := startQEMU(t, "none")
		reply, err := c.Monitor(within(t)).Run([]byte(`{"execute":"query-qmp-schema"}`))
		if err != nil || len(reply) <= 64<<10 {
			t.Fatalf("got a reply of %d bytes, error %v; want more than %d bytes", len(reply), err, 64<<10)
		}
		if info, err := c.Commands(within(t)).QueryUUID(); err != nil || info.UUID == "" {
			t.Errorf("next command: got %+v, %v; want a UUID", info, err)
		}
	})
	t.Run("keeps_replies_intact_while_events_arrive", func(t *testing.T) {
		_, c := startQEMU(t, "none")
		m := c.Monitor(within(t))
		for i := range 100 {
			reply, err := m.Run([]byte(`{"execute":"query-commands"}`))
			if err != nil || !json.Valid(reply) {
				t.Fatalf("reply %d: got %.80q, %v; want valid JSON", i, reply, err)
			}
			if err := errors.Join(c.Commands(within(t)).Cont(), c.Commands(within(t)).Stop()); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("does_not_hang_on_an_unread_listener", func(t *testing.T) {
		_, c := startQEMU(t, "none")
		ctx, cancel := context.WithCancel(context.Background())
		events, err := c.Monitor(within(t)).Events(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 * eventBuffer {
			if err := errors.Join(c.Commands(within(t)).Cont(), c.Commands(within(t)).Stop()); err != nil {
				t.Fatal(err)
			}
		}
		if c.Dropped() == 0 {
			t.Error("got no dropped events, want the queue to have overflowed")
		}
		cancel()
		for range events { // closed after ctx has ended
		}
	})
	t.Run("runs_a_domain", func(t *testing.T) {
		_, c := startQEMU(t, "none")
		d, err := qemu.NewDomain(c.Monitor(within(t)), "x")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Version(); err != nil {
			t.Error(err)
		}
		_, err = d.Run(goqemu.Command{Execute: "device_del", Args: map[string]string{"id": "x"}})
		var qerr *Error
		if !errors.As(err, &qerr) || qerr.Class != DeviceNotFound {
			t.Errorf("device_del: got %v, want class %s", err, DeviceNotFound)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("returns_at_its_deadline", func(t *testing.T) {
		p, c := startQEMU(t, "none")
		if err := p.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		if err := c.Commands(ctx).Stop(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("stopped QEMU: got %v, want context.DeadlineExceeded", err)
		}
		if err := p.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Commands(within(t)).QueryUUID(); err != nil {
			t.Errorf("continued QEMU: got %v, want no error", err)
		}
	})
	t.Run("reports_the_end_of_QEMU", func(t *testing.T) {
		_, c := startQEMU(t, "none")
		if err := c.Commands(within(t)).Quit(); err != nil {
			t.Fatal(err)
		}
		<-c.Done()
		if err := c.Commands(within(t)).Cont(); !errors.Is(err, ErrClosed) {
			t.Errorf("after quit: got %v, want ErrClosed", err)
		}
	})
}

// TestRawQueryStatus records why the runner decodes query-status itself.
func TestRawQueryStatus(t *testing.T) {
	c := dial(t, serve(t, func(conn net.Conn, in *bufio.Scanner) {
		for in.Scan() {
			fmt.Fprintf(conn, `{"return": {"status": "preconfig", "running": false}, "id": %d}`+"\n", requestOf(in).ID)
		}
	}))
	if info, err := c.Commands(within(t)).QueryStatus(); err == nil {
		t.Errorf("got %+v for a run state newer than QEMU 2.11, want an error; the runner can use QueryStatus now", info)
	}
}
