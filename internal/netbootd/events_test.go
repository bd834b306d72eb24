// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// all returns what is kept of the events.
func all(k *stateStore) (out []netbootapi.Event) {
	var after netbootapi.Position
	for {
		events, _, _ := k.events.After(after)
		if len(events) == 0 {
			return out
		}
		out = append(out, events...)
		after = netbootapi.Position{Store: k.registry.Store(), Sequence: events[len(events)-1].Sequence}
	}
}

// A client that causes many events displaces only its own.
func TestFloodsOfEventsAreLimited(t *testing.T) {
	now := time.Unix(1000, 0)
	k := newStateStore("test", func() time.Time { return now })
	k.setConfig(labConfig())
	m := machineConfig()
	k.record(&m, netbootapi.Event{Kind: netbootapi.EventHTTP, Name: "plan"})
	const flood = 100 * maxEvents
	for range flood {
		k.record(nil, netbootapi.Event{Kind: netbootapi.EventDHCP, Name: "Offer"})
	}
	now = now.Add(time.Second)
	k.record(nil, netbootapi.Event{Kind: netbootapi.EventDHCP, Name: "Ack"})
	k.record(&m, netbootapi.Event{Kind: netbootapi.EventHTTP, Name: "image"})
	got := all(k)
	if len(got) != maxEventRate+3 {
		t.Fatalf("got %d events, want %d", len(got), maxEventRate+3)
	}
	if first := got[0]; first.Name != "plan" || first.Machine != m.UID {
		t.Errorf("got %+v first, want the machine's", first)
	}
	ack := got[len(got)-2]
	if want := "(409536 events of this client before it were not recorded)"; ack.Name != "Ack" || !strings.Contains(ack.Detail, want) {
		t.Errorf("got %+v, want an Ack with %q", ack, want)
	}
	if last := got[len(got)-1]; last.Detail != "" {
		t.Errorf("got %+v, want the machine's without losses", last)
	}
}

// Whatever a guest sends, its event fits in a line of the stream.
func TestLargestEventIsDelivered(t *testing.T) {
	k := newStateStore("test", time.Now)
	for name, text := range map[string]string{
		"control characters": strings.Repeat("\x01", 64<<10), "invalid UTF-8": strings.Repeat("\xff", 64<<10), "HTML": strings.Repeat("<&>", 64<<10),
	} {
		k.record(nil, netbootapi.Event{Kind: netbootapi.EventInstaller, Machine: text, MAC: text, Address: text, Name: text, Detail: text})
		events := all(k)
		last := events[len(events)-1]
		last.Sequence = 1 << 63
		line, err := json.Marshal(netbootapi.EventRecord{Event: &last, Lost: 1 << 63, Store: k.registry.Store()})
		if err != nil || len(line) >= netbootapi.MaxEventBytes {
			t.Errorf("%s: got %d bytes, error %v; want less than %d", name, len(line), err, netbootapi.MaxEventBytes)
		}
	}
}
