// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pxelab/pxelab/internal/hostfs"
)

// Options configures a Switch. The zero value is a switch with an MTU of 1500.
type Options struct {
	// MTU is the size of the largest forwarded IP packet: 1500 if zero, at most
	// 65000. On macOS QEMU cannot send frames larger than
	// net.local.dgram.maxdgram (2048 by default).
	MTU int
	// QueueFrames (default 1024) and QueueBytes (default 4 MiB) bound each port's
	// queue; the buffers of the frames count, which have 2048 bytes or the size of
	// the largest frame.
	QueueFrames, QueueBytes int
	// TotalBytes (default 64 MiB) bounds the queues of all ports together, but for
	// 32 KiB or one frame of each. A machine that has read nothing for ten seconds has
	// no more than that. Half of it is divided among the ports: each may hold its part
	// whatever the others hold.
	TotalBytes int
	// MACAge (default 5 minutes) is how long an address stays in the table after
	// its last frame.
	MACAge time.Duration
	// MaxMACs (default 256) bounds the addresses learned per port. Frames to
	// addresses beyond it are not lost but flooded.
	MaxMACs int
	// Impairment is the initial impairment of the network.
	Impairment Impairment
	// Seed makes the random decisions of [Impairment] reproducible for each port;
	// zero selects a random seed.
	Seed uint64
	// Log defaults to a logger that discards.
	Log *slog.Logger
}

// Impairment is loss and delay injected into the network. It applies to each
// delivery to each port, so traffic between two machines is impaired in both
// directions. The zero value injects none.
type Impairment struct {
	// Loss is the probability that a delivery is dropped, 0 to 1.
	Loss float64
	// Latency is added to each delivery, plus or minus a random share of Jitter.
	// The order of frames is kept. Delayed frames wait in the port's queue, which
	// may then grow to four times its bounds.
	Latency, Jitter time.Duration
}

// PortConfig describes one port.
type PortConfig struct {
	// Name identifies the port in the switch.
	Name string
	// Local is the socket that the switch binds (QEMU's remote.path), Remote
	// the one that the machine binds (QEMU's local.path). Remote need not
	// exist. The directory of Local is created with mode 0700 if missing.
	Local, Remote string
	// Policy restricts the port.
	Policy Policy
}

// Policy restricts what a machine may send. The zero value allows everything.
type Policy struct {
	// MAC, if set, is the only source address that the port may use, and no other
	// port may use it.
	MAC net.HardwareAddr
	// ForeignMACs allows other source addresses besides MAC, if no policy has them.
	ForeignMACs bool
	// DenyDHCP enables DHCP snooping: it drops DHCP and DHCPv6 server messages, and
	// requests that a relay agent forwards. DenyRouter enables RA guard: it drops IPv6
	// router advertisements and redirects. A port without one of them is trusted: only
	// trusted ports receive what clients send to all DHCP servers and all IPv6 routers.
	DenyDHCP, DenyRouter bool
	// Addresses are the IPv4 addresses that belong to MAC: ARP requests for them are
	// sent to this port only. An address that two ports have is unknown. A port may use
	// those of its earlier policies until another port has them or it is removed.
	Addresses []netip.Addr
	// Sources is which addresses the port may use.
	Sources SourceGuard
	// LimitRates drops frames to many ports, ARP and neighbor discovery, and messages to
	// DHCP servers and routers beyond a rate.
	LimitRates bool
}

// Errors that AddPort and Capture wrap.
var (
	// ErrInUse means that another process serves the socket.
	ErrInUse = hostfs.ErrSocketInUse
	// ErrMACTaken means that another port is locked to the MAC.
	ErrMACTaken = errors.New("MAC is locked to another port")
	// ErrClosed means that the switch was closed.
	ErrClosed = errors.New("switch is closed")
)

const (
	ethHeader   = 14
	vlanTags    = 8 // two tags
	minMTU      = 576
	maxMTU      = 65000
	defaultMTU  = 1500
	latencyRoom = 4 // factor by which queues may grow while latency is added
)

// Switch forwards between its ports. Its methods are safe for concurrent use.
type Switch struct {
	opts     Options
	maxFrame int
	log      *slog.Logger
	impair   atomic.Pointer[Impairment]
	captures atomic.Pointer[[]*capture]
	buffers  sync.Pool // of *[]byte, for received frames
	budget   budget

	// What forwarding reads. Each has a lock of its own.
	ports     portSet
	table     table
	addresses bindings
	groups    groups
	claims    claims

	mu     sync.Mutex // held while ports are added and removed
	closed bool
	byName map[string]*port
	// removed sums the counters of the ports that were removed.
	removed Totals
}

