// SPDX-License-Identifier: Apache-2.0

package qemu_test

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/qemu/internal/qmp"
)

func dialQMP(t *testing.T, path string) *qmp.Client {
	t.Helper()
	c, err := qmp.Dial(within(t), path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// wire is the test's end of a NIC's socket pair.
type wire struct {
	t    *testing.T
	conn *net.UnixConn
}

func newWire(t *testing.T, path string) wire {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return wire{t, conn}
}

// drain discards the frames received so far.
func (w wire) drain() {
	w.t.Helper()
	w.each(func([]byte) {})
}

// each calls f for every frame received so far.
func (w wire) each(f func(frame []byte)) {
	w.t.Helper()
	// With a deadline in the past, Read would not return queued frames.
	if err := w.conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		w.t.Fatal(err)
	}
	frame := make([]byte, 1<<16)
	for {
		n, err := w.conn.Read(frame)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil {
			w.t.Fatal(err)
		}
		f(frame[:n])
	}
}

// discover waits for the next DHCPDISCOVER on the wire and returns it.
func (w wire) discover() *dhcpv4.DHCPv4 {
	w.t.Helper()
	if err := w.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		w.t.Fatal(err)
	}
	frame := make([]byte, 1<<16)
	for {
		n, err := w.conn.Read(frame)
		if err != nil {
			w.t.Fatal("waiting for a DHCPDISCOVER:", err)
		}
		if p := dhcpOf(frame[:n]); p != nil && p.MessageType() == dhcpv4.MessageTypeDiscover {
			return p
		}
	}
}

// dhcpOf returns the DHCP message to a server in an Ethernet frame, or nil.
func dhcpOf(frame []byte) *dhcpv4.DHCPv4 {
	const ethernet, udp = 14, 8
	if len(frame) < ethernet+20 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 {
		return nil
	}
	ip := frame[ethernet:]
	header := int(ip[0]&15) * 4
	if ip[9] != 17 || len(ip) < header+udp || binary.BigEndian.Uint16(ip[header+2:]) != 67 {
		return nil
	}
	p, err := dhcpv4.FromBytes(ip[header+udp:])
	if err != nil {
		return nil
	}
	return p
}

// TestFirmwareBootsFromNetwork expects the firmware's PXE boot on the first NIC,
// changes the boot order, and expects it on the other NIC after a reset.
func TestFirmwareBootsFromNetwork(t *testing.T) {
	for _, tc := range []struct {
		arch  machine.Architecture
		iana  iana.Arch
		class string
	}{
		{machine.X8664, iana.EFI_X86_64, "PXEClient:Arch:00007"},
		{machine.AArch64, iana.EFI_ARM64, "PXEClient:Arch:00011"},
	} {
		t.Run(string(tc.arch), func(t *testing.T) {
			o, m := options(t), bare(tc.arch)
			m.MemoryMiB = 512
			stopAll(t, o)
			l := open(t, o)
			wires := make([]wire, len(m.NICs))
			for i := range m.NICs {
				remote := filepath.Join(o.RuntimeDir, m.NICs[i].ID+".switch")
				wires[i] = newWire(t, remote)
				m.NICs[i].MTU = 9000
				m.NICs[i].Backend = machine.Backend{Dgram: &machine.Dgram{
					Local: filepath.Join(o.RuntimeDir, m.NICs[i].ID+".qemu"), Remote: remote,
				}}
			}
			began := time.Now()
			start(t, l, m)
			p := wires[0].discover()
			t.Logf("first DISCOVER after %s", time.Since(began).Round(100*time.Millisecond))
			if p.ClientHWAddr.String() != m.NICs[0].MAC {
				t.Errorf("got a DHCPDISCOVER from %s, want %s", p.ClientHWAddr, m.NICs[0].MAC)
			}
			if archs := p.ClientArch(); len(archs) != 1 || archs[0] != tc.iana {
				t.Errorf("got client architecture %v, want %v", archs, tc.iana)
			}
			if class := p.ClassIdentifier(); !strings.HasPrefix(class, tc.class) {
				t.Errorf("got vendor class %q, want prefix %q", class, tc.class)
			}

			if err := l.SetBootOrder(within(t), m.ID, []string{"net1"}); err != nil {
				t.Fatal(err)
			}
			events := l.Watch(within(t))
			if err := l.Reset(within(t), m.ID); err != nil {
				t.Fatal(err)
			}
			for e := range events {
				if e.Type == machine.EventReset {
					break
				}
			}
			wires[0].drain()
			if p := wires[1].discover(); p.ClientHWAddr.String() != m.NICs[1].MAC {
				t.Errorf("got a DHCPDISCOVER from %s, want %s", p.ClientHWAddr, m.NICs[1].MAC)
			}
			wires[0].silent()
		})
	}
}

// silent checks that no DHCP request was received on the wire.
func (w wire) silent() {
	w.t.Helper()
	w.each(func(frame []byte) {
		if p := dhcpOf(frame); p != nil {
			w.t.Errorf("got a %s on a NIC that is not in the boot order", p.MessageType())
		}
	})
}

// TestForwardChosen checks that QEMU listens on the ports that the Runner chose.
func TestForwardChosen(t *testing.T) {
	o, m := options(t), bare(machine.X8664)
	m.NICs[0].Backend.User = &machine.User{Forwards: []machine.Forward{{GuestPort: 22}, {GuestPort: 8443}}}
	stopAll(t, o)
	l := open(t, o)
	s := start(t, l, m)
	forwards := s.Forwards["net0"]
	if len(s.Forwards) != 1 || len(forwards) != 2 || forwards[0].GuestPort != 22 || forwards[1].GuestPort != 8443 {
		t.Fatalf("got forwards %+v, want those of ports 22 and 8443", s.Forwards)
	}
	for _, f := range forwards {
		conn, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: f.HostPort})
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	if m.NICs[0].Backend.User.Forwards[0].HostPort != 0 {
		t.Error("Start modified the caller's description")
	}
}
