// SPDX-License-Identifier: Apache-2.0

package labnet

import (
	"net"

	"github.com/pxelab/pxelab/internal/labnet/internal/l2switch"
)

// Unchecked are the checks of the user-space switch that are switched off for a machine.
// The zero value checks everything. The MAC and the addresses of another machine of the
// network are refused in any case.
type Unchecked struct {
	// MACs allows MAC addresses besides the machine's own, such as those of machines
	// nested in it.
	MACs bool
	// Addresses allows IP addresses besides those reserved for the machine.
	Addresses bool
	// DHCPServers allows DHCP server messages and relay agents, and sends the machine
	// the requests of clients.
	DHCPServers bool
	// Routers allows IPv6 router advertisements and redirects, and sends the machine
	// solicitations.
	Routers bool
	// Rates allows any number of frames to all machines and of requests.
	Rates bool
}

// policyOf returns what the user-space switch allows a machine.
func policyOf(a Attachment, mac net.HardwareAddr) l2switch.Policy {
	p := l2switch.Policy{MAC: mac, Addresses: a.Addresses}
	if a.Server {
		return p
	}
	p.ForeignMACs = a.Unchecked.MACs
	p.DenyDHCP = !a.Unchecked.DHCPServers
	p.DenyRouter = !a.Unchecked.Routers
	p.LimitRates = !a.Unchecked.Rates
	p.Sources = l2switch.OwnSource
	if a.Unchecked.Addresses {
		p.Sources = l2switch.NotOthers
	}
	return p
}
