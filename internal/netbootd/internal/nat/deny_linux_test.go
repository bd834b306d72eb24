// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/internal/namespacetest"
)

// tun creates an interface whose other end is the returned file: one packet for each
// read and write.
func tun(t *testing.T, name, address string) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), name)
	t.Cleanup(func() { _ = file.Close() })
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link)); err != nil {
		t.Fatal(err)
	}
	return file
}

// packet returns an IPv4 packet of a machine of the lab: a UDP datagram or a TCP SYN.
func packet(protocol byte, to netip.Addr, port uint16) []byte {
	b := make([]byte, 20, 40)
	b[0], b[8], b[9] = 0x45, 64, protocol
	copy(b[12:], []byte{10, 88, 0, 10})
	copy(b[16:], to.AsSlice())
	segment := make([]byte, 20)
	binary.BigEndian.PutUint16(segment, 40000)
	binary.BigEndian.PutUint16(segment[2:], port)
	if protocol == unix.IPPROTO_UDP {
		binary.BigEndian.PutUint16(segment[4:], uint16(len(segment)))
	} else {
		segment[12], segment[13] = 5<<4, 2 // the SYN flag
		binary.BigEndian.PutUint16(segment[16:], checksum(b[12:20], []byte{0, protocol, 0, byte(len(segment))}, segment))
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(segment)))
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, segment...)
}

// checksum of parts with even lengths (RFC 1071).
func checksum(parts ...[]byte) uint16 {
	sum := uint32(0)
	for _, b := range parts {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// TestHostIsDenied sends packets of a machine of the lab through the rules, and reads what
// leaves on the uplink.
func TestHostIsDenied(t *testing.T) {
	if !namespacetest.Enter(t, unix.CLONE_NEWNET) {
		return
	}
	machine, host := tun(t, "lab0", "10.88.0.1/24"), tun(t, "up0", "10.0.2.15/24")
	link, err := netlink.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: []byte{10, 0, 2, 2}}); err != nil {
		t.Fatal(err)
	}
	lab := netip.MustParsePrefix("10.88.0.0/24")
	for range 2 { // again, as when netbootd restarts
		if err := Ensure(lab); err != nil {
			t.Fatal(err)
		}
	}
	const udp, tcp = unix.IPPROTO_UDP, unix.IPPROTO_TCP
	want := map[string]bool{}
	for _, p := range []struct {
		protocol byte
		to       string
		port     uint16
		passes   bool
	}{
		{tcp, "10.0.2.2", 9440, false},
		{tcp, "10.0.2.2", 22, false},
		{udp, "10.0.2.2", 53, false},
		{tcp, "10.0.2.200", 80, false},
		{tcp, "10.0.2.255", 80, false},
		{tcp, "10.0.2.3", 80, false},
		{tcp, "169.254.169.254", 80, false},
		{udp, "169.254.1.1", 53, false},
		{udp, "240.0.0.1", 53, false},
		{udp, "10.0.2.3", 53, true},
		{tcp, "10.0.2.3", 53, true},
		{tcp, "192.0.2.1", 443, true},
		{udp, "10.0.3.1", 53, true}, // the last: all others were handled when it arrives
	} {
		to := netip.MustParseAddr(p.to)
		if _, err := machine.Write(packet(p.protocol, to, p.port)); err != nil {
			t.Fatal(err)
		}
		if p.passes {
			want[fmt.Sprintf("%d %s:%d", p.protocol, p.to, p.port)] = true
		}
	}
	got := map[string]bool{}
	b := make([]byte, 65536)
	for last := "17 10.0.3.1:53"; !got[last]; {
		if err := host.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		n, err := host.Read(b)
		if err != nil {
			t.Fatalf("reading from the uplink after %v: %v", got, err)
		}
		if n < 24 || b[0]>>4 != 4 || b[9] != udp && b[9] != tcp {
			continue // the kernel's own messages
		}
		if source := netip.AddrFrom4([4]byte(b[12:16])); source != netip.MustParseAddr("10.0.2.15") {
			t.Errorf("got a packet from %s on the uplink, want it masqueraded", source)
		}
		got[fmt.Sprintf("%d %s:%d", b[9], netip.AddrFrom4([4]byte(b[16:20])), binary.BigEndian.Uint16(b[22:]))] = true
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("packets on the uplink (-want +got):\n%s", diff)
	}
	if err := Remove(); err != nil {
		t.Error(err)
	}
}
