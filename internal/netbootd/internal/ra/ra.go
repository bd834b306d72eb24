// SPDX-License-Identifier: Apache-2.0

// Package ra answers IPv6 router solicitations on one link with a router
// advertisement that announces neither a default router nor DHCPv6 (RFC 4861).
//
// The lab is an IPv4 network. iPXE configures IPv4 and IPv6 in parallel and
// continues only when both have finished, so without an answer it waits for an
// IPv6 router long after it has its IPv4 lease. An advertisement with a lifetime
// of zero and no prefix ends that wait without configuring an address or a route.
package ra

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
	// hopLimit proves that the sender is on the link: routers decrement it.
	hopLimit = 255
	// allNodes is the destination of advertisements, allRouters that of
	// solicitations.
	allNodes   = "ff02::1"
	allRouters = "ff02::2"
	// minInterval limits the rate of multicast advertisements (RFC 4861 section
	// 10 requires three seconds), so that a flood of solicitations does not cause
	// another flood. One advertisement serves all machines that start together.
	minInterval = 100 * time.Millisecond

	maxFailures  = 100
	failurePause = 100 * time.Millisecond
)

// Options configures a Server. Interface is required.
type Options struct {
	// Interface is the name of the link. It must have a link-local IPv6 address.
	Interface string
	Log       *slog.Logger
}

// Server answers router solicitations on one link.
type Server struct {
	conn packetConn
	ifi  *net.Interface
	log  *slog.Logger
}

// packetConn is the part of *ipv6.PacketConn that Server uses.
type packetConn interface {
	ReadFrom(b []byte) (n int, cm *ipv6.ControlMessage, src net.Addr, err error)
	WriteTo(b []byte, cm *ipv6.ControlMessage, dst net.Addr) (n int, err error)
	Close() error
}

// New opens the socket. It requires CAP_NET_RAW. Serve closes the socket.
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
		return nil, errors.Join(fmt.Errorf("radv: configuring the socket on interface %s: %w", o.Interface, err), p.Close())
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

// Serve answers solicitations until ctx ends and returns nil. It returns an error
// if it can no longer receive. It may be called once.
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
			s.log.Warn("radv: failed to read a solicitation", "err", err)
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
			continue // the advertisement just sent reached all nodes
		}
		last = time.Now()
		// Multicast, because the sender may have no address yet.
		to := &net.IPAddr{IP: net.ParseIP(allNodes), Zone: s.ifi.Name}
		if _, err := s.conn.WriteTo(advertisement(s.ifi.HardwareAddr), nil, to); err != nil {
			s.log.Warn("radv: failed to send an advertisement", "err", err)
		}
	}
}

func solicitation(b []byte) bool {
	return len(b) >= 8 && b[0] == typeSolicitation && b[1] == 0
}

// advertisement returns a router advertisement with lifetime 0 (not a default
// router), without the managed and other configuration flags, and without a
// prefix. The kernel sets the checksum.
func advertisement(mac net.HardwareAddr) []byte {
	b := make([]byte, 16)
	b[0] = typeAdvertisement
	if len(mac) == 6 {
		b = append(append(b, 1, 1), mac...) // source link-layer address
	}
	return b
}
