// SPDX-License-Identifier: Apache-2.0

// Package radv answers IPv6 router solicitations on one link with "there is no
// router here, and no DHCPv6" (RFC 4861).
//
// The lab is an IPv4 network. iPXE configures IPv4 and IPv6 side by side and
// goes on only when both have ended, so that on a silent link it waits for an
// IPv6 router long after its IPv4 lease is there. An advertisement with a
// lifetime of zero and no prefix ends that wait at once and gives nobody an
// address or a route.
package radv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"golang.org/x/net/ipv6"
)

const (
	typeSolicitation  = 133
	typeAdvertisement = 134
	// hopLimit proves that a neighbour sent the message: no router lets it pass.
	hopLimit = 255
	// allNodes is answered to, allRouters is asked.
	allNodes   = "ff02::1"
	allRouters = "ff02::2"
	// minInterval bounds the answers: RFC 4861 section 10 wants three seconds
	// between multicast ones, so that a flood of questions makes no other flood.
	// Machines that start together are answered together.
	minInterval = 100 * time.Millisecond

	maxFailures  = 100
	failurePause = 100 * time.Millisecond
)

// Options of a responder. Interface is required.
type Options struct {
	// Interface is the link. It needs a link-local IPv6 address.
	Interface string
	Log       *slog.Logger
}

// Server answers on one link.
type Server struct {
	conn packetConn
	ifi  *net.Interface
	log  *slog.Logger
}

// packetConn is what is used of *ipv6.PacketConn.
type packetConn interface {
	ReadFrom(b []byte) (n int, cm *ipv6.ControlMessage, src net.Addr, err error)
	WriteTo(b []byte, cm *ipv6.ControlMessage, dst net.Addr) (n int, err error)
	Close() error
}

// New opens the socket; it needs CAP_NET_RAW. The socket is released by Serve.
func New(o Options) (*Server, error) {
	ifi, err := net.InterfaceByName(o.Interface)
	if err != nil {
		return nil, fmt.Errorf("radv: interface %s: %w", o.Interface, err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c, err := net.ListenPacket("ip6:ipv6-icmp", "::")
	if err != nil {
		return nil, fmt.Errorf("radv: opening an ICMPv6 socket: %w", err)
	}
	p := ipv6.NewPacketConn(c)
	if err := configure(p, ifi); err != nil {
		return nil, errors.Join(fmt.Errorf("radv: on interface %s: %w", o.Interface, err), p.Close())
	}
	return &Server{conn: p, ifi: ifi, log: o.Log}, nil
}

func configure(p *ipv6.PacketConn, ifi *net.Interface) error {
	var only ipv6.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv6.ICMPTypeRouterSolicitation)
	return errors.Join(
		p.SetICMPFilter(&only),
		p.JoinGroup(ifi, &net.IPAddr{IP: net.ParseIP(allRouters)}),
		p.SetMulticastInterface(ifi),
		p.SetMulticastHopLimit(hopLimit),
		p.SetMulticastLoopback(false),
		p.SetControlMessage(ipv6.FlagInterface|ipv6.FlagHopLimit, true),
	)
}

// Serve answers until ctx ends and returns nil, or the error that makes it
// impossible to go on. It is called once.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.Close() })
	defer func() {
		stop()
		_ = s.conn.Close()
	}()
	buf := make([]byte, 1500)
	var last time.Time
	for failures := 0; ; {
		n, cm, _, err := s.conn.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if failures++; failures > maxFailures || errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("radv: reading solicitations: %w", err)
			}
			s.log.Warn("radv: cannot read", "err", err)
			select {
			case <-time.After(failurePause):
			case <-ctx.Done():
			}
			continue
		}
		failures = 0
		if cm == nil || cm.IfIndex != s.ifi.Index || cm.HopLimit != hopLimit || !solicitation(buf[:n]) {
			continue
		}
		if time.Since(last) < minInterval {
			continue // the answer just sent went to all
		}
		last = time.Now()
		// To all: the asker may have no address yet.
		to := &net.IPAddr{IP: net.ParseIP(allNodes), Zone: s.ifi.Name}
		if _, err := s.conn.WriteTo(advertisement(s.ifi.HardwareAddr), nil, to); err != nil {
			s.log.Warn("radv: cannot answer", "err", err)
		}
	}
}

func solicitation(b []byte) bool {
	return len(b) >= 8 && b[0] == typeSolicitation && b[1] == 0
}

// advertisement says nothing but that it is one: lifetime 0 (no default
// router), neither managed nor other configuration, no prefix. The kernel fills
// in the checksum.
func advertisement(mac net.HardwareAddr) []byte {
	b := make([]byte, 16)
	b[0] = typeAdvertisement
	if len(mac) == 6 {
		b = append(append(b, 1, 1), mac...) // source link-layer address
	}
	return b
}
