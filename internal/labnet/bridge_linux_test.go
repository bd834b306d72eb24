// SPDX-License-Identifier: Apache-2.0

package labnet

import (
	"bytes"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/internal/namespacetest"
)

// tapPeer opens a tap as QEMU does.
func tapPeer(t *testing.T, name string) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		t.Fatalf("opening tap %s: %v", name, err)
	}
	tap := os.NewFile(uintptr(fd), name)
	t.Cleanup(func() { _ = tap.Close() })
	return tap
}

func bridgeAttachment(machine, mac string) Attachment {
	return Attachment{Network: network, Mode: Bridge, Bridge: "pxelab0", MTU: 1500, Machine: machine, MAC: mac}
}

func TestBridgeCarriesFrames(t *testing.T) {
	if !namespacetest.Enter(t, unix.CLONE_NEWNET) {
		return
	}
	n, _ := newNetworks(t)
	if _, err := n.Attach(bridgeAttachment(first, firstMAC)); err == nil || !bytes.Contains([]byte(err.Error()), []byte("create it first")) {
		t.Fatalf("Attach without a bridge = %v, want an error that explains how to create one", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "pxelab0"
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := errors.Join(netlink.LinkAdd(bridge), netlink.LinkSetUp(bridge)); err != nil {
		t.Fatal(err)
	}
	var taps []*os.File
	for machine, mac := range map[string]string{first: firstMAC, second: nextMAC} {
		backend, err := n.Attach(bridgeAttachment(machine, mac))
		if err != nil {
			t.Fatal(err)
		}
		again, err := n.Attach(bridgeAttachment(machine, mac))
		if err != nil {
			t.Fatal(err)
		}
		if again.Tap == nil || *again.Tap != *backend.Tap {
			t.Fatalf("second Attach = %+v, want %+v", again.Tap, backend.Tap)
		}
		taps = append(taps, tapPeer(t, backend.Tap.Interface))
	}

	sendUntilReceived(t, taps[0], taps[1])

	for _, machine := range []string{first, second} {
		for range 2 { // idempotent
			if err := n.Detach(bridgeAttachment(machine, "")); err != nil {
				t.Fatal(err)
			}
		}
		var missing netlink.LinkNotFoundError
		if _, err := netlink.LinkByName(tapName(machine)); !errors.As(err, &missing) {
			t.Errorf("tap of %s after Detach: got %v, want it removed", machine, err)
		}
	}
}

// sendUntilReceived broadcasts on one tap until the other receives the frame: a
// bridge port forwards only some time after its carrier came up.
func sendUntilReceived(t *testing.T, from, to *os.File) {
	t.Helper()
	const vnetHeader = 10
	source, err := net.ParseMAC(firstMAC)
	if err != nil {
		t.Fatal(err)
	}
	frame := append(bytes.Repeat([]byte{0xff}, 6), source...)
	frame = append(frame, 0x88, 0xb5) // IEEE 802 local experimental
	frame = append(frame, bytes.Repeat([]byte("pxelab"), 10)...)
	buffer := make([]byte, 1<<16)
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); {
		if _, err := from.Write(append(make([]byte, vnetHeader), frame...)); err != nil && !errors.Is(err, unix.EIO) {
			t.Fatal(err)
		}
		if err := to.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		for {
			k, err := to.Read(buffer)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if bytes.HasPrefix(buffer[min(k, vnetHeader):k], frame) {
				return
			}
		}
	}
	t.Fatal("got no frame through the bridge within two minutes, want one")
}
