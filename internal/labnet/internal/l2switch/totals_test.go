// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTotalsEqualWhatWasSent(t *testing.T) {
	s, configs, guests := lab(t, Options{}, 2, func(c *PortConfig) {
		if c.Name == "a" {
			hw := station(1)
			c.Policy.MAC = hw[:]
		}
	})
	a, b := guests[0], guests[1]
	forged, honest := frame(broadcast, station(9), "forged"), frame(broadcast, station(1), "honest")
	a.send(forged)
	a.send(forged)
	a.send(honest)
	b.want(honest)
	want := Totals{
		RxFrames: 3, RxBytes: uint64(2*len(forged) + len(honest)), TxFrames: 1, TxBytes: uint64(len(honest)), Drops: Drops{Spoofed: 2},
	}
	if diff := cmp.Diff(want, s.Totals()); diff != "" {
		t.Errorf("Totals (-want +got):\n%s", diff)
	}

	// The sums do not decrease when a port is removed or added again.
	s.RemovePort("a")
	if diff := cmp.Diff(want, s.Totals()); diff != "" {
		t.Errorf("Totals after the removal of a port (-want +got):\n%s", diff)
	}
	if err := s.AddPort(configs[0]); err != nil {
		t.Fatal(err)
	}
	a.send(forged)
	a.send(honest)
	b.want(honest)
	want.RxFrames += 2
	want.RxBytes += uint64(len(forged) + len(honest))
	want.TxFrames++
	want.TxBytes += uint64(len(honest))
	want.Drops.Spoofed++
	if diff := cmp.Diff(want, s.Totals()); diff != "" {
		t.Errorf("Totals after the port was added again (-want +got):\n%s", diff)
	}
}

func TestDropsByKindNamesEveryCounter(t *testing.T) {
	kinds := Drops{Spoofed: 3, PeerAbsent: 1}.ByKind()
	want := map[string]uint64{
		"Runt": 0, "Oversize": 0, "BadSource": 0, "Spoofed": 3, "DHCPServer": 0, "Router": 0,
		"DHCPClient": 0, "ARP": 0, "Neighbor": 0, "IPSource": 0, "Malformed": 0, "FloodRate": 0, "ResolveRate": 0, "RequestRate": 0, "QueueFull": 0, "PeerAbsent": 1, "Impaired": 0,
	}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("ByKind (-want +got):\n%s", diff)
	}
}
