// SPDX-License-Identifier: Apache-2.0

// Package nat lets the lab's machines reach the uplink: it turns on IPv4
// forwarding and masquerades what leaves the lab, in an nftables table of its
// own that it alone writes. It runs no program and touches no other table.
package nat

import (
	"net/netip"
	"strings"
)

// Resolvers reads name servers out of resolv.conf text, leaving out those on
// loopback, which are another machine's to nobody but itself.
func Resolvers(text string) []netip.Addr {
	var out []netip.Addr
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		// The lab speaks IPv4 only.
		if a, err := netip.ParseAddr(fields[1]); err == nil && a.Is4() && !a.IsLoopback() && !a.IsUnspecified() {
			out = append(out, a)
		}
	}
	return out
}
