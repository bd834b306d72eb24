// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"net/netip"
	"testing"
)

func TestConnectionsAreLimitedPerAddress(t *testing.T) {
	own := netip.MustParseAddr("10.0.0.1")
	machine := netip.MustParseAddr("10.0.0.2")
	undeclared := netip.MustParseAddr("10.0.1.1")
	machines := map[netip.Addr]bool{machine: true}
	l := limitListener(nil, own, func(a netip.Addr) bool { return machines[a] }, nil)
	var ends []func()
	taken := func(peer netip.Addr, tries int) (n int) {
		for range tries {
			if leave := l.enter(peer); leave != nil {
				ends = append(ends, leave)
				n++
			}
		}
		return n
	}
	expect := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %d connections, want %d", what, got, want)
		}
	}

	expect("one stranger", taken(undeclared, 100), maxConnsPerPeer)
	all := maxConnsPerPeer
	for other, i := undeclared.Next(), 0; i < 100; other, i = other.Next(), i+1 {
		all += taken(other, 100)
	}
	expect("all strangers", all, maxStrangerConns)
	expect("a machine", taken(machine, 100), maxConnsPerPeer)
	expect("the server itself", taken(own, 1000), 1000)

	// Changes of the declared machines must not change the counts.
	later := netip.MustParseAddr("10.0.0.3")
	expect("a machine before it is declared", taken(later, 1), 0)
	machines[later] = true
	expect("a machine after it is declared", taken(later, 100), maxConnsPerPeer)
	delete(machines, later)
	machines[undeclared] = true
	for _, end := range ends {
		end()
		end() // a connection may be closed twice
	}
	if l.strangers != 0 {
		t.Errorf("after all connections ended: got %d strangers, want none", l.strangers)
	}
	if len(l.peers) != 0 {
		t.Errorf("after all connections ended: got %d addresses, want none", len(l.peers))
	}
}
