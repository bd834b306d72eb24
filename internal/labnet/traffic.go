// SPDX-License-Identifier: Apache-2.0

package labnet

import "github.com/pxelab/pxelab/internal/l2switch"

// Impairment makes a user-space network worse on purpose.
type Impairment = l2switch.Impairment

// Offender is a machine whose frames the user-space switch refused, and how
// many since the machine was attached.
type Offender struct {
	// Machine identifies it: a UUID.
	Machine string
	// ForeignMAC counts frames from another address than the machine's own,
	// DHCPServer DHCP replies, Router router advertisements and redirects.
	ForeignMAC, DHCPServer, Router uint64
}

// Impair replaces what a network suffers, from the next frame on. Networks that
// the user-space switch does not carry are left alone.
func (n *Networks) Impair(network string, i Impairment) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.impaired[network] = i
	if s := n.switches[network]; s != nil {
		s.SetImpairment(i)
	}
}

// Offenders lists the machines of a network whose frames were refused, ordered
// by machine. Counting begins anew with this process.
func (n *Networks) Offenders(network string) []Offender {
	n.mu.Lock()
	s := n.switches[network]
	n.mu.Unlock()
	if s == nil {
		return nil
	}
	var out []Offender
	for _, p := range s.Stats() {
		o := Offender{Machine: p.Name, ForeignMAC: p.Drops.Spoofed, DHCPServer: p.Drops.DHCPServer, Router: p.Drops.Router}
		if o.ForeignMAC+o.DHCPServer+o.Router > 0 {
			out = append(out, o)
		}
	}
	return out
}
