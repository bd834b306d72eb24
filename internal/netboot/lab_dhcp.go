// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/dhcp"
)

func dhcpConfig(n *agent.Network, dns []netip.Addr) dhcp.Config {
	c := dhcp.Config{
		ServerAddr: n.Address.Addr(), Prefix: n.Address.Masked(),
		RangeStart: n.RangeStart, RangeEnd: n.RangeEnd,
		LeaseTime: time.Duration(n.LeaseSeconds) * time.Second,
		DNS:       dns, Domain: n.Domain, MTU: n.MTU,
	}
	if n.NAT {
		c.Router = n.Address.Addr()
	}
	return c
}

// dhcpPolicy answers the DHCP server from the declared machines. It holds no
// lock while the server calls it.
type dhcpPolicy struct{ l *lab }

func (p dhcpPolicy) Lookup(mac net.HardwareAddr) (dhcp.Host, bool) {
	k := p.l.server.keeper
	m := k.machineByMAC(mac.String())
	if m == nil {
		return dhcp.Host{}, false
	}
	return dhcp.Host{
		Address: m.Address, Hostname: shortName(m.Hostname),
		BootFile: func(c dhcp.Client) string { return p.l.bootFile(m, c) },
	}, true
}

// shortName is the first label: option 12 may hold a whole name, but Linux
// sets it as it comes.
func shortName(hostname string) string {
	name, _, _ := strings.Cut(hostname, ".")
	return name
}

func (p dhcpPolicy) Reserved(addr netip.Addr) bool {
	return p.l.server.keeper.machineByAddr(addr) != nil
}

func (l *lab) bootFile(m *agent.Machine, c dhcp.Client) string {
	d := l.server.keeper.decide(Asker{Machine: m, Architecture: c.Arch.Machine(), Says: true})
	switch {
	case d.Action == ActionNone:
		return ""
	case c.Stage == dhcp.IPXE:
		return l.renderer.scriptURL(&l.network, m)
	case c.Arch.HTTP():
		return l.renderer.programURL(&l.network, d.Program)
	}
	return d.Program.Name
}

func (l *lab) dhcpEvent(e dhcp.Event) {
	k := l.server.keeper
	m := k.machineByMAC(e.MAC.String())
	switch {
	case m == nil && e.Kind != dhcp.Ignored:
		k.sawUnknown(agent.UnknownClient{
			MAC: e.MAC.String(), Address: e.Address, Architecture: archName(e), LastSeen: e.At.UTC(),
		})
		if e.Stage == dhcp.Firmware && e.Kind == dhcp.Ack {
			k.refuse("DHCPUnknownClient")
		}
	case m != nil:
		e.At = e.At.UTC()
		d := k.decide(Asker{Machine: m, Architecture: e.Arch.Machine(), Says: e.Stage != dhcp.OS})
		_ = k.update(m, func(s *agent.MachineState) error {
			sawDHCP(s, e, d)
			return nil
		})
	}
	switch e.Kind {
	case dhcp.Ack, dhcp.Release, dhcp.Decline:
		select {
		case l.leaseNews <- struct{}{}:
		default:
		}
	}
}

func archName(e dhcp.Event) string {
	if e.Stage == dhcp.OS {
		return ""
	}
	return e.Arch.String()
}
