// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// maxQueued bounds the received frames that a machine has not processed, in bytes.
	maxQueued = 64 << 10
	// maxFrame is the largest Ethernet frame that a card accepts.
	maxFrame   = 9216
	defaultMTU = 1500
	// maxMessages bounds the DHCP messages that wait for the client.
	maxMessages = 8
)

// nic is a network card. A frame that it receives goes to the DHCP client or the
// TCP/IP stack that uses the card, if any, and else is lost.
type nic struct {
	id   string
	mac  net.HardwareAddr
	mtu  int
	send func([]byte)
	// budget counts the queued bytes of all cards of the machine.
	budget *atomic.Int64
	rate   *limiter
	// onPanic is Config.OnPanic.
	onPanic func(cause any)

	mu       sync.Mutex
	dhcp     chan []byte // messages to the DHCP client; nil without one
	attached *card
	queue    []*stack.PacketBuffer
	wake     chan struct{}
}

func newNIC(c NIC, budget *atomic.Int64, rate *limiter) *nic {
	mtu := c.MTU
	if mtu < 576 || mtu > maxFrame-header.EthernetMinimumSize {
		mtu = defaultMTU
	}
	send := c.Send
	if send == nil {
		send = func([]byte) {}
	}
	return &nic{id: c.ID, mac: c.MAC, mtu: mtu, send: send, budget: budget, rate: rate, wake: make(chan struct{}, 1)}
}

// receive accepts a frame for this card or for all.
func (n *nic) receive(frame []byte) {
	if len(frame) < header.EthernetMinimumSize || len(frame) > maxFrame {
		return
	}
	to := frame[:6]
	if !bytes.Equal(to, n.mac) && !bytes.Equal(to, broadcastMAC) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dhcp != nil {
		if message := dhcpIn(frame); message != nil {
			select {
			case n.dhcp <- bytes.Clone(message):
			default:
			}
			return
		}
	}
	if n.attached == nil {
		return
	}
	size := int64(len(frame))
	if n.budget.Add(size) > maxQueued {
		n.budget.Add(-size)
		return
	}
	n.queue = append(n.queue, stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)}))
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// openDHCP directs DHCP messages to the returned channel, until closeDHCP.
func (n *nic) openDHCP() <-chan []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dhcp = make(chan []byte, maxMessages)
	return n.dhcp
}

func (n *nic) closeDHCP() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dhcp = nil
}

// attach directs frames to the card's TCP/IP stack.
func (n *nic) attach(c *card) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.attached = c
}

// detach drops what is queued.
func (n *nic) detach() {
	n.mu.Lock()
	n.attached = nil
	queue := n.queue
	n.queue = nil
	n.mu.Unlock()
	for _, pkt := range queue {
		n.budget.Add(-int64(pkt.Size()))
		pkt.DecRef()
	}
}

// pump delivers queued frames to the card at the link's rate, until ctx ends.
func (n *nic) pump(ctx context.Context, c *card) {
	defer rescue(n.onPanic)
	for {
		select {
		case <-n.wake:
		case <-ctx.Done():
			return
		}
		for {
			n.mu.Lock()
			var pkt *stack.PacketBuffer
			if len(n.queue) > 0 {
				pkt = n.queue[0]
				n.queue = n.queue[1:]
			} else {
				n.queue = nil // release the array
			}
			n.mu.Unlock()
			if pkt == nil {
				break
			}
			size := pkt.Size()
			err := pause(ctx, n.rate.take(size))
			n.budget.Add(-int64(size))
			if err == nil {
				c.deliver(pkt)
			}
			pkt.DecRef()
		}
	}
}

// limiter is a token bucket.
type limiter struct {
	rate float64 // bytes per second; 0 is unlimited

	mu   sync.Mutex
	free time.Time // when the link has sent everything that was taken
}

// burst is what an idle link passes on at once: a timer is no more exact.
const burst = 5 * time.Millisecond

func newLimiter(rate int64) *limiter { return &limiter{rate: float64(max(0, rate))} }

// take returns how long to wait before size bytes have passed the link.
func (l *limiter) take(size int) time.Duration {
	if l.rate == 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if idle := now.Add(-burst); l.free.Before(idle) {
		l.free = idle
	}
	l.free = l.free.Add(time.Duration(float64(size) / l.rate * float64(time.Second)))
	return l.free.Sub(now)
}

// card is the link endpoint through which a TCP/IP stack uses a nic. It handles
// complete Ethernet frames; package ethernet adds and removes their headers.
type card struct {
	nic *nic

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher
	mtu        uint32
	closed     bool
}

var _ stack.LinkEndpoint = (*card)(nil)

func newCard(n *nic, mtu int) *card {
	c := &card{nic: n}
	c.setMTU(mtu)
	return c
}

// setMTU sets the size of IP packets, without the Ethernet header.
func (c *card) setMTU(mtu int) { c.SetMTU(uint32(min(mtu+header.EthernetMinimumSize, maxFrame))) }

// deliver passes a frame to the stack.
func (c *card) deliver(pkt *stack.PacketBuffer) {
	c.mu.RLock()
	d := c.dispatcher
	c.mu.RUnlock()
	if d != nil {
		d.DeliverNetworkPacket(0, pkt)
	}
}

// WritePackets sends frames to the switch.
func (c *card) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	c.mu.RLock()
	closed := c.closed
	c.mu.RUnlock()
	if closed {
		return 0, &tcpip.ErrClosedForSend{}
	}
	n := 0
	for _, pkt := range pkts.AsSlice() {
		view := pkt.ToView()
		c.nic.send(view.AsSlice())
		view.Release()
		n++
	}
	return n, nil
}

// Attach implements stack.LinkEndpoint.
func (c *card) Attach(d stack.NetworkDispatcher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dispatcher = d
}

// IsAttached implements stack.LinkEndpoint.
func (c *card) IsAttached() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.dispatcher != nil
}

// MTU implements stack.LinkEndpoint. It includes the Ethernet header.
func (c *card) MTU() uint32 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.mtu
}

// SetMTU implements stack.LinkEndpoint.
func (c *card) SetMTU(mtu uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mtu = mtu
}

// Close makes the card send nothing more: timers of a closed stack may still expire.
func (c *card) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
}

// LinkAddress implements stack.LinkEndpoint.
func (c *card) LinkAddress() tcpip.LinkAddress { return tcpip.LinkAddress(c.nic.mac) }

// SetLinkAddress implements stack.LinkEndpoint; the address is the hardware's.
func (*card) SetLinkAddress(tcpip.LinkAddress) {}

// MaxHeaderLength implements stack.LinkEndpoint.
func (*card) MaxHeaderLength() uint16 { return 0 }

// Capabilities implements stack.LinkEndpoint.
func (*card) Capabilities() stack.LinkEndpointCapabilities { return 0 }

// Wait implements stack.LinkEndpoint.
func (*card) Wait() {}

// ARPHardwareType implements stack.LinkEndpoint.
func (*card) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }

// AddHeader implements stack.LinkEndpoint.
func (*card) AddHeader(*stack.PacketBuffer) {}

// ParseHeader implements stack.LinkEndpoint.
func (*card) ParseHeader(*stack.PacketBuffer) bool { return true }

// SetOnCloseAction implements stack.LinkEndpoint.
func (*card) SetOnCloseAction(func()) {}
