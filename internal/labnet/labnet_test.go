// SPDX-License-Identifier: Apache-2.0

package labnet

import (
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/paths/pathstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	network  = "11111111-1111-1111-1111-111111111111"
	first    = "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"
	second   = "bbbbbbbb-bbbb-bbbb-bbbb-bbbbbbbbbbbb"
	firstMAC = "52:54:00:00:00:0a"
	nextMAC  = "52:54:00:00:00:0b"
)

func newNetworks(t *testing.T) (*Networks, string) {
	t.Helper()
	dir := pathstest.Short(t)
	n := New(slog.New(slog.DiscardHandler), "pxelab0")
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n, dir
}

func attachment(dir, machine, mac string) Attachment {
	return Attachment{
		Network: network, Mode: Userspace, MTU: 1500,
		Machine: machine, MAC: mac, Sockets: filepath.Join(dir, machine[:8]),
	}
}

// peer is QEMU's end of a backend.
type peer struct {
	*net.UnixConn
	remote *net.UnixAddr
	mac    net.HardwareAddr
}

func plug(t *testing.T, n *Networks, a Attachment) *peer {
	t.Helper()
	backend, err := n.Attach(a)
	if err != nil {
		t.Fatal(err)
	}
	if backend.Dgram == nil {
		t.Fatalf("got backend %+v, want a Dgram", backend)
	}
	_ = os.Remove(backend.Dgram.Local)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: backend.Dgram.Local, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	mac, err := net.ParseMAC(a.MAC)
	if err != nil {
		t.Fatal(err)
	}
	return &peer{conn, &net.UnixAddr{Name: backend.Dgram.Remote, Net: "unixgram"}, mac}
}

func (p *peer) frame(to net.HardwareAddr, text string) []byte {
	f := append(append([]byte{}, to...), p.mac...)
	f = append(f, 0x88, 0xb5) // IEEE 802 local experimental EtherType
	f = append(f, text...)
	return append(f, make([]byte, max(0, 60-len(f)))...)
}

func (p *peer) send(t *testing.T, to net.HardwareAddr, text string) {
	t.Helper()
	if _, err := p.WriteToUnix(p.frame(to, text), p.remote); err != nil {
		t.Fatal(err)
	}
}

func (p *peer) receive(t *testing.T) string {
	t.Helper()
	if err := p.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, 65536)
	n, err := p.Read(raw)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(string(raw[14:n]), "\x00")
}

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func TestUserspaceForwardsWithinNetwork(t *testing.T) {
	n, dir := newNetworks(t)
	a, b := plug(t, n, attachment(dir, first, firstMAC)), plug(t, n, attachment(dir, second, nextMAC))
	a.send(t, broadcast, "who is there?")
	if got := b.receive(t); got != "who is there?" {
		t.Errorf("got %q, want the broadcast", got)
	}
	b.send(t, a.mac, "me")
	if got := a.receive(t); got != "me" {
		t.Errorf("got %q, want the reply", got)
	}
	// Attaching again, as every reconcile does, does not interrupt traffic.
	for range 3 {
		if _, err := n.Attach(attachment(dir, first, firstMAC)); err != nil {
			t.Fatal(err)
		}
	}
	b.send(t, a.mac, "still there?")
	if got := a.receive(t); got != "still there?" {
		t.Errorf("got %q, want the frame sent after attaching again", got)
	}
}

