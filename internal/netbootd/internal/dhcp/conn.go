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

// Peer is the destination of a reply.
type Peer struct {
	// MAC is the Ethernet destination; nil for a relay agent, which is reached
	// through routing.
	MAC net.HardwareAddr
	// Addr is the IP destination.
	Addr netip.AddrPort
	// Source is the server's address.
	Source netip.Addr
	// From is the sender of the request.
	From netip.AddrPort
}

// Conn is the link that the server serves. [Listen] opens a network interface,
// [PacketConn] wraps any net.PacketConn. The methods are called from several
// goroutines.
type Conn interface {
	// ReadFrom blocks until a message arrives. It returns net.ErrClosed after
	// Close.
	ReadFrom(b []byte) (n int, from netip.AddrPort, err error)
	// WriteTo sends one message without waiting for address resolution.
	WriteTo(b []byte, to Peer) error
	// Close may be called again; later calls may return an error.
	Close() error
}

// destination returns the destination of a reply (RFC 2131 section 4.1). What may have a
// secret is sent to the client's MAC address alone, also if the client needs it with the
// broadcast address of IP.
func destination(req, reply *dhcpv4.DHCPv4) Peer {
	p := Peer{MAC: broadcastMAC, Addr: netip.AddrPortFrom(broadcastIP, clientPort)}
	p.Source = addr(reply.Options.Get(dhcpv4.OptionServerIdentifier))
	unicast := func(a netip.Addr) {
		p.MAC, p.Addr = req.ClientHWAddr, netip.AddrPortFrom(a, clientPort)
	}
	relay := addr(req.GatewayIPAddr)
	client := addr(req.ClientIPAddr)
	your := addr(reply.YourIPAddr)
	switch {
	case isSet(relay):
		p.MAC, p.Addr = nil, netip.AddrPortFrom(relay, serverPort)
	case reply.MessageType() == dhcpv4.MessageTypeNak:
	case isSet(client):
		// By MAC, so that the reply reaches the requesting machine even if
		// another one uses its address.
		unicast(client)
	case req.IsBroadcast() || !isSet(your):
		unicast(broadcastIP)
	default:
		unicast(your)
	}
	return p
}

// PacketConn returns a Conn over any packet connection, for tests and tools. It
// sends every reply to the sender of the request.
func PacketConn(c net.PacketConn) Conn { return packetConn{c} }

type packetConn struct{ net.PacketConn }

func (c packetConn) ReadFrom(b []byte) (int, netip.AddrPort, error) {
	n, from, err := c.PacketConn.ReadFrom(b)
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	udp, ok := from.(*net.UDPAddr)
	if !ok {
		return 0, netip.AddrPort{}, fmt.Errorf("message from %s %s, which is not a UDP address", from.Network(), from)
	}
	return n, udp.AddrPort(), nil
}

func (c packetConn) WriteTo(b []byte, to Peer) error {
	_, err := c.PacketConn.WriteTo(b, net.UDPAddrFromAddrPort(to.From))
	return err
}
