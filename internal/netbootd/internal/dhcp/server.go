// SPDX-License-Identifier: Apache-2.0

package dhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Options configures a Server. Config, Policy and Conn are required.
type Options struct {
	Config Config
	Policy Policy
	// Conn is closed by Serve.
	Conn Conn
	// Prober is called before a pool address is offered for the first time; nil
	// disables probing.
	Prober Prober
	// Events is called with every event except Ignored, from several goroutines
	// concurrently. It must not block.
	Events func(Event)
	Log    *slog.Logger
	// Clock defaults to time.Now.
	Clock func() time.Time
}

// Prober detects addresses that are used without a lease.
type Prober interface {
	// InUse reports whether a machine uses the address. It blocks for a fraction
	// of a second.
	InUse(ctx context.Context, addr netip.Addr) (bool, error)
}

const (
	// maxProbes bounds the concurrent probes, maxCandidates the addresses tried
	// for one offer.
	maxProbes     = 16
	maxCandidates = 4
	// maxFailures is the number of consecutive read errors after which Serve
	// fails. It is large enough for a link that goes down and up again.
	maxFailures  = 100
	failurePause = 100 * time.Millisecond
)

// Server serves DHCP on one link. Its methods are safe for concurrent use.
type Server struct {
	opts Options
	resp *Responder

	// busySince is when the current request arrived, in nanoseconds since
	// started; negative while Serve waits for a request.
	busySince atomic.Int64
	started   time.Time

	wg      sync.WaitGroup
	mu      sync.Mutex
	probing map[hwAddr]bool
}

// New validates the options and returns a Server. The caller owns Conn until
// Serve is called.
func New(o Options) (*Server, error) {
	if o.Conn == nil {
		return nil, errors.New("dhcp: Options.Conn is not set")
	}
	resp, err := NewResponder(o.Config, o.Policy)
	if err != nil {
		return nil, err
	}
	if o.Events == nil {
		o.Events = func(Event) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	s := &Server{opts: o, resp: resp, started: time.Now(), probing: map[hwAddr]bool{}}
	s.busySince.Store(-1)
	return s, nil
}

// SetConfig replaces the network parameters. Leases that no longer fit are
// refused at their next renewal.
func (s *Server) SetConfig(c Config) error { return s.resp.SetConfig(c) }

// Leases returns a snapshot ordered by address, including offers and expired
// leases (see State).
func (s *Server) Leases() []Lease { return s.resp.Leases(s.opts.Clock()) }

// Restore loads leases of an earlier snapshot, see [Responder.Restore].
func (s *Server) Restore(leases []Lease) { s.resp.Restore(leases) }

// Forget removes the lease of a machine, see [Responder.Forget].
func (s *Server) Forget(mac net.HardwareAddr) { s.resp.Forget(mac) }

// Counters returns how often each reason occurred.
func (s *Server) Counters() map[Reason]uint64 { return s.resp.Counters() }

// Serve answers requests until ctx ends, then closes the Conn, waits for running
// probes and returns nil. It returns an error if it can no longer receive. It may
// be called once.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = s.opts.Conn.Close() })
	defer func() {
		cancel()
		stop()
		_ = s.opts.Conn.Close()
		s.wg.Wait()
	}()
	buf := make([]byte, 1<<16)
	for failures := 0; ; {
		n, from, err := s.opts.Conn.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if failures++; failures > maxFailures || errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("dhcp: reading requests: %w", err)
			}
			s.opts.Log.Warn("dhcp: failed to read a request", "err", err)
			select {
			case <-time.After(failurePause):
			case <-ctx.Done():
			}
			continue
		}
		failures = 0
		s.busySince.Store(int64(time.Since(s.started)))
		s.handle(ctx, buf[:n], from)
		s.busySince.Store(-1)
	}
}

func (s *Server) handle(ctx context.Context, packet []byte, from netip.AddrPort) {
	req, err := parse(packet)
	if err != nil {
		s.resp.count(ReasonMalformed)
		return
	}
	reply, ev := s.resp.Reply(req, s.opts.Clock())
	if ev.probe && s.opts.Prober != nil && s.probe(ctx, req, reply, ev, from) {
		return
	}
	s.finish(req, reply, ev, from)
}

// finish sends a reply and reports the event.
func (s *Server) finish(req, reply *dhcpv4.DHCPv4, ev Event, from netip.AddrPort) {
	if reply != nil {
		to := destination(req, reply)
		to.From = from
		if err := s.opts.Conn.WriteTo(encode(reply, messageLimit(req)), to); err != nil {
			s.opts.Log.Warn("dhcp: failed to send a reply", "mac", ev.MAC.String(), "kind", ev.Kind, "to", to.Addr, "err", err)
		}
	}
	if ev.Kind == Ignored {
		return
	}
	// The boot file itself may be a URL with the machine's secret.
	s.opts.Log.Debug("dhcp", "kind", ev.Kind, "mac", ev.MAC.String(), "address", ev.Address,
		"stage", ev.Stage, "arch", ev.Arch, "hasBootFile", ev.BootFile != "", "reason", ev.Reason)
	s.opts.Events(ev)
}

// probe checks in the background that the offered address is unused, and then
// finishes the request. It returns false if too many probes are running. A
// request that arrives during the probe for its machine is a retransmission and
// is dropped.
func (s *Server) probe(ctx context.Context, req, reply *dhcpv4.DHCPv4, ev Event, from netip.AddrPort) bool {
	mac := hwAddr(req.ClientHWAddr)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.probing[mac]:
		return true
	case len(s.probing) >= maxProbes:
		s.resp.count(ReasonProbeBusy)
		return false
	}
	s.probing[mac] = true
	s.wg.Go(func() {
		defer func() {
			s.mu.Lock()
			delete(s.probing, mac)
			s.mu.Unlock()
		}()
		for range maxCandidates {
			used, err := s.opts.Prober.InUse(ctx, ev.Address)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				s.opts.Log.Warn("dhcp: failed to probe an address", "address", ev.Address, "err", err)
			}
			if !used {
				break
			}
			s.opts.Log.Warn("dhcp: address conflict: in use by a machine without a lease", "address", ev.Address)
			s.resp.Conflict(ev.Address, s.opts.Clock())
			if reply, ev = s.resp.Reply(req, s.opts.Clock()); !ev.probe {
				break
			}
		}
		if ev.Kind == Offer {
			s.resp.Probed(ev.Address)
		}
		s.finish(req, reply, ev, from)
	})
	return true
}
