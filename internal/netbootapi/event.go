// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// EventKind is what an Event is about.
type EventKind string

// The kinds of Events.
const (
	EventDHCP      EventKind = "DHCP"
	EventTFTP      EventKind = "TFTP"
	EventHTTP      EventKind = "HTTP"
	EventInstaller EventKind = "Installer"
	EventCloudInit EventKind = "CloudInit"
	EventPhoneHome EventKind = "PhoneHome"
	EventSSH       EventKind = "SSH"
)

// MaxEventBytes limits one encoded Event.
const MaxEventBytes = 4 << 10

// Event is one thing that happened at a netbootd. Unlike the State, Events are not
// merged: netbootd keeps the last of them in memory, and reports to a reader that is too
// slow how many it has missed.
type Event struct {
	// Sequence is the number of the event, counted from 1 in each run of netbootd.
	Sequence uint64    `json:"sequence"`
	At       time.Time `json:"at"`
	// Machine is the UID of the declared machine, MAC and Address are those of the
	// client; each is empty if it is unknown.
	Machine string    `json:"machine,omitempty"`
	MAC     string    `json:"mac,omitempty"`
	Address string    `json:"address,omitempty"`
	Kind    EventKind `json:"kind"`
	// Name is what happened, such as a DHCP message type or the requested file, and
	// Detail the rest in words.
	Name   string `json:"name"`
	Detail string `json:"detail,omitempty"`
}

// EventRecord is one line of a stream of events: an Event, the number of events that
// were lost, or neither as a sign of life.
type EventRecord struct {
	Event *Event `json:"event,omitempty"`
	Lost  uint64 `json:"lost,omitempty"`
	// Store identifies the run of netbootd that counts the events.
	Store string `json:"store,omitempty"`
}

// Events calls seen with each event after a Position, or with all that netbootd still
// has if it does not know the Position, one call at a time. lost is how many events
// between the last call and this one are gone; a call with a nil event only reports
// lost ones or another store. It blocks until ctx ends or the connection fails, and
// never returns nil.
func (c *Client) Events(ctx context.Context, after Position, seen func(store string, event *Event, lost uint64)) error {
	err := c.streaming(ctx, func(ctx context.Context, heard func()) error {
		resp, err := c.send(ctx, request{method: http.MethodGet, path: "/v1/events", query: url.Values{"after": {after.String()}}})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		lines := bufio.NewReaderSize(resp.Body, 16<<10)
		for {
			line, err := readLine(lines, MaxEventBytes)
			if err != nil {
				return err
			}
			heard()
			var r EventRecord
			if err := json.Unmarshal(line, &r); err != nil {
				return fmt.Errorf("decoding an event: %w", err)
			}
			if r.Event != nil || r.Lost > 0 || r.Store != "" {
				seen(r.Store, r.Event, r.Lost)
				heard()
			}
		}
	})
	return fmt.Errorf("reading the events of %s: %w", c.address, err)
}
