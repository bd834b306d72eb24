// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/dhcp"
)

// leaseSource is the DHCP server of the services that run.
type leaseSource interface {
	Leases() []dhcp.Lease
	Restore([]dhcp.Lease)
	Forget(net.HardwareAddr)
}

// leaseBook holds the leases: those of the DHCP server that runs, or else the last ones. A
// change of a lease costs the same for any number of machines: it is only noted, and the
// leases are collected once for each publication and each save. It is safe for concurrent
// use. Its methods block only on locks, and noteChange on none.
type leaseBook struct {
	unpublished, unsaved atomic.Bool

	mu      sync.Mutex
	running leaseSource           // nil while no DHCP server runs
	last    map[string]dhcp.Lease // by MAC address, while running is nil
}

// load sets the leases of an earlier run.
func (b *leaseBook) load(leases []dhcp.Lease) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keep(leases)
	b.unpublished.Store(true)
}

// keep sets the last leases; callers hold mu.
func (b *leaseBook) keep(leases []dhcp.Lease) {
	b.last = make(map[string]dhcp.Lease, len(leases))
	for _, l := range leases {
		b.last[l.MAC.String()] = l
	}
}

// attach gives the last leases to a DHCP server, which holds them from now on.
func (b *leaseBook) attach(source leaseSource) {
	b.mu.Lock()
	defer b.mu.Unlock()
	source.Restore(b.collect())
	b.running = source
	b.last = nil
	b.noteChange()
}

// detach takes the leases over from the DHCP server, which has stopped.
func (b *leaseBook) detach() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keep(b.collect())
	b.running = nil
	b.noteChange()
}

// noteChange makes the leases be published and saved.
func (b *leaseBook) noteChange() {
	b.unpublished.Store(true)
	b.unsaved.Store(true)
}

// forget ends the lease of a machine.
func (b *leaseBook) forget(mac net.HardwareAddr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running != nil {
		b.running.Forget(mac)
	} else {
		delete(b.last, mac.String())
	}
	b.noteChange()
}

// collect returns all leases in the order of their addresses; callers hold mu.
func (b *leaseBook) collect() []dhcp.Lease {
	if b.running != nil {
		return b.running.Leases()
	}
	leases := make([]dhcp.Lease, 0, len(b.last))
	for _, l := range b.last {
		leases = append(leases, l)
	}
	slices.SortFunc(leases, func(x, y dhcp.Lease) int { return x.Address.Compare(y.Address) })
	return leases
}

// takeUnpublished returns the leases if they changed since the last call.
func (b *leaseBook) takeUnpublished() ([]dhcp.Lease, bool) { return b.take(&b.unpublished) }

// takeUnsaved returns the leases if they changed since the last call.
func (b *leaseBook) takeUnsaved() ([]dhcp.Lease, bool) { return b.take(&b.unsaved) }

func (b *leaseBook) take(changed *atomic.Bool) ([]dhcp.Lease, bool) {
	if !changed.Swap(false) {
		return nil, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.collect(), true
}

// publishLeases publishes the leases that are bound, if they changed.
func (s *Server) publishLeases() {
	leases, changed := s.leases.takeUnpublished()
	if !changed {
		return
	}
	now := s.options.Clock()
	var reserved, others []netbootapi.Lease
	for _, lease := range leases {
		if lease.State != dhcp.Bound || lease.Expires.Before(now) {
			continue
		}
		mac := lease.MAC.String()
		shown := netbootapi.Lease{
			MAC: mac, Address: lease.Address, Hostname: lease.Hostname, Expires: lease.Expires.UTC(),
			Reserved: s.state.machineByMAC(mac) != nil,
		}
		if shown.Reserved {
			reserved = append(reserved, shown)
		} else {
			others = append(others, shown)
		}
	}
	shown := append(reserved, others...)
	s.state.setLeases(shown[:min(len(shown), maxLeases)])
}
