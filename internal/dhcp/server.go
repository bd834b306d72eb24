// SPDX-License-Identifier: Apache-2.0

package dhcp

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// Peer is where a reply goes.
type Peer struct {
	// MAC is the Ethernet destination.
	MAC net.HardwareAddr
	// Addr is the IP destination; Source the server's address.
	Addr   netip.AddrPort
	Source netip.Addr
	// From is where the request came from.
	From netip.AddrPort
}

// Conn is the link that the server speaks on. [Listen] gives the real one,
// [PacketConn] one over any net.PacketConn.
type Conn interface {
	// ReadFrom blocks for the next message; it ends with net.ErrClosed after
	// Close.
	ReadFrom(b []byte) (n int, from netip.AddrPort, err error)
	// WriteTo sends one message without waiting for address resolution.
	WriteTo(b []byte, to Peer) error
	Close() error
}

// Prober finds out whether an address is in use by somebody who has no lease.
type Prober interface {
	// InUse blocks for a fraction of a second.
	InUse(ctx context.Context, addr netip.Addr) (bool, error)
}

// Options of a server. Config, Policy and Conn are required.
type Options struct {
	Config Config
	Policy Policy
	// Conn is closed by Serve.
	Conn Conn
	// Prober is asked before a pool address is offered for the first time;
	// nil asks nobody.
	Prober Prober
	// Events is called with every event, from several goroutines at once. It
	// must not block.
	Events func(Event)
	Log    *slog.Logger
	// Clock defaults to time.Now.
	Clock func() time.Time
}

// Server answers on one link. Its methods are safe for concurrent use.
type Server struct{ opts Options }

// New checks the options. The caller owns Conn until Serve is called.
func New(o Options) (*Server, error) {
	return &Server{opts: o}, errors.Join(o.Config.Validate())
}

// Serve answers until ctx ends, then closes the Conn, waits for what it
// started, and returns nil; or returns the error that makes it impossible to
// go on.
func (s *Server) Serve(ctx context.Context) error { <-ctx.Done(); return nil }

// SetConfig replaces the network parameters. Leases that no longer fit are
// refused at their next renewal.
func (s *Server) SetConfig(c Config) error { return c.Validate() }

// Leases is a snapshot, ordered by address. It holds offers and expired
// leases too: their State tells.
func (s *Server) Leases() []Lease { return nil }

// Restore takes over leases of an earlier snapshot. It skips what does not fit
// the configuration, what belongs to a declared machine's reservation, and
// machines that already have a lease.
func (s *Server) Restore(leases []Lease) {}

// Counters tells how often each reason occurred.
func (s *Server) Counters() map[Reason]uint64 { return nil }

// LeaseState is how a lease stands.
type LeaseState string

// The states of a lease.
const (
	Offered  LeaseState = "Offered"
	Bound    LeaseState = "Bound"
	Released LeaseState = "Released"
	Expired  LeaseState = "Expired"
)

// Lease is one machine's hold on an address. It marshals to JSON with the MAC
// in its usual text form.
type Lease struct {
	MAC      net.HardwareAddr
	Address  netip.Addr
	State    LeaseState
	Hostname string    // what the client calls itself
	Expires  time.Time // of the offer or the lease
	LastSeen time.Time
}
