// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// publications runs a second of requests after another and counts the changes that
// watchers see.
func publications(seconds int, requests func(second int, k *stateStore, now time.Time)) (int, *stateStore) {
	now := time.Unix(0, 0).UTC()
	k := newStateStore("test", func() time.Time { return now })
	count := 0
	for second := range seconds {
		_, changed := k.observe()
		requests(second, k, now)
		k.publishDeferred()
		select {
		case <-changed:
			count++
		default:
		}
		now = now.Add(time.Second)
	}
	return count, k
}

func TestUnknownClientsAreQuiet(t *testing.T) {
	const minute = int(time.Minute / time.Second)
	for name, c := range map[string]struct {
		// mac of the i-th request of a second.
		mac      func(second, i int) string
		requests int
		most     int // publications in two minutes
		known    int
	}{
		// One for the discovery and one for each later minute of LastSeen.
		"known clients":  {func(_, i int) string { return fmt.Sprintf("02:00:00:00:00:%02x", i) }, 20, 2, 20},
		"forged clients": {func(s, i int) string { return fmt.Sprintf("02:00:00:00:%02x:%02x", s, i) }, 200, 2 * minute / 5, maxUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			got, k := publications(2*minute, func(second int, k *stateStore, now time.Time) {
				for i := range c.requests {
					k.sawUnknown(netbootapi.UnknownClient{MAC: c.mac(second, i), LastSeen: now})
				}
			})
			if got < 1 || got > c.most {
				t.Errorf("publications in two minutes: got %d, want 1 to %d", got, c.most)
			}
			if state, _ := k.observe(); len(state.Unknown) != c.known {
				t.Errorf("clients: got %d, want %d", len(state.Unknown), c.known)
			}
		})
	}
}

func TestLeasesArePublishedAtMostEveryDeferEvery(t *testing.T) {
	got, _ := publications(60, func(second int, k *stateStore, now time.Time) {
		k.setLeases([]netbootapi.Lease{{MAC: "02:00:00:00:00:01", Expires: now}})
	})
	if want := int(time.Minute / deferEvery); got != want {
		t.Errorf("publications in a minute of renewals: got %d, want %d", got, want)
	}
}

func TestUnknownClientsKeepTheirOrder(t *testing.T) {
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0).UTC() }
	var list []netbootapi.UnknownClient
	list = addUnknown(list, netbootapi.UnknownClient{MAC: "a", LastSeen: at(1), Architecture: "x86_64"})
	list = addUnknown(list, netbootapi.UnknownClient{MAC: "b", LastSeen: at(61)})
	list = addUnknown(list, netbootapi.UnknownClient{MAC: "a", LastSeen: at(130), Address: netip.MustParseAddr("10.0.0.9")})
	list = addUnknown(list, netbootapi.UnknownClient{MAC: "a", LastSeen: at(131)})
	want := []netbootapi.UnknownClient{
		{MAC: "b", FirstSeen: at(61), LastSeen: at(60)},
		{MAC: "a", FirstSeen: at(1), LastSeen: at(120), Architecture: "x86_64", Address: netip.MustParseAddr("10.0.0.9")},
	}
	if diff := cmp.Diff(want, shownUnknown(list), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("published clients (-want +got):\n%s", diff)
	}
}

// A bounded list drops the client that has been silent longest.
func TestUnknownClientsAreBounded(t *testing.T) {
	var list []netbootapi.UnknownClient
	for i := range int64(maxUnknown + 1) {
		list = addUnknown(list, netbootapi.UnknownClient{MAC: fmt.Sprint(i), LastSeen: time.Unix(i, 0)})
		list = addUnknown(list, netbootapi.UnknownClient{MAC: "first", LastSeen: time.Unix(i, 0)})
	}
	kept := map[string]bool{}
	for _, u := range list {
		kept[u.MAC] = true
	}
	if len(list) != maxUnknown || kept["0"] || kept["1"] || !kept["first"] {
		t.Errorf("got %d clients, %v; want %d without the two silent longest", len(list), kept, maxUnknown)
	}
}