// TestUserspaceSendsARPToItsMachine checks that the addresses of an attachment are known
// to the switch, also after they changed.
func TestUserspaceSendsARPToItsMachine(t *testing.T) {
	n, dir := newNetworks(t)
	server := attachment(dir, first, firstMAC)
	server.Server = true
	machine := attachment(dir, second, nextMAC)
	machine.Addresses = []netip.Addr{netip.MustParseAddr("10.88.0.10")}
	other := attachment(dir, "cccccccc-cccc-cccc-cccc-cccccccccccc", "52:54:00:00:00:0c")
	s, m, o := plug(t, n, server), plug(t, n, machine), plug(t, n, other)
	ask := func(last byte) []byte {
		f := append(append([]byte{}, broadcast...), s.mac...)
		f = append(f, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
		f = append(append(f, s.mac...), 10, 88, 0, 1, 0, 0, 0, 0, 0, 0, 10, 88, 0, last)
		if _, err := s.WriteToUnix(f, s.remote); err != nil {
			t.Fatal(err)
		}
		return f
	}
	want := string(ask(10)[14:])
	if got := m.receive(t); got != want {
		t.Errorf("got %x, want the ARP request", got)
	}
	machine.Addresses = []netip.Addr{netip.MustParseAddr("10.88.0.11")}
	if _, err := n.Attach(machine); err != nil {
		t.Fatal(err)
	}
	want = string(ask(11)[14:])
	if got := m.receive(t); got != want {
		t.Errorf("got %x, want the ARP request for the new address", got)
	}
	s.send(t, broadcast, "to all")
	if got := o.receive(t); got != "to all" {
		t.Errorf("another machine: got %x, want only the frame to all", got)
	}
	machine.Addresses = []netip.Addr{netip.IPv6Loopback()}
	if _, err := n.Attach(machine); err == nil {
		t.Error("Attach with an IPv6 address = nil, want an error")
	}
}

func TestUserspaceIsolatesNetworks(t *testing.T) {
	n, dir := newNetworks(t)
	other := attachment(dir, second, nextMAC)
	other.Network = "22222222-2222-2222-2222-222222222222"
	third := attachment(dir, "cccccccc-cccc-cccc-cccc-cccccccccccc", "52:54:00:00:00:0c")
	a, stranger, c := plug(t, n, attachment(dir, first, firstMAC)), plug(t, n, other), plug(t, n, third)
	a.send(t, broadcast, "for us")
	c.receive(t)
	// The machine on the same network has its copy, so any other would have
	// arrived by now.
	if err := stranger.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if n, err := stranger.Read(make([]byte, 2000)); err == nil {
		t.Errorf("a machine on another network received %d bytes, want none", n)
	}
}

func TestUserspaceEnforcesMAC(t *testing.T) {
	n, dir := newNetworks(t)
	a, b := plug(t, n, attachment(dir, first, firstMAC)), plug(t, n, attachment(dir, second, nextMAC))
	honest := a.mac
	a.mac = net.HardwareAddr{2, 0, 0, 0, 0, 9}
	a.send(t, broadcast, "forged")
	a.mac = honest
	a.send(t, broadcast, "honest")
	if got := b.receive(t); got != "honest" {
		t.Errorf("got %q, want only the frame from the machine's MAC", got)
	}
	if _, err := n.Attach(attachment(dir, "cccccccc-cccc-cccc-cccc-cccccccccccc", firstMAC)); err == nil {
		t.Error("Attach with the MAC of another machine = nil, want an error")
	}
	if _, err := n.Attach(attachment(dir, first, "no MAC")); err == nil {
		t.Error("Attach with an invalid MAC = nil, want an error")
	}
}

func TestUserspaceSupportsMTU(t *testing.T) {
	n, dir := newNetworks(t)
	large := attachment(dir, first, firstMAC)
	large.MTU = 9000
	next := attachment(dir, second, nextMAC)
	next.MTU = 9000
	a, b := plug(t, n, large), plug(t, n, next)
	text := strings.Repeat("x", 8986)
	if !JumboFrames() {
		text = strings.Repeat("x", 1400)
	}
	a.send(t, b.mac, text)
	if got := b.receive(t); got != text {
		t.Errorf("got %d bytes, want %d", len(got), len(text))
	}
}

// TestDetachRemovesStaleSocket detaches a machine that an earlier process has attached,
// which was killed: the socket kept the directory of a deleted machine from being removed.
func TestDetachRemovesStaleSocket(t *testing.T) {
	n, dir := newNetworks(t)
	a := attachment(dir, first, firstMAC)
	if err := os.MkdirAll(a.Sockets, 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(a.Sockets, "sw"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Detach(a); err == nil {
		t.Error("Detach while another process serves the socket: got no error, want one")
	}
	if err := c.Close(); err != nil { // leaves the file
		t.Fatal(err)
	}
	for range 2 { // idempotent
		if err := n.Detach(a); err != nil {
			t.Errorf("got error %v, want none", err)
		}
	}
	if got := sockets(t, dir); got != 0 {
		t.Errorf("got %d sockets after Detach, want 0", got)
	}
}

func TestCleanupRemovesSockets(t *testing.T) {
	n, dir := newNetworks(t)
	for _, a := range []Attachment{attachment(dir, first, firstMAC), attachment(dir, second, nextMAC)} {
		if _, err := n.Attach(a); err != nil {
			t.Fatal(err)
		}
	}
	if got := sockets(t, dir); got != 2 {
		t.Fatalf("got %d sockets for two machines, want 2", got)
	}
	if err := n.Detach(attachment(dir, first, firstMAC)); err != nil {
		t.Fatal(err)
	}
	if got := sockets(t, dir); got != 1 {
		t.Errorf("got %d sockets after Detach, want 1", got)
	}
	for range 2 { // idempotent
		if err := errors.Join(n.Detach(attachment(dir, first, firstMAC)), n.Remove(network)); err != nil {
			t.Fatal(err)
		}
	}
	if got := sockets(t, dir); got != 0 {
		t.Errorf("got %d sockets after Remove, want 0", got)
	}
	if _, err := n.Attach(attachment(dir, first, firstMAC)); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if got := sockets(t, dir); got != 0 {
		t.Errorf("got %d sockets after Close, want 0", got)
	}
}

// TestMachinesReattachAfterRestart covers running machines that a new manager
// attaches again.
func TestMachinesReattachAfterRestart(t *testing.T) {
	n, dir := newNetworks(t)
	a, b := plug(t, n, attachment(dir, first, firstMAC)), plug(t, n, attachment(dir, second, nextMAC))
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	restarted := New(slog.New(slog.DiscardHandler))
	defer restarted.Close()
	for _, p := range []Attachment{attachment(dir, first, firstMAC), attachment(dir, second, nextMAC)} {
		if _, err := restarted.Attach(p); err != nil {
			t.Fatal(err)
		}
	}
	a.send(t, b.mac, "back")
	if got := b.receive(t); got != "back" {
		t.Errorf("got %q, want the frame sent after the restart", got)
	}
}

func TestTrafficCountsRefusedFramesOfRemovedMachines(t *testing.T) {
	n, dir := newNetworks(t)
	a, b := plug(t, n, attachment(dir, first, firstMAC)), plug(t, n, attachment(dir, second, nextMAC))
	honest := a.mac
	a.mac = net.HardwareAddr{2, 0, 0, 0, 0, 9}
	a.send(t, broadcast, "forged")
	a.mac = honest
	a.send(t, broadcast, "honest")
	b.receive(t)
	if err := n.Detach(attachment(dir, first, firstMAC)); err != nil {
		t.Fatal(err)
	}
	got := n.Traffic()[network]
	if got.Frames != 2 || got.Dropped["Spoofed"] != 1 || got.Dropped["Router"] != 0 {
		t.Errorf("got %+v, want 2 frames, one of them Spoofed", got)
	}
	if err := n.Remove(network); err != nil {
		t.Fatal(err)
	}
	if left := n.Traffic(); len(left) != 0 {
		t.Errorf("got %v of a network that was removed, want nothing", left)
	}
}

func TestAttachModes(t *testing.T) {
	n, dir := newNetworks(t)
	for mode, want := range map[Mode]machine.Backend{
		VMNetHost:   {VMNetHost: &machine.VMNetHost{NetUUID: netUUID(network)}},
		VMNetShared: {VMNetShared: &machine.VMNetShared{}},
	} {
		a := attachment(dir, first, firstMAC)
		a.Mode = mode
		got, err := n.Attach(a)
		if err != nil {
			t.Errorf("Attach in mode %s = %v, want nil", mode, err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("Attach in mode %s: backend (-want +got):\n%s", mode, diff)
		}
		if err := n.Detach(a); err != nil {
			t.Errorf("Detach in mode %s = %v, want nil", mode, err)
		}
	}
	a := attachment(dir, first, firstMAC)
	a.Mode = "Carrier"
	if _, err := n.Attach(a); err == nil || !strings.Contains(err.Error(), `"Carrier"`) {
		t.Errorf("Attach with an unknown mode = %v, want an error that names it", err)
	}
	a.Mode = Bridge
	a.Bridge = "pxl-none"
	if _, err := n.Attach(a); err == nil {
		t.Error("Attach to a missing bridge = nil, want an error")
	}
}

func TestNames(t *testing.T) {
	name := tapName(first)
	if len(name) > 15 {
		t.Errorf("tapName = %q, want at most 15 bytes", name)
	}
	if other := tapName(second); other == name {
		t.Errorf("tapName of two machines = %q, want different names", name)
	}
	uuid := netUUID(network)
	if len(uuid) != 36 {
		t.Errorf("netUUID = %q, want a UUID of 36 characters", uuid)
	}
	if other := netUUID(first); other == uuid {
		t.Errorf("netUUID of two networks = %q, want different UUIDs", uuid)
	}
}

func sockets(t *testing.T, dir string) int {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestBridgeNotAllowed(t *testing.T) {
	n, _ := newNetworks(t)
	for _, bridge := range []string{"cni0", "", "pxelab00"} {
		_, err := n.Attach(Attachment{Network: network, Mode: Bridge, Bridge: bridge, MTU: 1500, Machine: first, MAC: firstMAC})
		if !errors.Is(err, ErrBridgeNotAllowed) {
			t.Errorf("Attach to bridge %q = %v, want ErrBridgeNotAllowed", bridge, err)
		}
	}
}

// TestSourceGuardOfMachines checks what the switch enforces of a machine that is attached
// and that a switch-off applies to a machine that runs.
func TestSourceGuardOfMachines(t *testing.T) {
	n, dir := newNetworks(t)
	hostile, victim := attachment(dir, first, firstMAC), attachment(dir, second, nextMAC)
	hostile.Addresses = []netip.Addr{netip.MustParseAddr("10.88.0.10")}
	victim.Addresses = []netip.Addr{netip.MustParseAddr("10.88.0.11")}
	a, b := plug(t, n, hostile), plug(t, n, victim)
	announce := func(address byte) []byte {
		f := append(append([]byte{}, broadcast...), a.mac...)
		f = append(f, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
		f = append(append(f, a.mac...), 10, 88, 0, address)
		return append(f, 0, 0, 0, 0, 0, 0, 10, 88, 0, address)
	}
	send := func(f []byte) {
		t.Helper()
		if _, err := a.WriteToUnix(f, a.remote); err != nil {
			t.Fatal(err)
		}
	}
	send(announce(11))
	send(announce(77))
	a.send(t, broadcast, "honest")
	if got := b.receive(t); got != "honest" {
		t.Errorf("got frame %q, want the honest one first", got)
	}
	want := []Offender{{Machine: first, ForeignAddress: 2}}
	if diff := cmp.Diff(want, n.Offenders(network)); diff != "" {
		t.Errorf("Offenders (-want +got):\n%s", diff)
	}
	if got := n.Traffic()[network].Dropped["ARP"]; got != 2 {
		t.Errorf("got %d dropped ARP packets in the metrics, want 2", got)
	}

	hostile.Unchecked.Addresses = true
	if _, err := n.Attach(hostile); err != nil {
		t.Fatal(err)
	}
	send(announce(11))
	send(announce(77))
	// The announcement of an address that no machine has is sent, that of the victim's is
	// not.
	if got := b.receive(t); got != string(announce(77)[14:]) {
		t.Errorf("got frame %x, want the announcement of a free address", got)
	}
}

func TestServerIsTrusted(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	p := policyOf(Attachment{Server: true, Unchecked: Unchecked{MACs: true}}, mac)
	if p.DenyDHCP || p.DenyRouter || p.LimitRates || p.Sources != 0 || p.ForeignMACs || p.MAC.String() != mac.String() {
		t.Errorf("got policy %+v of a server, want only its MAC enforced", p)
	}
	p = policyOf(Attachment{}, mac)
	if !p.DenyDHCP || !p.DenyRouter || !p.LimitRates || p.Sources == 0 || p.ForeignMACs {
		t.Errorf("got policy %+v of a target, want everything enforced", p)
	}
}
