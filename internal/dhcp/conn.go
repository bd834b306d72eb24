// SPDX-License-Identifier: Apache-2.0

package dhcp

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

const (
	serverPort = 67
	clientPort = 68
)

var (
	broadcastMAC = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	broadcastIP  = netip.AddrFrom4([4]byte{255, 255, 255, 255})
)

// Peer is where a reply goes.
type Peer struct {
	// MAC is the Ethernet destination; nil for a relay, which is routed to.
	MAC net.HardwareAddr
	// Addr is the IP destination; Source the server's address.
	Addr   netip.AddrPort
	Source netip.Addr
	// From is where the request came from.
	From netip.AddrPort
}

// Conn is the link that the server speaks on. [Listen] gives the real one,
// [PacketConn] one over any net.PacketConn. Its methods are called from several
// goroutines.
type Conn interface {
	// ReadFrom blocks for the next message; it ends with net.ErrClosed after
	// Close.
	ReadFrom(b []byte) (n int, from netip.AddrPort, err error)
	// WriteTo sends one message without waiting for address resolution.
	WriteTo(b []byte, to Peer) error
	// Close is idempotent in effect: a second one may return an error.
	Close() error
}

// destination is where a reply goes (RFC 2131 section 4.1).
func destination(req, reply *dhcpv4.DHCPv4) Peer {
	p := Peer{MAC: broadcastMAC, Addr: netip.AddrPortFrom(broadcastIP, clientPort)}
	p.Source = addr(reply.Options.Get(dhcpv4.OptionServerIdentifier))
	unicast := func(a netip.Addr) {
		p.MAC, p.Addr = req.ClientHWAddr, netip.AddrPortFrom(a, clientPort)
	}
	switch relay, client, your := addr(req.GatewayIPAddr), addr(req.ClientIPAddr), addr(reply.YourIPAddr); {
	case isSet(relay):
		p.MAC, p.Addr = nil, netip.AddrPortFrom(relay, serverPort)
	case reply.MessageType() == dhcpv4.MessageTypeNak:
	case isSet(client):
		// To the machine that asked, whoever else may claim its address.
		unicast(client)
	case req.IsBroadcast() || !isSet(your):
	default:
		unicast(your)
	}
	return p
}

// PacketConn serves over any packet connection, for tests and for tools: every
// reply goes back to where its request came from.
func PacketConn(c net.PacketConn) Conn { return packetConn{c} }

type packetConn struct{ net.PacketConn }

func (c packetConn) ReadFrom(b []byte) (int, netip.AddrPort, error) {
	n, from, err := c.PacketConn.ReadFrom(b)
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	udp, ok := from.(*net.UDPAddr)
	if !ok {
		return 0, netip.AddrPort{}, fmt.Errorf("a message from %s %s, which is no UDP address", from.Network(), from)
	}
	return n, udp.AddrPort(), nil
}

func (c packetConn) WriteTo(b []byte, to Peer) error {
	_, err := c.PacketConn.WriteTo(b, net.UDPAddrFromAddrPort(to.From))
	return err
}
