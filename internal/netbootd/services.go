// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pxelab/pxelab/internal/bootconfig"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/dhcp"
	"github.com/pxelab/pxelab/internal/netbootd/internal/nameserver"
	"github.com/pxelab/pxelab/internal/netbootd/internal/ra"
	"github.com/pxelab/pxelab/internal/netbootd/internal/tftp"
	"github.com/pxelab/pxelab/internal/netbootd/internal/timeserver"
)

// Names of the services in the State.
const (
	serviceDHCP = "dhcp"
	serviceTFTP = "tftp"
	serviceHTTP = "http"
	serviceNAT  = "nat"
	serviceDNS  = "dns"
	serviceNTP  = "ntp"
)

// checkEvery is how often the interface and the uplink's name servers are checked.
const checkEvery = 5 * time.Second

// lab is the services of one lab network. They run until the network changes
// or one of them fails.
type lab struct {
	server *Server
	// network is replaced as a whole, by watch.
	network  atomic.Pointer[netbootapi.Network]
	renderer bootconfig.Renderer
	log      *slog.Logger

	iface string
	dhcp  *dhcp.Server
	tftp  *tftp.Server
	http  net.Listener
	dns   *nameserver.Server
	ntp   *timeserver.Server
	// resolvers are asked for names that are not of the lab; watch replaces them.
	resolvers atomic.Pointer[[]netip.AddrPort]
}

// openLab sets up the interface and binds every service, or none.
func openLab(s *Server, network netbootapi.Network) (_ *lab, err error) {
	l := &lab{server: s, log: s.log}
	l.network.Store(&network)
	iface, err := s.options.SetUpLink(&network)
	l.iface = iface
	if err == nil {
		err = s.shield(iface)
	}
	if err != nil {
		s.state.setService(serviceDHCP, netbootapi.Service{Error: clip(err.Error())})
		return nil, err
	}
	var opened []io.Closer
	failed := func(service string, err error) error {
		s.state.setService(service, netbootapi.Service{Error: clip(err.Error())})
		for _, c := range opened {
			err = errors.Join(err, c.Close())
		}
		return fmt.Errorf("%s: %w", service, err)
	}
	if err := s.applyNAT(&network); err != nil {
		return nil, failed(serviceNAT, err)
	}
	host := network.Address.Addr()
	l.http, err = listenHTTP(netip.AddrPortFrom(host, s.options.HTTPPort))
	if err != nil {
		return nil, failed(serviceHTTP, err)
	}
	opened = append(opened, l.http)
	l.renderer = bootconfig.Renderer{Port: listenPort(l.http)}
	if err := l.openNames(); err != nil {
		return nil, failed(serviceDNS, err)
	}
	opened = append(opened, l.dns)
	if err := l.openTime(); err != nil {
		return nil, failed(serviceNTP, err)
	}
	opened = append(opened, l.ntp)
	conn, prober, err := s.options.ListenDHCP(iface)
	if err != nil {
		return nil, failed(serviceDHCP, err)
	}
	opened = append(opened, conn)
	l.dhcp, err = dhcp.New(dhcp.Options{
		Config: dhcpConfig(&network), Policy: dhcpPolicy{l}, Conn: conn, Prober: prober,
		Events: l.dhcpEvent, Log: s.log, Clock: s.options.Clock,
	})
	if err != nil {
		return nil, failed(serviceDHCP, err)
	}
	// Last, because it has no Close: only Serve releases its port.
	l.tftp, err = tftp.New(tftp.Options{
		Addr:    net.JoinHostPort(host.String(), strconv.Itoa(int(s.options.TFTPPort))),
		Handler: tftp.HandlerFunc(l.openTFTP), Events: l.tftpEvent, Log: s.log, MaxBlockSize: tftpBlockSize(&network),
	})
	if err != nil {
		return nil, failed(serviceTFTP, err)
	}
	return l, nil
}

// shield makes the netboot API unreachable from the lab.
func (s *Server) shield(iface string) error {
	if s.options.Shield != nil {
		return s.options.Shield(iface)
	}
	return s.api.Shield(iface)
}

