// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"sort"
)

// Drops counts dropped frames by cause.
type Drops struct {
	// Received from the port's machine.
	Runt       uint64 // shorter than an Ethernet header
	Oversize   uint64 // larger than the MTU allows; also counts frames too large to send
	BadSource  uint64 // zero or group source address
	Spoofed    uint64 // source address forbidden by a policy
	DHCPServer uint64 // DHCP server message, dropped by DHCP snooping
	Router     uint64 // router advertisement or redirect, dropped by RA guard

	// Refused by the source guard; see [SourceGuard].
	DHCPClient uint64 // DHCP request for another MAC address or of a relay agent
	ARP        uint64 // ARP packet with the addresses of another machine
	Neighbor   uint64 // IPv6 neighbor discovery with the addresses of another machine
	IPSource   uint64 // IPv4 or IPv6 packet from the address of another machine
	Malformed  uint64 // packet whose addresses cannot be read

	// Beyond the rates of a port.
	FloodRate   uint64 // frame to many ports
	ResolveRate uint64 // ARP packet or IPv6 neighbor discovery
	RequestRate uint64 // message to a DHCP server or router

	// To be sent to the port's machine.
	QueueFull  uint64
	PeerAbsent uint64 // no machine at the port
	Impaired   uint64 // lost to [Impairment]
}

// PortStats are the counters of a port. Rx is received from its machine, Tx sent
// to it.
type PortStats struct {
	Name                                 string
	RxFrames, RxBytes, TxFrames, TxBytes uint64
	Drops                                Drops
	LearnedMACs                          int    // addresses in the table
	Unlearned                            uint64 // frames whose source was not learned because the table was full
	Flooded                              uint64 // frames sent to all other ports
	Queued                               int    // frames in the queue
}

// Stats returns every port's counters, ordered by name. Adding a port again after
// its removal resets its counters.
func (s *Switch) Stats() []PortStats {
	var all []PortStats
	for _, p := range s.ports.list() {
		st := p.stats()
		st.LearnedMACs = s.table.count(p)
		all = append(all, st)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

// Refused is how many frames a policy dropped.
func (d *Drops) Refused() uint64 {
	return d.Spoofed + d.DHCPServer + d.Router + d.DHCPClient + d.Addresses() + d.Excess()
}

// Addresses is how many frames the source guard dropped because of the sender's address.
func (d *Drops) Addresses() uint64 { return d.ARP + d.Neighbor + d.IPSource + d.Malformed }

// Excess is how many frames were beyond the rates of the port.
func (d *Drops) Excess() uint64 { return d.FloodRate + d.ResolveRate + d.RequestRate }

// PortDrops is one port with its dropped frames.
type PortDrops struct {
	Name string
	Drops
}

// Refused returns the ports with frames that a policy dropped, ordered by name. It costs
// little for the others.
func (s *Switch) Refused() []PortDrops {
	var all []PortDrops
	for _, p := range s.ports.list() {
		if d := p.drops.load(); d.Refused() != 0 {
			all = append(all, PortDrops{p.name, d})
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}
