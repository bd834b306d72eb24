// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// dhcpProgram is how one program asks for a lease.
type dhcpProgram struct {
	// options returns the program's options, in its order, after the message type.
	// server and address are set in a DHCPREQUEST that selects an offer.
	options   func(kind byte, server, address netip.Addr) []option
	broadcast bool
	// size is the least size of a message, in bytes.
	size int
	// seconds returns the field secs of the nth message, counted from 0.
	seconds func(n int, kind byte) uint16
	// waits are the times after which a message is sent again; after the last one
	// the program gives up.
	waits []time.Duration
	// deaf makes the program ignore all offers.
	deaf bool
}

// lease is what a program received.
type lease struct {
	reply
	prefix netip.Prefix
	server netip.Addr
	at     time.Time
	// renew is how long after at the lease is to be renewed; 0 is never.
	renew time.Duration
}

// Reasons why there is no lease.
var (
	errNoOffer = errors.New("no DHCP offer was received")
	errNoACK   = errors.New("no DHCP acknowledgement was received")
)

// acquire obtains a lease for a card (RFC 2131, section 3.1). It selects the first
// usable offer.
func (g *Guest) acquire(ctx context.Context, n *nic, p dhcpProgram) (*lease, error) {
	messages := n.openDHCP()
	defer n.closeDHCP()
	c := dhcpClient{g: g, nic: n, program: p, messages: messages, xid: g.uint32n(0)}
	for {
		offer, err := c.exchange(ctx, dhcpDiscover, nil)
		if err != nil {
			return nil, err
		}
		ack, err := c.exchange(ctx, dhcpRequest, offer)
		if errors.Is(err, errRefused) && ctx.Err() == nil {
			c.refused++
			if c.refused < len(p.waits) {
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		return newLease(ack)
	}
}

func newLease(ack *reply) (*lease, error) {
	prefix, err := ack.prefix()
	if err != nil {
		return nil, err
	}
	l := &lease{reply: *ack, prefix: prefix, server: ack.address(optServer), at: time.Now()}
	if seconds := ack.number(optLease); seconds != 0 && seconds != 0xffffffff {
		l.renew = time.Duration(seconds) * time.Second / 2
		if t1 := ack.number(optT1); t1 != 0 && t1 < seconds {
			l.renew = time.Duration(t1) * time.Second
		}
	}
	return l, nil
}

// dhcpClient is one exchange for a lease.
type dhcpClient struct {
	g        *Guest
	nic      *nic
	program  dhcpProgram
	messages <-chan []byte
	xid      uint32
	sent     int
	refused  int
}

var errRefused = errors.New("the server refused the address")

// exchange sends a message until it is answered. offer is the selected offer in a
// DHCPREQUEST.
func (c *dhcpClient) exchange(ctx context.Context, kind byte, offer *reply) (*reply, error) {
	for _, wait := range c.program.waits {
		c.send(kind, offer)
		r, err := c.await(ctx, wait/c.g.hurry, kind, offer)
		if r != nil || err != nil {
			return r, err
		}
	}
	if kind == dhcpDiscover {
		return nil, errNoOffer
	}
	return nil, errNoACK
}

func (c *dhcpClient) send(kind byte, offer *reply) {
	var server, address netip.Addr
	if offer != nil {
		server, address = offer.address(optServer), offer.your
	}
	m := c.message(kind, server, address)
	if c.program.seconds != nil {
		m.seconds = c.program.seconds(c.sent, kind)
	}
	c.sent++
	c.nic.send(dhcpFrame(c.nic.mac, uint16(c.g.uint32n(1<<16)), m.marshal()))
}

// message returns a message of the given kind. server and address are set if it
// selects an offer.
func (c *dhcpClient) message(kind byte, server, address netip.Addr) message {
	return message{
		xid: c.xid, broadcast: c.program.broadcast, mac: c.nic.mac, size: c.program.size,
		options: append([]option{{optMessageType, []byte{kind}}}, c.program.options(kind, server, address)...),
	}
}

// await waits for the answer to a message of the given kind. It returns nil if there
// is none in time.
func (c *dhcpClient) await(ctx context.Context, wait time.Duration, kind byte, offer *reply) (*reply, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		var raw []byte
		select {
		case raw = <-c.messages:
		case <-timer.C:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		r, err := parseReply(raw)
		if err != nil || r.xid != c.xid || !bytes.Equal(r.mac, c.nic.mac) {
			continue
		}
		switch {
		case kind == dhcpDiscover && r.kind() == dhcpOffer && r.address(optServer).IsValid():
			if !c.program.deaf {
				return &r, nil
			}
		case kind == dhcpRequest && r.address(optServer) != offer.address(optServer):
		case kind == dhcpRequest && r.kind() == dhcpACK && r.your == offer.your:
			return &r, nil
		case kind == dhcpRequest && r.kind() == dhcpNAK:
			return nil, errRefused
		}
	}
}

// renew extends a lease by a message to the server that granted it (RFC 2131, section
// 4.4.5), once. The caller tries again later.
func (g *Guest) renew(ctx context.Context, w *network, mac net.HardwareAddr, l *lease, p dhcpProgram) (*lease, error) {
	conn, err := w.listenUDP(dhcpClientPort)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	m := message{
		xid: g.uint32n(0), client: l.your, mac: mac, size: p.size,
		options: append([]option{{optMessageType, []byte{dhcpRequest}}}, p.options(dhcpRequest, netip.Addr{}, netip.Addr{})...),
	}
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.server, dhcpServerPort))
	if _, err := conn.WriteTo(m.marshal(), to); err != nil {
		return nil, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(p.waits[0])); err != nil {
		return nil, err
	}
	buf := make([]byte, defaultMTU)
	for ctx.Err() == nil {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return nil, fmt.Errorf("renewing the lease of %s: %w", l.your, err)
		}
		if r, err := parseReply(buf[:n]); err == nil && r.xid == m.xid && r.kind() == dhcpACK {
			return newLease(&r)
		}
	}
	return nil, ctx.Err()
}
