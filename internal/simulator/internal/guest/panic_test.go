// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// brokenStack is a TCP/IP stack with a bug.
type brokenStack struct{ stack.NetworkDispatcher }

func (brokenStack) DeliverNetworkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {
	panic("bug")
}

// TestPanicIsReported has a bug in a goroutine of the machine.
func TestPanicIsReported(t *testing.T) {
	causes := make(chan any, 1)
	g := New(Config{
		NICs: []NIC{{ID: testNIC, MAC: testMAC}}, OnPanic: func(cause any) { causes <- cause },
	})
	w, err := openNetwork(link{nic: g.nics[0], address: netip.PrefixFrom(guestAddr, 24)})
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	w.cards[0].Attach(brokenStack{})
	frame := make([]byte, header.EthernetMinimumSize+header.IPv4MinimumSize)
	copy(frame, testMAC)
	g.Receive(testNIC, frame)
	select {
	case cause := <-causes:
		if cause != "bug" {
			t.Errorf("got cause %v, want the bug", cause)
		}
	case <-time.After(patience):
		t.Fatal("timeout: got no cause, want the bug")
	}
}

// TestPanicOfDial has a bug while an HTTP client connects.
func TestPanicOfDial(t *testing.T) {
	var got any
	w := &network{onPanic: func(cause any) { got = cause }} // has no stack
	if _, err := w.dialContext(context.Background(), "tcp", "10.9.0.1:80"); err == nil {
		t.Error("got no error, want one")
	}
	if got == nil {
		t.Error("got no cause, want one")
	}
}
