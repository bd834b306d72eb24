// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/dhcp"
	"github.com/pxelab/pxelab/internal/netbootd/internal/nat"
)

// The memory of the process, which shares a small guest with the page cache of what it
// serves. MemoryLimit, in bytes, is that of the Go runtime unless GOMEMLIMIT is set. Far
// below it GCPercent avoids collections, which are what an emulated processor is slowest
// at: a thousand machines hold about 20 MB, of which each collection visits all.
const (
	MemoryLimit = 96 << 20
	GCPercent   = 200
)

// NAT gives the lab's machines access to the uplink.
type NAT interface {
	Ensure(lab netip.Prefix) error
	Remove() error
	// Resolvers returns the uplink's name servers.
	Resolvers() []netip.Addr
}

type systemNAT struct{}

func (systemNAT) Ensure(lab netip.Prefix) error { return nat.Ensure(lab) }
func (systemNAT) Remove() error                 { return nat.Remove() }
func (systemNAT) Resolvers() []netip.Addr       { return nat.UplinkResolvers() }

// Options of a Server. StateDir and Seed are required.
type Options struct {
	// StateDir holds configuration, observations, leases and blobs.
	StateDir string
	// Version identifies this program to the manager: a digest, not a commit.
	Version string
	// APIAddress is the HOST:PORT on which the netboot API listens.
	APIAddress string
	// Seed holds the credentials of the guest's seed. Credentials that the manager
	// sent later replace them, until the seed itself changes.
	Seed netbootapi.ServerCredentials
	// HTTPPort, TFTPPort, DNSPort and NTPPort on the lab address; 0 selects a free
	// port. Machines learn only the HTTP port.
	HTTPPort, TFTPPort, DNSPort, NTPPort uint16
	// SSHPort of the machines, default 22.
	SSHPort uint16
	// BlobGrace is how long content that nothing names is kept, unless an upload needs
	// the space; default an hour.
	BlobGrace time.Duration
	Log       *slog.Logger
	// Alive is called every few seconds while all configured services pass
	// their health check, to feed a watchdog; nil for none.
	Alive func()

	// The fields below replace parts of the system in tests.
	SetUpLink func(*netbootapi.Network) (iface string, err error)
	// Shield makes the netboot API unreachable from the lab's interface; the default is
	// that of the API's server.
	Shield     func(iface string) error
	ListenDHCP func(iface string) (dhcp.Conn, dhcp.Prober, error)
	// DenyIPv6 announces on the interface, until ctx ends, that there is no IPv6
	// router.
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
	if o.BlobGrace == 0 {
		o.BlobGrace = time.Hour
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
