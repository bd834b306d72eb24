// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/dhcp"
	"github.com/pxelab/pxelab/internal/nat"
)

// NAT lets the lab's machines reach the uplink.
type NAT interface {
	Ensure(lab netip.Prefix) error
	Remove() error
	// Resolvers are the uplink's name servers.
	Resolvers() []netip.Addr
}

type systemNAT struct{}

func (systemNAT) Ensure(lab netip.Prefix) error { return nat.Ensure(lab) }
func (systemNAT) Remove() error                 { return nat.Remove() }
func (systemNAT) Resolvers() []netip.Addr       { return nat.UplinkResolvers() }

// Options of a Server. StateDir and Seed are required.
type Options struct {
	// StateDir keeps configuration, observations, leases and blobs.
	StateDir string
	// Version is told to the manager.
	Version string
	// AgentAddress is where the manager connects to, HOST:PORT.
	AgentAddress string
	// Seed are the credentials that the guest was started with. What the manager
	// sent since replaces them, until the seed itself is another.
	Seed agent.ServerCredentials
	// HTTPPort and TFTPPort on the lab address; 0 takes free ones, of which
	// only the HTTP one can be told to machines.
	HTTPPort, TFTPPort uint16
	// SSHPort of the machines, default 22.
	SSHPort uint16
	Log     *slog.Logger
	// Alive is called every few seconds for as long as every service that is
	// to serve answers the server's own questions, for a watchdog; nil for none.
	Alive func()

	// The rest replaces the system's own, for tests.
	SetUpLink  func(*agent.Network) (iface string, err error)
	ListenDHCP func(iface string) (dhcp.Conn, dhcp.Prober, error)
	// DenyIPv6 answers on the interface that there is no IPv6 router, until
	// ctx ends.
	DenyIPv6 func(ctx context.Context, iface string, log *slog.Logger) error
	NAT      NAT
	Dial     func(ctx context.Context, address netip.AddrPort) (net.Conn, error)
	Clock    func() time.Time
}

func (o *Options) setDefaults() {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.SSHPort == 0 {
		o.SSHPort = 22
	}
	if o.Alive == nil {
		o.Alive = func() {}
	}
	if o.SetUpLink == nil {
		o.SetUpLink = SetUpLink
	}
	if o.DenyIPv6 == nil {
		o.DenyIPv6 = denyIPv6
	}
	if o.ListenDHCP == nil {
		o.ListenDHCP = listenDHCP
	}
	if o.NAT == nil {
		o.NAT = systemNAT{}
	}
	if o.Dial == nil {
		dialer := &net.Dialer{}
		o.Dial = func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp4", a.String())
		}
	}
}

func listenDHCP(iface string) (dhcp.Conn, dhcp.Prober, error) {
	conn, err := dhcp.Listen(iface)
	if err != nil {
		return nil, nil, err
	}
	prober, err := dhcp.NewARPProber(iface)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, prober, nil
}
