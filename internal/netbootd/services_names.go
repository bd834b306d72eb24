// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"net"
	"net/netip"

	"github.com/pxelab/pxelab/internal/netbootd/internal/nameserver"
	"github.com/pxelab/pxelab/internal/netbootd/internal/registry"
	"github.com/pxelab/pxelab/internal/netbootd/internal/timeserver"
)

// dnsPort is that of the name servers that are asked.
const dnsPort = 53

func (l *lab) openNames() (err error) {
	l.findResolvers()
	l.dns, err = nameserver.New(nameserver.Options{
		Address: netip.AddrPortFrom(l.network.Load().Address.Addr(), l.server.options.DNSPort),
		Zone: func() nameserver.Zone {
			n := l.network.Load()
			return nameserver.Zone{Domain: n.Domain, Server: n.ServerName, Address: n.Address}
		},
		Records:   records{l.server.state},
		Resolvers: func() []netip.AddrPort { return *l.resolvers.Load() },
		Limit:     func(listener net.Listener) net.Listener { return l.limit(listener, "DNSTooManyConnections") },
		Answered: func(kind nameserver.Kind, rcode string) {
			l.server.state.counters.sawRequest(requestKey{serviceDNS, string(kind), rcode})
		},
	})
	return err
}

// findResolvers finds the name servers to ask. Names of other networks are of no use to a
// machine without a way there, unless the lab's network has a name server of its own.
func (l *lab) findResolvers() {
	network := l.network.Load()
	found := network.DNS
	if len(found) == 0 && network.NAT {
		found = l.server.options.NAT.Resolvers()
	}
	ports := []netip.AddrPort{}
	for _, a := range found {
		if a != network.Address.Addr() {
			ports = append(ports, netip.AddrPortFrom(a, dnsPort))
		}
	}
	l.resolvers.Store(&ports)
}

func (l *lab) openTime() (err error) {
	l.ntp, err = timeserver.New(timeserver.Options{
		Address: netip.AddrPortFrom(l.network.Load().Address.Addr(), l.server.options.NTPPort),
		Network: func() netip.Prefix { return l.network.Load().Address.Masked() },
		Clock:   l.server.options.Clock,
		Answered: func(ok bool) {
			key := requestKey{serviceNTP, kindOther, resultRefused}
			if ok {
				key = requestKey{serviceNTP, "time", resultOK}
			}
			l.server.state.counters.sawRequest(key)
		},
	})
	return err
}

// limit limits the connections of a listener.
func (l *lab) limit(listener net.Listener, refusal string) net.Listener {
	k := l.server.state
	declared := func(a netip.Addr) bool { return k.machineByAddr(a) != nil }
	return limitListener(listener, l.network.Load().Address.Addr(), declared, func() { k.refuse(refusal) })
}

// records implements [nameserver.Records] with the machines that are served.
type records struct{ state *stateStore }

func (r records) Address(label string) (netip.Addr, bool) {
	m := r.state.machineByLabel(label)
	if m == nil {
		return netip.Addr{}, false
	}
	return m.Address, true
}

// Label returns none for a machine whose label belongs to another one.
func (r records) Label(a netip.Addr) (string, bool) {
	m := r.state.machineByAddr(a)
	if m == nil {
		return "", false
	}
	label := registry.Label(m)
	first, ok := r.Address(label)
	return label, ok && first == a
}
