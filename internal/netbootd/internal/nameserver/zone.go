// SPDX-License-Identifier: Apache-2.0

// Package nameserver is the name server of a lab network (RFC 1034, RFC 1035). It is
// authoritative for the lab's domain and for the addresses of the lab's network, and asks
// other name servers for the rest, if there are any.
package nameserver

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// ttl of all records, in seconds. Machines come and go, and their names are cheap to ask for.
const ttl = 10

// Zone is what the server is authoritative for.
type Zone struct {
	// Domain of the lab, such as "lab.internal".
	Domain string
	// Server is the label of the server itself in the domain.
	Server string
	// Address is the server's address with the prefix length of the lab's network.
	Address netip.Prefix
}

// Records are the machines of the lab. Its methods are safe for concurrent use.
type Records interface {
	// Address returns the address of the machine with a label in lower case.
	Address(label string) (netip.Addr, bool)
	// Label returns the label of the machine with an address.
	Label(netip.Addr) (string, bool)
}

func (z Zone) apex() string { return dns.CanonicalName(z.Domain) }

func (z Zone) host(label string) string { return label + "." + z.apex() }

// address returns the address of a label. The server's own name cannot be taken by a machine.
func (z Zone) address(records Records, label string) (netip.Addr, bool) {
	if label == z.Server {
		return z.Address.Addr(), true
	}
	return records.Address(label)
}

func (z Zone) label(records Records, a netip.Addr) (string, bool) {
	if a == z.Address.Addr() {
		return z.Server, true
	}
	label, ok := records.Label(a)
	return label, ok && label != z.Server
}

// answer fills reply with the answer to a question of class IN, and reports whether the
// zone is authoritative for it. Otherwise it leaves reply unchanged.
func (z Zone) answer(reply *dns.Msg, q dns.Question, records Records) bool {
	if z.Domain == "" {
		return false
	}
	name := dns.CanonicalName(q.Name)
	switch a, reverse := reverseAddress(name); {
	case dns.IsSubDomain(z.apex(), name):
		z.forward(reply, q, strings.TrimSuffix(strings.TrimSuffix(name, z.apex()), "."), records)
	case reverse && z.Address.Contains(a):
		z.reverse(reply, q, a, records)
	default:
		return false
	}
	reply.Authoritative = true
	return true
}

// forward answers a question about a name of the domain; label is empty for the domain.
func (z Zone) forward(reply *dns.Msg, q dns.Question, label string, records Records) {
	if label == "" {
		switch q.Qtype {
		case dns.TypeSOA:
			reply.Answer = append(reply.Answer, z.soa(z.apex()))
		case dns.TypeNS:
			reply.Answer = append(reply.Answer, z.ns(z.apex()))
		default:
			reply.Ns = append(reply.Ns, z.soa(z.apex()))
		}
		return
	}
	a, known := z.address(records, label)
	switch {
	case !known:
		reply.Rcode = dns.RcodeNameError
	case q.Qtype == dns.TypeA:
		reply.Answer = append(reply.Answer, &dns.A{Hdr: header(q.Name, dns.TypeA), A: a.AsSlice()})
		return
	}
	reply.Ns = append(reply.Ns, z.soa(z.apex()))
}

// reverse answers a question about an address of the network.
func (z Zone) reverse(reply *dns.Msg, q dns.Question, a netip.Addr, records Records) {
	label, known := z.label(records, a)
	switch {
	case !known:
		reply.Rcode = dns.RcodeNameError
	case q.Qtype == dns.TypePTR:
		reply.Answer = append(reply.Answer, &dns.PTR{Hdr: header(q.Name, dns.TypePTR), Ptr: z.host(label)})
		return
	}
	_, parent, _ := strings.Cut(dns.CanonicalName(q.Name), ".")
	reply.Ns = append(reply.Ns, z.soa(parent))
}

func (z Zone) soa(owner string) *dns.SOA {
	return &dns.SOA{
		Hdr: header(owner, dns.TypeSOA), Ns: z.host(z.Server), Mbox: z.host("hostmaster"),
		// Nothing transfers the zone, so its serial number never matters.
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl,
	}
}

func (z Zone) ns(owner string) *dns.NS {
	return &dns.NS{Hdr: header(owner, dns.TypeNS), Ns: z.host(z.Server)}
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

// reverseAddress returns the IPv4 address that a name such as "2.0.88.10.in-addr.arpa."
// stands for (RFC 1035, 3.5).
func reverseAddress(name string) (netip.Addr, bool) {
	octets, ok := strings.CutSuffix(name, ".in-addr.arpa.")
	if !ok {
		return netip.Addr{}, false
	}
	parts := strings.Split(octets, ".")
	if len(parts) != 4 {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
	return a, err == nil && a.Is4()
}
