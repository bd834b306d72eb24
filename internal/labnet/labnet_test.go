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

	"github.com/pxelab/pxelab/internal/paths/pathstest"
	"github.com/pxelab/pxelab/internal/qemu"
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
	n := New(slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n, dir
}

func place(dir, machine, mac string) Attachment {
	return Attachment{Network: network, Mode: Userspace, MTU: 1500, Machine: machine, Sockets: filepath.Join(dir, machine[:8]), MAC: mac}
}

// peer is what QEMU does with a backend.
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
		t.Fatalf("backend %+v", backend)
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
	f = append(f, 0x88, 0xb5) // an EtherType for local experiments
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

func TestMachinesOfANetworkHearEachOther(t *testing.T) {
	n, dir := newNetworks(t)
	a, b := plug(t, n, place(dir, first, firstMAC)), plug(t, n, place(dir, second, nextMAC))
	a.send(t, broadcast, "who is there?")
	if got := b.receive(t); got != "who is there?" {
		t.Errorf("got %q", got)
	}
	b.send(t, a.mac, "me")
	if got := a.receive(t); got != "me" {
		t.Errorf("got %q", got)
	}
	// Attaching again, as every reconciliation does, disturbs nothing.
	for range 3 {
		if _, err := n.Attach(place(dir, first, firstMAC)); err != nil {
			t.Fatal(err)
		}
	}
	b.send(t, a.mac, "still there?")
	if got := a.receive(t); got != "still there?" {
		t.Errorf("got %q", got)
	}
}

func TestOtherNetworksHearNothing(t *testing.T) {
	n, dir := newNetworks(t)
	other := place(dir, second, nextMAC)
	other.Network = "22222222-2222-2222-2222-222222222222"
	third := place(dir, "cccccccc-cccc-cccc-cccc-cccccccccccc", "52:54:00:00:00:0c")
	a, stranger, c := plug(t, n, place(dir, first, firstMAC)), plug(t, n, other), plug(t, n, third)
	a.send(t, broadcast, "for us")
	c.receive(t)
	// What was to come has come to the other machine of the network.
	if err := stranger.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if n, err := stranger.Read(make([]byte, 2000)); err == nil {
		t.Errorf("a machine of another network got %d bytes", n)
	}
}

func TestAMachineUsesItsOwnMACOnly(t *testing.T) {
	n, dir := newNetworks(t)
	a, b := plug(t, n, place(dir, first, firstMAC)), plug(t, n, place(dir, second, nextMAC))
	honest := a.mac
	a.mac = net.HardwareAddr{2, 0, 0, 0, 0, 9}
	a.send(t, broadcast, "forged")
	a.mac = honest
	a.send(t, broadcast, "honest")
	if got := b.receive(t); got != "honest" {
		t.Errorf("got %q", got)
	}
	if _, err := n.Attach(place(dir, "cccccccc-cccc-cccc-cccc-cccccccccccc", firstMAC)); err == nil {
		t.Error("two machines got the same MAC")
	}
	if _, err := n.Attach(place(dir, first, "no MAC")); err == nil {
		t.Error("a machine without a MAC was attached")
	}
}

func TestTheMTUHolds(t *testing.T) {
	n, dir := newNetworks(t)
	large := place(dir, first, firstMAC)
	large.MTU = 9000
	next := place(dir, second, nextMAC)
	next.MTU = 9000
	a, b := plug(t, n, large), plug(t, n, next)
	text := strings.Repeat("x", 8986)
	if !JumboFrames() {
		text = strings.Repeat("x", 1400)
	}
	a.send(t, b.mac, text)
	if got := b.receive(t); got != text {
		t.Errorf("%d bytes arrived of %d", len(got), len(text))
	}
}

func TestDetachRemoveAndCloseLeaveNoSockets(t *testing.T) {
	n, dir := newNetworks(t)
	for _, a := range []Attachment{place(dir, first, firstMAC), place(dir, second, nextMAC)} {
		if _, err := n.Attach(a); err != nil {
			t.Fatal(err)
		}
	}
	if got := sockets(t, dir); got != 2 {
		t.Fatalf("%d sockets for two machines", got)
	}
	if err := n.Detach(place(dir, first, firstMAC)); err != nil {
		t.Fatal(err)
	}
	if got := sockets(t, dir); got != 1 {
		t.Errorf("%d sockets after Detach", got)
	}
	for range 2 { // the second time is fine as well
		if err := errors.Join(n.Detach(place(dir, first, firstMAC)), n.Remove(network)); err != nil {
			t.Fatal(err)
		}
	}
	if got := sockets(t, dir); got != 0 {
		t.Errorf("%d sockets after Remove", got)
	}
	if _, err := n.Attach(place(dir, first, firstMAC)); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if got := sockets(t, dir); got != 0 {
		t.Errorf("%d sockets after Close", got)
	}
}

// A new manager finds the machines of the one before.
func TestMachinesOutliveTheirSwitch(t *testing.T) {
	n, dir := newNetworks(t)
	a, b := plug(t, n, place(dir, first, firstMAC)), plug(t, n, place(dir, second, nextMAC))
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	again := New(slog.New(slog.DiscardHandler))
	defer again.Close()
	for _, p := range []Attachment{place(dir, first, firstMAC), place(dir, second, nextMAC)} {
		if _, err := again.Attach(p); err != nil {
			t.Fatal(err)
		}
	}
	a.send(t, b.mac, "back")
	if got := b.receive(t); got != "back" {
		t.Errorf("got %q", got)
	}
}

func TestOtherModes(t *testing.T) {
	n, dir := newNetworks(t)
	for mode, want := range map[Mode]qemu.Backend{
		VMNetHost:   {VMNetHost: &qemu.VMNetHost{NetUUID: netUUID(network)}},
		VMNetShared: {VMNetShared: &qemu.VMNetShared{}},
	} {
		a := place(dir, first, firstMAC)
		a.Mode = mode
		got, err := n.Attach(a)
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", mode, err, diff)
		}
		if err := n.Detach(a); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
	}
	a := place(dir, first, firstMAC)
	a.Mode = "Carrier"
	if _, err := n.Attach(a); err == nil || !strings.Contains(err.Error(), `"Carrier"`) {
		t.Errorf("a mode that is not known: %v", err)
	}
	a.Mode, a.Bridge = Bridge, "pxl-none"
	if _, err := n.Attach(a); err == nil {
		t.Error("attached to a bridge that is not there")
	}
}

func TestNamesFitTheKernel(t *testing.T) {
	if name := tapName(first); len(name) > 15 || name == tapName(second) {
		t.Errorf("tap %s", name)
	}
	if netUUID(network) == netUUID(first) || len(netUUID(network)) != 36 {
		t.Errorf("network UUID %s", netUUID(network))
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