// New returns a switch without ports. Options out of range are set to the nearest
// allowed value. The caller must call Close.
func New(o Options) *Switch {
	o.MTU = clamp(o.MTU, minMTU, maxMTU, defaultMTU)
	o.QueueFrames = clamp(o.QueueFrames, 1, 1<<16, 1024)
	o.QueueBytes = clamp(o.QueueBytes, max(smallFrame, o.MTU+ethHeader+vlanTags), 1<<30, 4<<20)
	o.TotalBytes = clamp(o.TotalBytes, 0, 1<<30, 64<<20)
	o.MaxMACs = clamp(o.MaxMACs, 1, 1<<16, 256)
	if o.MACAge <= 0 {
		o.MACAge = 5 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Switch{opts: o, maxFrame: o.MTU + ethHeader + vlanTags, log: o.Log, byName: map[string]*port{}}
	s.budget.max = int64(o.TotalBytes)
	// One byte more than the largest frame, to detect truncation.
	s.buffers.New = func() any { b := make([]byte, s.maxFrame+1); return &b }
	s.table.init(o.MACAge, o.MaxMACs)
	s.addresses.init(o.MACAge)
	s.groups.init()
	s.claims.init()
	if s.opts.Seed == 0 {
		s.opts.Seed = rand.Uint64()
	}
	s.captures.Store(&[]*capture{})
	s.SetImpairment(o.Impairment)
	return s
}

func clamp(v, lo, hi, def int) int {
	if v == 0 {
		v = def
	}
	return max(lo, min(v, hi))
}

// SetImpairment replaces the impairment, starting with the next frame.
func (s *Switch) SetImpairment(i Impairment) {
	i.Loss = max(0, min(i.Loss, 1))
	i.Latency, i.Jitter = max(0, i.Latency), max(0, i.Jitter)
	s.impair.Store(&i)
}

// AddPort binds the port's socket and forwards its frames until RemovePort or
// Close. It is idempotent: for an existing name with the same sockets it only
// replaces the policy; with other sockets it replaces the port. A socket file left
// by a dead process is replaced; if a running process serves it AddPort returns
// [ErrInUse].
func (s *Switch) AddPort(c PortConfig) error {
	if c.Name == "" {
		return errors.New("adding a switch port: the name is empty")
	}
	pol, err := parsePolicy(c.Policy)
	if err != nil {
		return fmt.Errorf("adding switch port %s: %w", c.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("adding switch port %s: %w", c.Name, ErrClosed)
	}
	if owner := s.table.lockedTo(pol.mac); owner != nil && owner.name != c.Name {
		return fmt.Errorf("adding switch port %s: %w: %s belongs to port %s", c.Name, ErrMACTaken, c.Policy.MAC, owner.name)
	}
	if p := s.byName[c.Name]; p != nil {
		if p.local == c.Local && p.remote == c.Remote {
			s.setPolicy(p, pol, time.Now())
			return nil
		}
		s.drop(p)
	}
	p, err := openPort(s, c)
	if err != nil {
		return fmt.Errorf("adding switch port %s: %w", c.Name, err)
	}
	s.byName[c.Name] = p
	s.ports.add(p)
	s.budget.divide(s.ports.count())
	s.setPolicy(p, pol, time.Now())
	p.start()
	s.log.Info("switch port added", "port", c.Name, "socket", c.Local)
	return nil
}

// RemovePort closes a port, removes its socket file and its addresses. It is
// idempotent.
func (s *Switch) RemovePort(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.byName[name]; p != nil {
		s.drop(p)
		s.log.Info("switch port removed", "port", name)
	}
}

// Close removes all ports, ends captures and waits for the ports' goroutines. It
// is idempotent.
func (s *Switch) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, p := range s.byName {
		s.drop(p)
	}
	for _, c := range *s.captures.Load() {
		c.stop()
	}
	return nil
}

// The following methods require s.mu.

func (s *Switch) setPolicy(p *port, pol policy, now time.Time) {
	if before := p.policy.Load(); before != nil {
		if before.equal(&pol) {
			return
		}
		pol.former = before.formerUnder(&pol)
	}
	p.policy.Store(&pol)
	s.table.lock(p, pol)
	s.addresses.set(p, pol.mac, pol.addresses, now)
	s.ports.trust(p, !pol.denyDHCP || !pol.denyRouter)
}

func (s *Switch) drop(p *port) {
	delete(s.byName, p.name)
	s.ports.remove(p)
	s.budget.divide(max(1, s.ports.count()))
	p.close()
	s.removed.add(p.stats())
	s.table.forget(p)
	s.addresses.forget(p, time.Now())
	s.groups.forget(p)
	s.claims.forget(p)
}
