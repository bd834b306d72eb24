// SPDX-License-Identifier: Apache-2.0

// Package nat gives the lab's machines access to the uplink: it enables IPv4
// forwarding and masquerades traffic that leaves the lab. It uses netlink and
// writes only its dedicated nftables table.
package nat

import (
	"net/netip"
	"strings"
)

// Resolvers returns the IPv4 name servers in the text of a resolv.conf(5) file,
// without loopback addresses, which only the host itself can use.
func Resolvers(text string) []netip.Addr {
	var out []netip.Addr
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		// The lab is an IPv4 network.
		if a, err := netip.ParseAddr(fields[1]); err == nil && a.Is4() && !a.IsLoopback() && !a.IsUnspecified() {
			out = append(out, a)
		}
	}
	return out
}
