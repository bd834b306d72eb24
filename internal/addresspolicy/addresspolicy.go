// SPDX-License-Identifier: Apache-2.0

// Package addresspolicy decides which addresses pxelab connects to on behalf of a user
// who is not trusted with the host's network: the URL of an artifact, or a guest's packet.
// It resolves no names and opens no connections. A name must be resolved first, and the
// address to which the connection is opened must be checked; a check of the name alone
// does not hold, because the next answer may differ.
package addresspolicy

import (
	"fmt"
	"net/netip"
	"slices"
)

// Policy is a set of rules. The zero Policy permits public addresses only.
type Policy struct {
	// AllowPrivate permits private addresses: those of RFC 1918, RFC 6598 and RFC 4193,
	// and ranges that are not routed on the Internet.
	AllowPrivate bool
	// Allow permits addresses of any class except Own, multicast and unspecified.
	Allow []netip.Prefix
	// Own are the addresses of this host or pod. They are refused even if Allow contains
	// them, unless it has a prefix of that single address.
	Own []netip.Addr
}

// Check returns nil if a may be dialled. The error contains the address and its class:
// loopback, link-local, multicast, unspecified, private, own, or metadata, for the
// metadata services of cloud providers. An address that contains an IPv4 address
// (IPv4-mapped, NAT64, 6to4 and others) may be dialled only if the IPv4 address may be as
// well: a gateway may deliver to it.
func (p Policy) Check(a netip.Addr) error {
	if !a.IsValid() {
		return fmt.Errorf("address %s is invalid", a)
	}
	inner := a.Unmap().WithZone("")
	for {
		if of := p.refused(inner); of != "" {
			if inner != a.WithZone("") {
				return fmt.Errorf("address %s contains %s, which is %s", a, inner, described[of])
			}
			return fmt.Errorf("address %s is %s", a, described[of])
		}
		next, ok := embedded(inner)
		if !ok {
			return nil
		}
		inner = next
	}
}

type class string

const (
	loopback    class = "loopback"
	linkLocal   class = "link-local"
	multicast   class = "multicast"
	unspecified class = "unspecified"
	private     class = "private"
	own         class = "own"
	metadata    class = "metadata"
)

// described are the classes in messages.
var described = map[class]string{
	loopback:    "a loopback address",
	linkLocal:   "a link-local address",
	multicast:   "a multicast address",
	unspecified: "an unspecified address",
	private:     "a private address",
	own:         "one of this host's own addresses",
	metadata:    "the address of a metadata service",
}

// refused returns the class for which the policy refuses an address without regard to
// addresses that it contains; empty if it does not.
func (p Policy) refused(a netip.Addr) class {
	of := classOf(a)
	switch {
	case of == multicast || of == unspecified:
		return of
	case slices.ContainsFunc(p.Own, func(o netip.Addr) bool { return o.Unmap().WithZone("") == a }) && of != loopback:
		if p.allows(a, true) {
			return ""
		}
		return own
	case of == "" || p.allows(a, false) || of == private && p.AllowPrivate:
		return ""
	default:
		return of
	}
}

// allows reports whether Allow contains the address, or has it alone.
func (p Policy) allows(a netip.Addr, alone bool) bool {
	return slices.ContainsFunc(p.Allow, func(allowed netip.Prefix) bool {
		allowed = unmapPrefix(allowed)
		return allowed.Contains(a) && (!alone || allowed.IsSingleIP())
	})
}

// unmapPrefix returns the IPv4 prefix of an IPv4-mapped one.
func unmapPrefix(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

// block is a block of addresses of one class.
type block struct {
	prefix netip.Prefix
	class  class
}

// blocks are the special-purpose blocks (IANA registries, RFC 6890) that netip does not
// classify. Earlier ones take precedence.
var blocks = []block{
	{netip.MustParsePrefix("0.0.0.0/8"), unspecified},           // RFC 791: this network
	{netip.MustParsePrefix("255.255.255.255/32"), multicast},    // limited broadcast
	{netip.MustParsePrefix("100.100.100.200/32"), metadata},     // Alibaba Cloud
	{netip.MustParsePrefix("168.63.129.16/32"), metadata},       // Azure
	{netip.MustParsePrefix("192.0.0.192/32"), metadata},         // Oracle Cloud
	{netip.MustParsePrefix("fd00:ec2::254/128"), metadata},      // AWS
	{netip.MustParsePrefix("fd20:ce::254/128"), metadata},       // Google Cloud
	{netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), metadata}, // Oracle Cloud
	{netip.MustParsePrefix("100.64.0.0/10"), private},           // RFC 6598: shared by carriers and clusters
	{netip.MustParsePrefix("192.0.0.0/24"), private},            // RFC 6890
	{netip.MustParsePrefix("198.18.0.0/15"), private},           // RFC 2544
	{netip.MustParsePrefix("240.0.0.0/4"), private},             // RFC 1112: reserved, used inside some networks
	{netip.MustParsePrefix("fec0::/10"), private},               // RFC 3879: site-local
	{netip.MustParsePrefix("64:ff9b:1::/48"), private},          // RFC 8215: translation inside a network
}

// classOf returns the class of an address that is neither IPv4-mapped nor has a zone;
// empty for a public one.
func classOf(a netip.Addr) class {
	switch {
	case a.IsUnspecified():
		return unspecified
	case a.IsLoopback():
		return loopback
	case a.IsMulticast():
		return multicast
	case a.IsLinkLocalUnicast():
		return linkLocal
	}
	for _, b := range blocks {
		if b.prefix.Contains(a) {
			return b.class
		}
	}
	if a.IsPrivate() {
		return private
	}
	return ""
}

// embedding is a form of IPv6 address that contains an IPv4 address at a byte offset.
type embedding struct {
	prefix netip.Prefix
	at     int
	// inverted addresses have all their bits flipped.
	inverted bool
}

var embeddings = []embedding{
	{prefix: netip.MustParsePrefix("64:ff9b::/96"), at: 12},              // NAT64, RFC 6052
	{prefix: netip.MustParsePrefix("64:ff9b:1::/48"), at: 12},            // NAT64 with a /96 prefix, RFC 8215
	{prefix: netip.MustParsePrefix("2002::/16"), at: 2},                  // 6to4, RFC 3056
	{prefix: netip.MustParsePrefix("2001::/32"), at: 12, inverted: true}, // Teredo, RFC 4380
	{prefix: netip.MustParsePrefix("::ffff:0:0:0/96"), at: 12},           // IPv4-translated, RFC 2765
	{prefix: netip.MustParsePrefix("::/96"), at: 12},                     // IPv4-compatible, RFC 4291
}

// embedded returns the IPv4 address that an IPv6 address contains.
func embedded(a netip.Addr) (netip.Addr, bool) {
	if !a.Is6() || a.IsLoopback() {
		return netip.Addr{}, false
	}
	raw := a.As16()
	pick := func(at int, inverted bool) (netip.Addr, bool) {
		v4 := [4]byte(raw[at : at+4])
		if inverted {
			for i := range v4 {
				v4[i] = ^v4[i]
			}
		}
		return netip.AddrFrom4(v4), true
	}
	for _, e := range embeddings {
		if e.prefix.Contains(a) {
			return pick(e.at, e.inverted)
		}
	}
	// ISATAP, RFC 5214: the interface identifier is [02]00:5efe and the IPv4 address.
	if raw[8]&^2 == 0 && raw[9] == 0 && raw[10] == 0x5e && raw[11] == 0xfe {
		return pick(12, false)
	}
	return netip.Addr{}, false
}
