// SPDX-License-Identifier: Apache-2.0

// Package l2switch is a learning Ethernet switch in userspace. Its ports are
// UNIX datagram sockets as QEMU's dgram netdev speaks them, one frame per
// datagram, so that virtual machines share a network with no rights on the
// host, the same way on Linux and macOS.
//
// It learns addresses with ageing, floods broadcast, multicast and unknown
// unicast, and gives every port a bounded queue of its own, so that a guest
// that stops reading delays nobody else. Machines and the switch may come, go
// and come back in any order: a missing peer costs its own frames and nothing
// more. It can lock a port to its machine's MAC and keep it from playing the
// network's server, impair the network on purpose, and record every frame as
// pcap.
//
// It refuses to be more: no VLANs of its own, no spanning tree (a loop between
// ports is the caller's mistake), no IP.
package l2switch

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// Options of a switch. The zero value is a switch for an MTU of 1500.
type Options struct {
	// MTU is the largest IP packet that passes: 1500 if zero, at most 65000.
	// On macOS a frame above net.local.dgram.maxdgram (2048 unless raised)
	// cannot be sent by QEMU.
	MTU int
	// QueueFrames (1024) and QueueBytes (4 MiB) bound each port's queue.
	QueueFrames, QueueBytes int
	// MACAge (5 minutes) is how long an address is remembered after its last
	// frame; MaxMACs (256) how many are remembered per port. A port with more
	// loses no frames: what goes to its other addresses is flooded.
	MACAge  time.Duration
	MaxMACs int
	// Impairment is what the network suffers from the start.
	Impairment Impairment
	// Seed makes what [Impairment] does by chance come the same again, port by
	// port; zero takes a new one.
	Seed uint64
	// Log defaults to none.
	Log *slog.Logger
}

// Impairment makes the network worse on purpose, on every delivery to every
// port: what two machines exchange suffers it in each direction.
type Impairment struct {
	// Loss is the part of deliveries that is dropped, 0 to 1.
	Loss float64
	// Latency is added to each delivery, and up to Jitter more or less by
	// chance; order is kept. Frames on their way wait in the port's queue, which
	// may then grow to four times its bounds and no further.
	Latency, Jitter time.Duration
}

// PortConfig describes one port.
type PortConfig struct {
	// Name identifies the port in the switch.
	Name string
	// Local is the socket that the switch binds (QEMU's remote.path), Remote
	// the one that the machine binds (QEMU's local.path). Remote need not
	// exist. Their folder is made with mode 0700 if it is missing.
	Local, Remote string
	// Policy is what the port may not do.
	Policy Policy
}

// Policy restricts what a machine may send. The zero value allows everything.
type Policy struct {
	// MAC, when set, is the only source address the port may use, and no other
	// port may use it.
	MAC net.HardwareAddr
	// DenyServer drops what only a network's own server sends: DHCP replies,
	// over IPv4 and IPv6, router advertisements and redirects.
	DenyServer bool
}

// Drops counts frames that went nowhere, by cause.
type Drops struct {
	// On their way in, from the port's machine: shorter than an Ethernet
	// header; larger than the MTU allows; from an impossible source address;
	// from an address the policy forbids; DHCP replies and router
	// advertisements that it forbids.
	Runt, Oversize, BadSource, Spoofed, DHCPServer, Router uint64
	// On their way out, to the port's machine: the queue was full; no machine
	// was there; lost to [Impairment].
	QueueFull, PeerAbsent, Impaired uint64
}

// PortStats is what passed a port. Rx is from its machine, Tx to it.
type PortStats struct {
	Name                                 string
	RxFrames, RxBytes, TxFrames, TxBytes uint64
	Drops                                Drops
	MACs                                 int    // addresses remembered now
	Unlearned                            uint64 // frames whose source found no room in the table
	Queued                               int    // frames waiting now
}

// Errors of AddPort that callers tell apart.
var (
	// ErrInUse: another process serves the socket.
	ErrInUse = errors.New("socket is in use by another process")
	// ErrMACTaken: another port is locked to the same MAC.
	ErrMACTaken = errors.New("MAC is locked to another port")
	// ErrClosed: the switch was closed.
	ErrClosed = errors.New("switch is closed")
)

const (
	ethHeader   = 14
	vlanTags    = 8 // two tags
	minMTU      = 576
	maxMTU      = 65000
	defaultMTU  = 1500
	latencyRoom = 4 // queues grow by this factor while latency is added
)