// applyNAT enables or disables NAT. Querying rules makes the kernel load
// nftables, which takes seconds in an emulated guest, so it queries none where
// NAT was never enabled.
func (s *Server) applyNAT(n *netbootapi.Network) error {
	if n.NAT {
		if err := s.store.mark(markNAT); err != nil {
			return err
		}
		return s.options.NAT.Ensure(n.Address.Masked())
	}
	if !s.store.marked(markNAT) {
		return nil
	}
	if err := s.options.NAT.Remove(); err != nil {
		return err
	}
	return s.store.unmark(markNAT)
}

func listenPort(l net.Listener) uint16 {
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// errReopen stops the services because of a change that requires a restart.
var errReopen = errors.New("the network changed")

// serve runs the services until ctx ends or they must be restarted, and returns
// nil; or until one of them fails. changed is closed when the configured network changes.
func (l *lab) serve(ctx context.Context, changed <-chan struct{}) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	k := l.server.state
	handler := &labHandler{
		state: k, blobs: l.server.blobs, renderer: l.renderer, renderings: l.server.renderings,
		persist: l.server.persistNow, log: l.log,
	}
	web := &http.Server{
		Handler:           k.counters.counted(handler.mux()),
		ReadHeaderTimeout: 15 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withConn,
		ErrorLog:          slog.NewLogLogger(l.log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = web.Close() })
	defer stop()

	var running sync.WaitGroup
	defer running.Wait()
	run := func(service, address string, serve func() error) {
		k.setService(service, netbootapi.Service{Serving: true, Address: address})
		running.Go(func() {
			err := serve()
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				err = errors.New("the service stopped unexpectedly")
			}
			k.setService(service, netbootapi.Service{Error: clip(err.Error())})
			cancel(fmt.Errorf("%s: %w", service, err))
		})
	}
	run(serviceHTTP, l.http.Addr().String(), func() error {
		return web.Serve(l.limit(l.http, "HTTPTooManyConnections"))
	})
	run(serviceTFTP, l.tftp.Addr().String(), func() error { return l.tftp.Serve(ctx) })
	run(serviceDNS, l.dns.Addr().String(), func() error { return l.dns.Serve(ctx) })
	run(serviceNTP, l.ntp.Addr().String(), func() error { return l.ntp.Serve(ctx) })
	running.Go(func() { l.denyIPv6(ctx) })
	run(serviceDHCP, l.network.Load().Address.Addr().String()+":67", func() error { return l.dhcp.Serve(ctx) })
	if l.network.Load().NAT {
		k.setService(serviceNAT, netbootapi.Service{Serving: true})
	} else {
		k.dropService(serviceNAT)
	}
	if err := l.watch(ctx, changed); err != nil {
		cancel(err)
	}
	running.Wait()
	k.stopServices()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !errors.Is(cause, errReopen) {
		return cause
	}
	return nil
}

// denyIPv6 keeps iPXE from waiting for an IPv6 router that does not exist. The
// lab works without it, only more slowly, so an error is logged once and
// retried: the interface gets its link-local address shortly after it is up.
func (l *lab) denyIPv6(ctx context.Context) {
	logged := false
	for ctx.Err() == nil {
		if err := l.server.options.DenyIPv6(ctx, l.iface, l.log); err != nil && !logged {
			logged = true
			l.log.Warn("IPv6 router solicitations are not answered yet; network boots are slower", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func denyIPv6(ctx context.Context, iface string, log *slog.Logger) error {
	server, err := ra.New(ra.Options{Interface: iface, Log: log})
	if err != nil {
		return err
	}
	return server.Serve(ctx)
}

// watch checks the interface and the uplink's name servers, and adjusts the services to another
// network, until ctx ends (nil), the interface cannot be set up, or a change requires a
// restart (errReopen).
func (l *lab) watch(ctx context.Context, changed <-chan struct{}) error {
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			var next *netbootapi.Network
			next, changed = l.server.wanted()
			if !isAdjustable(l.network.Load(), next) {
				return errReopen
			}
			if err := l.adjust(next); err != nil {
				return err
			}
		case <-check.C:
			// Another process may have changed the interface.
			network := l.network.Load()
			if _, err := l.server.options.SetUpLink(network); err != nil {
				return err
			}
			l.findResolvers()
		}
	}
}
