// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"cmp"
	"slices"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

const (
	// maxUnknown bounds the recorded undeclared clients.
	maxUnknown = 64
	// lastSeenStep is the resolution of the published LastSeen, so that a client
	// that asks again changes nothing most of the time.
	lastSeenStep = time.Minute
)

// sawUnknown records a request of an undeclared client. publishDeferred publishes
// it.
func (k *stateStore) sawUnknown(c netbootapi.UnknownClient) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.unknown = addUnknown(k.unknown, c)
}

// showUnknown updates the published list; callers hold mu.
func (k *stateStore) showUnknown() {
	if shown := shownUnknown(k.unknown); !slices.Equal(shown, k.registry.State().Unknown) {
		k.edit(func(state *netbootapi.State) { state.Unknown = shown })
		k.deferred, k.unsavedUnknown = true, true
	}
}

// dropUnknown removes the clients that are served now; callers hold mu.
func (k *stateStore) dropUnknown() {
	before := len(k.unknown)
	k.unknown = slices.DeleteFunc(k.unknown, func(u netbootapi.UnknownClient) bool { return k.registry.ByMAC(u.MAC) != nil })
	if len(k.unknown) != before || len(k.unknown) != len(k.registry.State().Unknown) {
		k.showUnknown()
	}
}

// addUnknown returns list, which it may modify, with a request of client c: the
// maxUnknown clients seen last, each with what is known of it.
func addUnknown(list []netbootapi.UnknownClient, c netbootapi.UnknownClient) []netbootapi.UnknownClient {
	c.FirstSeen = c.LastSeen
	if at := slices.IndexFunc(list, func(u netbootapi.UnknownClient) bool { return u.MAC == c.MAC }); at >= 0 {
		known := list[at]
		c.FirstSeen = known.FirstSeen
		if !c.Address.IsValid() {
			c.Address = known.Address
		}
		if c.Architecture == "" {
			c.Architecture = known.Architecture
		}
		list = slices.Delete(list, at, at+1)
	}
	list = append(list, c)
	slices.SortFunc(list, func(a, b netbootapi.UnknownClient) int {
		return cmp.Or(b.LastSeen.Compare(a.LastSeen), cmp.Compare(a.MAC, b.MAC))
	})
	return list[:min(len(list), maxUnknown)]
}

// shownUnknown returns the clients as they are published: in an order that does
// not change when a client asks again.
func shownUnknown(list []netbootapi.UnknownClient) []netbootapi.UnknownClient {
	shown := slices.Clone(list)
	for i := range shown {
		shown[i].LastSeen = shown[i].LastSeen.Truncate(lastSeenStep)
	}
	slices.SortFunc(shown, func(a, b netbootapi.UnknownClient) int {
		return cmp.Or(b.FirstSeen.Compare(a.FirstSeen), cmp.Compare(a.MAC, b.MAC))
	})
	return shown
}
