// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/netip"
	"testing"
)

func TestConnectionsAreLimited(t *testing.T) {
	l := limit(nil)
	one, other := netip.MustParseAddr("10.0.2.2"), netip.MustParseAddr("10.0.2.3")
	var leave []func()
	enter := func(peer netip.Addr, want int) {
		t.Helper()
		got := 0
		for range 2 * maxConns {
			if f := l.enter(peer); f != nil {
				leave = append(leave, f)
				got++
			}
		}
		if got != want {
			t.Errorf("%s: got %d connections, want %d", peer, got, want)
		}
	}
	enter(one, maxConnsPerPeer)
	enter(other, maxConns-maxConnsPerPeer)
	for _, f := range leave {
		f()
		f() // a connection that is closed twice counts once
	}
	if l.total != 0 || len(l.peers) != 0 {
		t.Errorf("after all have left: got %d connections of %d addresses, want none", l.total, len(l.peers))
	}
	leave = nil
	enter(one, maxConnsPerPeer)
}
