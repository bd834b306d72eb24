// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/pxelab/pxelab/internal/bootconfig/policy"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/dhcp"
)

func dhcpConfig(n *netbootapi.Network) dhcp.Config {
	c := dhcp.Config{
		ServerAddr: n.Address.Addr(), Prefix: n.Address.Masked(),
		RangeStart: n.RangeStart, RangeEnd: n.RangeEnd,
		LeaseTime: time.Duration(n.LeaseSeconds) * time.Second,
		DNS:       n.NameServers(), NTP: []netip.Addr{n.Address.Addr()}, Domain: n.Domain, MTU: n.MTU,
	}
	if n.NAT {
		c.Router = n.Address.Addr()
	}
	return c
}

// dhcpPolicy implements [dhcp.Policy] with the declared machines. It holds no lock
// when it returns.
type dhcpPolicy struct{ l *lab }

func (p dhcpPolicy) Lookup(mac net.HardwareAddr) (dhcp.Host, bool) {
	k := p.l.server.state
	m := k.machineByMAC(mac.String())
	if m == nil {
		return dhcp.Host{}, false
	}
	return dhcp.Host{
		Address: m.Address, Hostname: shortName(m.Hostname),
		BootFile: func(c dhcp.Client) string { return p.l.bootFile(m, c) },
	}, true
}

// shortName returns the first label of a host name: option 12 may contain a
// fully qualified name, but Linux would set it unchanged as the host name.
func shortName(hostname string) string {
	name, _, _ := strings.Cut(hostname, ".")
	return name
}

func (p dhcpPolicy) Reserved(addr netip.Addr) bool {
	return p.l.server.state.machineByAddr(addr) != nil
}

func (l *lab) bootFile(m *netbootapi.Machine, c dhcp.Client) string {
	d := l.server.state.decide(policy.Client{Machine: m, Architecture: c.Arch.Machine(), ArchitectureKnown: true})
	switch {
	case d.Action == policy.ActionNone:
		return ""
	case c.Stage == dhcp.IPXE:
		return l.renderer.ScriptURL(l.network.Load(), d)
	case c.Arch.HTTP():
		return l.renderer.ProgramURL(l.network.Load(), d.Program)
	}
	return d.Program.Name
}

func (l *lab) dhcpEvent(e dhcp.Event) {
	k := l.server.state
	m := k.machineByMAC(e.MAC.String())
	k.record(m, dhcpRecord(e))
	k.counters.sawDHCP(e)
	switch {
	case m == nil && e.Kind != dhcp.Ignored:
		k.sawUnknown(netbootapi.UnknownClient{
			MAC: e.MAC.String(), Address: e.Address, Architecture: archName(e), LastSeen: e.At.UTC(),
		})
		if e.Stage == dhcp.Firmware && e.Kind == dhcp.Ack {
			k.refuse("DHCPUnknownClient")
		}
	case m != nil:
		e.At = e.At.UTC()
		d := k.decide(policy.Client{Machine: m, Architecture: e.Arch.Machine(), ArchitectureKnown: e.Stage != dhcp.OS})
		_ = k.update(m, func(s *netbootapi.MachineState) error {
			sawDHCP(s, e, d)
			return nil
		})
	}
	switch e.Kind {
	case dhcp.Ack, dhcp.Release, dhcp.Decline:
		l.server.leases.noteChange()
	}
}

// dhcpRecord returns a DHCP event as it is recorded. The boot file is left out: for iPXE
// it has the machine's secret.
func dhcpRecord(e dhcp.Event) netbootapi.Event {
	detail := string(e.Stage)
	if arch := archName(e); arch != "" {
		detail += " " + arch
	}
	if e.Address.IsValid() {
		detail += " " + e.Address.String()
	}
	if e.Reason != "" {
		detail += ": " + string(e.Reason)
	}
	record := netbootapi.Event{Kind: netbootapi.EventDHCP, Name: string(e.Kind), MAC: e.MAC.String(), Detail: detail}
	if e.Address.IsValid() {
		record.Address = e.Address.String()
	}
	return record
}

func archName(e dhcp.Event) string {
	if e.Stage == dhcp.OS {
		return ""
	}
	return e.Arch.String()
}
