// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// Limits of a machine's TCP/IP stack. A connection's receive window fits into the
// machine's queue of frames, so that a slow link delays and does not lose.
const (
	sendBuffer    = 16 << 10
	receiveBuffer = 32 << 10
	// lingering is how long a closed connection is remembered; a machine at rest
	// answers a probe every few seconds.
	lingering = 5 * time.Second
)

// link is a network card with its addresses.
type link struct {
	nic     *nic
	address netip.Prefix
	// gateway is the zero Addr if there is none.
	gateway netip.Addr
	// mtu is 0 for the card's.
	mtu int
}

// network is the TCP/IP stack of one program: the firmware, iPXE, the installer or an
// installed system. It is closed, and everything in it lost, when the program ends.
type network struct {
	stack *stack.Stack
	nics  []*nic
	cards []*card
	stop  context.CancelFunc
	pumps sync.WaitGroup
	// onPanic is Config.OnPanic.
	onPanic func(cause any)
}

// silence discards what netstack logs: frames of a peer can cause it.
var silence = sync.OnceFunc(func() { log.SetTarget(log.GoogleEmitter{Writer: &log.Writer{Next: io.Discard}}) })

// openNetwork starts a stack with the given links. The caller must close it.
func openNetwork(links ...link) (*network, error) {
	silence()
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	ctx, stop := context.WithCancel(context.Background())
	w := &network{stack: s, stop: stop}
	if len(links) > 0 {
		w.onPanic = links[0].nic.onPanic
	}
	if err := w.configure(links); err != nil {
		w.close()
		return nil, err
	}
	for i, n := range w.nics {
		c := w.cards[i]
		n.attach(c)
		w.pumps.Go(func() { n.pump(ctx, c) })
	}
	return w, nil
}

func (w *network) configure(links []link) error {
	if err := w.limitMemory(); err != nil {
		return err
	}
	var routes []tcpip.Route
	for i, l := range links {
		id := tcpip.NICID(i + 1)
		mtu := l.mtu
		if mtu == 0 {
			mtu = l.nic.mtu
		}
		c := newCard(l.nic, mtu)
		if err := w.stack.CreateNIC(id, ethernet.New(c)); err != nil {
			return fmt.Errorf("creating a network interface: %s", err)
		}
		w.nics = append(w.nics, l.nic)
		w.cards = append(w.cards, c)
		address := tcpip.ProtocolAddress{
			Protocol: ipv4.ProtocolNumber,
			AddressWithPrefix: tcpip.AddressWithPrefix{
				Address: tcpip.AddrFrom4(l.address.Addr().As4()), PrefixLen: l.address.Bits(),
			},
		}
		if err := w.stack.AddProtocolAddress(id, address, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("adding the address %s: %s", l.address, err)
		}
		routes = append(routes, tcpip.Route{Destination: address.AddressWithPrefix.Subnet(), NIC: id})
		if l.gateway.IsValid() {
			routes = append(routes, tcpip.Route{
				Destination: header.IPv4EmptySubnet, Gateway: tcpip.AddrFrom4(l.gateway.As4()), NIC: id,
			})
		}
	}
	w.stack.SetRouteTable(routes)
	return nil
}

func (w *network) limitMemory() error {
	sizes := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: sendBuffer, Max: sendBuffer}
	received := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: receiveBuffer, Max: receiveBuffer}
	moderate := tcpip.TCPModerateReceiveBufferOption(false)
	wait := tcpip.TCPTimeWaitTimeoutOption(lingering)
	linger := tcpip.TCPLingerTimeoutOption(lingering)
	for _, option := range []tcpip.SettableTransportProtocolOption{&sizes, &received, &moderate, &wait, &linger} {
		if err := w.stack.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("limiting the memory of TCP: %s", err)
		}
	}
	// For UDP.
	err := w.stack.SetOption(tcpip.ReceiveBufferSizeOption{Min: receiveBuffer, Default: receiveBuffer, Max: receiveBuffer})
	if err != nil {
		return fmt.Errorf("limiting the memory of UDP: %s", err)
	}
	return nil
}

// close ends all connections without another frame, as a reset does, and waits for
// the stack's goroutines.
func (w *network) close() {
	w.stop()
	for i, n := range w.nics {
		n.detach()
		w.cards[i].Close()
	}
	w.pumps.Wait()
	w.stack.Destroy()
}

// setMTU changes the MTU of the first link.
func (w *network) setMTU(mtu int) { w.cards[0].setMTU(mtu) }

func fullAddress(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{Addr: tcpip.AddrFrom4(a.Addr().Unmap().As4()), Port: a.Port()}
}

// dial connects to an address over TCP.
func (w *network) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	if !to.Addr().Unmap().Is4() {
		return nil, fmt.Errorf("%s is not an IPv4 address", to.Addr())
	}
	return gonet.DialContextTCP(ctx, w.stack, fullAddress(to), ipv4.ProtocolNumber)
}

// dialContext has the signature of [net.Dialer.DialContext]. It resolves no names. An
// HTTP client calls it in a goroutine.
func (w *network) dialContext(ctx context.Context, _, address string) (_ net.Conn, err error) {
	defer rescue(func(cause any) {
		err = fmt.Errorf("connecting to %s: %v", address, cause)
		if w.onPanic == nil {
			panic(cause)
		}
		w.onPanic(cause)
	})
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", errNoName, address)
	}
	return w.dial(ctx, to)
}

// errNoName reports a host name: simulated machines resolve none.
var errNoName = errors.New("a simulated machine connects to addresses only")

// listenUDP opens a UDP port; 0 selects a free one.
func (w *network) listenUDP(port uint16) (*gonet.UDPConn, error) {
	return gonet.DialUDP(w.stack, &tcpip.FullAddress{NIC: 1, Port: port}, nil, ipv4.ProtocolNumber)
}

// listenTCP opens a TCP port on all addresses.
func (w *network) listenTCP(port uint16) (*gonet.TCPListener, error) {
	return gonet.ListenTCP(w.stack, tcpip.FullAddress{Port: port}, ipv4.ProtocolNumber)
}
