// SPDX-License-Identifier: Apache-2.0

package session

import (
	"fmt"
	"testing"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/netbootdtest"
)

func TestEventsArePassedOn(t *testing.T) {
	type seen struct {
		name string
		lost uint64
	}
	events := make(chan seen, 10_000)
	h, w := newHub(t, func(o *Options) {
		o.Event = func(_ string, e netbootapi.Event, lost uint64) { events <- seen{e.Name, lost} }
	})
	server := netbootdtest.Start(t, netbootdtest.Options{})
	record := func(s *netbootdtest.Server, names ...any) {
		for _, name := range names {
			s.Record(netbootapi.Event{Kind: netbootapi.EventDHCP, Name: fmt.Sprint(name)})
		}
	}
	next := func(want seen) {
		t.Helper()
		if got := <-events; got != want {
			t.Errorf("got event %+v, want %+v", got, want)
		}
	}
	// More than netbootd keeps.
	const total, kept = 1500, 1024
	for n := range total {
		record(server, n)
	}
	connect(t, h, server)
	next(seen{fmt.Sprint(total - kept), total - kept})
	for n := total - kept + 1; n < total; n++ {
		next(seen{name: fmt.Sprint(n)})
	}
	record(server, "a")
	next(seen{name: "a"})

	// A session to the same netbootd continues where the last one ended.
	connect(t, h, server)
	if err := h.Connect("s", server.Address(), netbootapi.Trust{Current: server.Credentials(), Next: newCredentials(t)}); err != nil {
		t.Fatal(err)
	}
	record(server, "b")
	next(seen{name: "b"})

	// Another one counts from the start.
	server.Stop()
	w.until(t, h, "disconnected", func(o Observation) bool { return !o.Connected })
	again := netbootdtest.Start(t, netbootdtest.Options{Address: server.Address(), Credentials: server.Credentials()})
	record(again, "c", "d")
	connect(t, h, again)
	next(seen{name: "c"})
	next(seen{name: "d"})
	if len(events) != 0 {
		t.Errorf("got %d more events, want none", len(events))
	}
}
