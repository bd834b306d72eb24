// SPDX-License-Identifier: Apache-2.0

package labnet

import (
	"maps"

	"github.com/pxelab/pxelab/internal/labnet/internal/l2switch"
)

// Impairment is loss and delay injected into a user-space network.
type Impairment = l2switch.Impairment

// Offender counts the frames of a machine that the user-space switch dropped by
// policy since the machine was attached.
type Offender struct {
	// Machine identifies the machine: a UUID.
	Machine    string
	ForeignMAC uint64 // frames from an address other than the machine's
	DHCPServer uint64 // DHCP server messages
	Router     uint64 // router advertisements and redirects
	// ForeignAddress counts packets, ARP and neighbor discovery with addresses other than
	// the machine's, or with addresses that cannot be read.
	ForeignAddress uint64
	DHCPClient     uint64 // DHCP requests for another machine or of a relay agent
	Excess         uint64 // frames beyond the rates of a port
}

// Impair replaces the impairment of a network, starting with the next frame. It has
// no effect on networks other than user-space ones.
func (n *Networks) Impair(network string, i Impairment) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.impaired[network] = i
	if s := n.switches[network]; s != nil {
		s.SetImpairment(i)
	}
}

// Offenders lists the machines of a network whose frames were dropped by policy,
// ordered by machine. The counters start at zero with each manager process.
func (n *Networks) Offenders(network string) []Offender {
	n.mu.Lock()
	s := n.switches[network]
	n.mu.Unlock()
	if s == nil {
		return nil
	}
	var out []Offender
	for _, p := range s.Refused() {
		out = append(out, Offender{
			Machine: p.Name, ForeignMAC: p.Spoofed, DHCPServer: p.DHCPServer, Router: p.Router,
			ForeignAddress: p.Addresses(), DHCPClient: p.DHCPClient, Excess: p.Excess(),
		})
	}
	return out
}

// Traffic counts the frames of one user-space network since this process created it. The
// counters never decrease.
type Traffic struct {
	// Frames and Bytes were received from machines.
	Frames, Bytes uint64
	// Dropped counts the frames that were not forwarded or not delivered, by kind: a
	// small, fixed set. A frame to several machines may be dropped several times.
	Dropped map[string]uint64
}

// Traffic returns the counters of all user-space networks, by network.
func (n *Networks) Traffic() map[string]Traffic {
	n.mu.Lock()
	switches := maps.Clone(n.switches)
	n.mu.Unlock()
	traffic := map[string]Traffic{}
	for network, s := range switches {
		sum := s.Totals()
		traffic[network] = Traffic{Frames: sum.RxFrames, Bytes: sum.RxBytes, Dropped: sum.Drops.ByKind()}
	}
	return traffic
}
