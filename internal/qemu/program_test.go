// SPDX-License-Identifier: Apache-2.0

package qemu_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/qemu/qemutest"
)

// boots returns the devices from which the fake firmware has booted, oldest first.
func boots(t *testing.T, serialLog string) []string {
	t.Helper()
	text, err := os.ReadFile(serialLog)
	if err != nil {
		t.Fatal(err)
	}
	var devices []string
	for line := range strings.Lines(string(text)) {
		if device, ok := strings.CutPrefix(strings.TrimSpace(line), "fake firmware boots "); ok {
			devices = append(devices, device)
		}
	}
	return devices
}

// withDisks returns a machine with two disks, of which the second is the third boot
// device, after a NIC.
func withDisks(t *testing.T) machine.Machine {
	t.Helper()
	m := bare(machine.X8664)
	for i, place := range []int{0, 3} {
		path := filepath.Join(t.TempDir(), "disk.raw")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		m.Disks = append(m.Disks, machine.Disk{ID: fmt.Sprintf("disk%d", i), Path: path, Format: "raw", BootIndex: place})
	}
	return m
}

// TestBootOrderReachesFirmware starts and resets a machine with several disks and NICs.
func TestBootOrderReachesFirmware(t *testing.T) {
	_, o := fakeProgram(t)
	stopAll(t, o)
	l := open(t, o)
	m := withDisks(t)
	start(t, l, m)
	for i, order := range [][]string{{"disk1", "net0"}, {"disk0", "disk1"}, nil} {
		if err := l.SetBootOrder(within(t), m.ID, order); err != nil {
			t.Fatal(err)
		}
		awaitState(t, l, m.ID, "the boot order", func(s machine.State) bool { return cmp.Equal(s.BootOrder, order) })
		if err := l.Reset(within(t), m.ID); err != nil {
			t.Fatal(err)
		}
		awaitState(t, l, m.ID, "the reset", func(s machine.State) bool { return s.Resets == i+1 })
	}
	s := observe(t, l, m.ID)
	if diff := cmp.Diff([]string{"net0", "disk1", "disk0", "nothing"}, boots(t, s.Paths.SerialLog)); diff != "" {
		t.Errorf("devices that were booted from (-want +got):\n%s", diff)
	}
}

// TestMissingDiskFailsStart starts a machine one of whose disks does not exist.
func TestMissingDiskFailsStart(t *testing.T) {
	_, o := fakeProgram(t)
	stopAll(t, o)
	l := open(t, o)
	m := withDisks(t)
	if err := os.Remove(m.Disks[1].Path); err != nil {
		t.Fatal(err)
	}
	if err := l.Start(within(t), m); err != nil {
		t.Fatal(err)
	}
	s := awaitState(t, l, m.ID, "the failure", func(s machine.State) bool { return s.Phase == machine.PhaseStopped })
	if s.Exit == nil || !strings.Contains(s.Exit.Output, m.Disks[1].Path) {
		t.Errorf("got exit %+v, want one that names %s", s.Exit, m.Disks[1].Path)
	}
}

// TestGuestObeysPowerButton stops a machine whose guest shuts down when it is asked to.
func TestGuestObeysPowerButton(t *testing.T) {
	p, o := fakeProgram(t)
	stopAll(t, o)
	l := open(t, o)
	m := bare(machine.X8664)
	p.Set(t, m.ID, qemutest.Faults{PowerButton: true})
	start(t, l, m)
	how, err := l.Stop(within(t), m.ID, machine.StopOptions{ACPITimeout: limit})
	if err != nil || how != machine.StoppedByGuest {
		t.Errorf("Stop: got %s, %v; want %s", how, err, machine.StoppedByGuest)
	}
	s := observe(t, l, m.ID)
	if s.Exit == nil || s.Exit.Reason != machine.ExitGuestShutdown || !s.Exit.Requested {
		t.Errorf("got exit %+v, want reason %s, requested", s.Exit, machine.ExitGuestShutdown)
	}
}

// TestForwardedPort connects to a port of the guest at the address on the host that
// the Local reports, over a restart of the machine.
func TestForwardedPort(t *testing.T) {
	p, o := fakeProgram(t)
	stopAll(t, o)
	l := open(t, o)
	m := bare(machine.X8664)
	const ssh = 22
	m.NICs[0].Backend.User.Forwards = []machine.Forward{{GuestPort: 6641}, {GuestPort: ssh}}
	serve(t, p, m.ID, ssh)
	for range 2 {
		start(t, l, m)
		forwards := observe(t, l, m.ID).Forwards["net0"]
		if len(forwards) != 2 || forwards[0].HostPort == 0 || forwards[1].HostPort == 0 {
			t.Fatalf("got forwards %+v, want two with ports of the host", forwards)
		}
		for _, f := range forwards {
			want := ""
			if f.GuestPort == ssh {
				want = "guest: ping"
			}
			if got := exchange(t, f.HostPort, "ping"); got != want {
				t.Errorf("port %d of the guest: got %q, want %q", f.GuestPort, got, want)
			}
		}
		if _, err := l.Stop(within(t), m.ID, machine.StopOptions{}); err != nil {
			t.Fatal(err)
		}
		if conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", forwards[1].HostPort)); err == nil {
			conn.Close()
			t.Errorf("got a connection to port %d of a machine that is off, want none", forwards[1].HostPort)
		}
	}
}

// serve runs a server for a port of a machine's guest until the end of the test. It
// answers a request, which ends when the client stops sending.
func serve(t *testing.T, p *qemutest.Program, id string, guestPort int) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if request, err := io.ReadAll(conn); err == nil {
				_, _ = conn.Write(append([]byte("guest: "), request...))
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	if err := p.Serve(id, guestPort, listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
}

// exchange sends a request to a port of the host and returns the response, which is
// empty when the connection is closed at once.
func exchange(t *testing.T, port int, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	// Errors are those of a connection that the guest refuses.
	_, _ = io.WriteString(conn, request)
	_ = conn.(*net.TCPConn).CloseWrite()
	response, _ := io.ReadAll(conn)
	return string(response)
}

// TestFramesToMachine sends frames to a machine's NIC, which takes all of them.
func TestFramesToMachine(t *testing.T) {
	_, o := fakeProgram(t)
	stopAll(t, o)
	l := open(t, o)
	m := bare(machine.X8664)
	dgram := &machine.Dgram{Local: filepath.Join(o.RuntimeDir, "nic.sock"), Remote: filepath.Join(o.RuntimeDir, "port.sock")}
	m.NICs[1].Backend = machine.Backend{Dgram: dgram}
	for range 2 { // the second finds the socket of the first
		start(t, l, m)
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: dgram.Local})
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
			t.Fatal(err)
		}
		frame := bytes.Repeat([]byte{1}, 1500)
		for range 1000 {
			if _, err := conn.Write(frame); err != nil {
				t.Fatal(err)
			}
		}
		conn.Close()
		if _, err := l.Stop(within(t), m.ID, machine.StopOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBuiltProgramRuns starts a machine with a program that is not the test's binary.
func TestBuiltProgramRuns(t *testing.T) {
	p, o := qemutest.BuildProgram(t), options(t)
	o.FirmwareDirs, o.Readable = p.FirmwareDirs, p.Readable
	stopAll(t, o)
	start(t, open(t, o), bare(machine.AArch64))
}