// Switch forwards between its ports. Its methods are safe for concurrent use.
type Switch struct {
	opts     Options
	maxFrame int
	log      *slog.Logger
	table    table
	impair   atomic.Pointer[Impairment]
	captures atomic.Pointer[[]*capture]

	// ports is replaced as a whole under mu, so that forwarding reads it free.
	ports  atomic.Pointer[[]*port]
	mu     sync.Mutex
	closed bool
}

// New makes a switch without ports. Out-of-range options are corrected to the
// nearest allowed value. Close it when done.
func New(o Options) *Switch {
	o.MTU = clamp(o.MTU, minMTU, maxMTU, defaultMTU)
	o.QueueFrames = clamp(o.QueueFrames, 1, 1<<16, 1024)
	o.QueueBytes = clamp(o.QueueBytes, o.MTU+ethHeader+vlanTags, 1<<30, 4<<20)
	o.MaxMACs = clamp(o.MaxMACs, 1, 1<<16, 256)
	if o.MACAge <= 0 {
		o.MACAge = 5 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Switch{opts: o, maxFrame: o.MTU + ethHeader + vlanTags, log: o.Log}
	s.table.init(o.MACAge, o.MaxMACs)
	if s.opts.Seed == 0 {
		s.opts.Seed = rand.Uint64()
	}
	s.ports.Store(&[]*port{})
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

// SetImpairment replaces what the network suffers, from the next frame on.
func (s *Switch) SetImpairment(i Impairment) {
	i.Loss = max(0, min(i.Loss, 1))
	i.Latency, i.Jitter = max(0, i.Latency), max(0, i.Jitter)
	s.impair.Store(&i)
}

// AddPort binds the port's socket and forwards from then on, until RemovePort
// or Close. It is idempotent: the same name and sockets only replace the
// policy, other sockets move the port. A socket file left by a dead process is
// replaced; one that a living process serves is [ErrInUse].
func (s *Switch) AddPort(c PortConfig) error {
	if c.Name == "" {
		return errors.New("adding a switch port: it has no name")
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
	if owner := s.lockedBy(pol); owner != "" && owner != c.Name {
		return fmt.Errorf("adding switch port %s: %w: %s belongs to port %s", c.Name, ErrMACTaken, c.Policy.MAC, owner)
	}
	if p := s.find(c.Name); p != nil {
		if p.local == c.Local && p.remote == c.Remote {
			s.setPolicy(p, pol)
			return nil
		}
		s.drop(p)
	}
	p, err := openPort(s, c)
	if err != nil {
		return fmt.Errorf("adding switch port %s: %w", c.Name, err)
	}
	s.setPolicy(p, pol)
	list := append(append([]*port{}, *s.ports.Load()...), p)
	s.ports.Store(&list)
	p.start()
	s.log.Info("switch port added", "port", c.Name, "socket", c.Local)
	return nil
}

// RemovePort closes a port, removes its socket file and forgets its
// addresses. A port that does not exist is fine.
func (s *Switch) RemovePort(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.find(name); p != nil {
		s.drop(p)
		s.log.Info("switch port removed", "port", name)
	}
}

// Close removes all ports and waits for everything the switch runs. Captures
// end. It is idempotent.
func (s *Switch) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, p := range *s.ports.Load() {
		s.drop(p)
	}
	for _, c := range *s.captures.Load() {
		c.stop()
	}
	return nil
}

// Stats tells every port's counters, ordered by name. They begin anew when a
// port is added anew.
func (s *Switch) Stats() []PortStats {
	var all []PortStats
	for _, p := range *s.ports.Load() {
		st := p.stats()
		st.MACs = s.table.count(p)
		all = append(all, st)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

// The following need s.mu.

func (s *Switch) find(name string) *port {
	for _, p := range *s.ports.Load() {
		if p.name == name {
			return p
		}
	}
	return nil
}

func (s *Switch) lockedBy(pol policy) string {
	for _, p := range *s.ports.Load() {
		if other := p.policy.Load(); pol.locked && other.locked && other.mac == pol.mac {
			return p.name
		}
	}
	return ""
}

func (s *Switch) setPolicy(p *port, pol policy) {
	p.policy.Store(&pol)
	s.table.lock(p, pol)
}

func (s *Switch) drop(p *port) {
	var rest []*port
	for _, q := range *s.ports.Load() {
		if q != p {
			rest = append(rest, q)
		}
	}
	s.ports.Store(&rest)
	p.close()
	s.table.forget(p)
}
