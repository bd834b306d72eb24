// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

const (
	// maxEvents is how many events are kept.
	maxEvents = 4096
	// maxEventRate is how many events of one machine, or of all undeclared clients
	// together, are recorded in a second: a flood must not displace those of others.
	maxEventRate = 64
)

// eventLimit counts the events of one second.
type eventLimit struct {
	second  int64
	count   int
	dropped int
}

// redact returns a text that a machine determines as one that can be shown on a terminal,
// without the secrets of the machine's URLs: the installer names the URL that failed, for
// example.
func redact(m *netbootapi.Machine, text string) string {
	for _, secret := range []string{m.Token, m.SeedToken} {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "TOKEN")
		}
	}
	return printable(text)
}

// printable replaces the characters that a terminal acts on, C1 controls and those that
// change the direction of text included.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsPrint(r):
			return r
		case unicode.IsSpace(r):
			return ' '
		}
		return '?'
	}, text)
}

// record adds an event; m is nil for an undeclared client.
func (k *stateStore) record(m *netbootapi.Machine, e netbootapi.Event) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e.At = k.now().UTC()
	if m != nil {
		e.MAC = m.MAC
		e.Address = m.Address.String()
		e.Name = redact(m, e.Name)
		e.Detail = redact(m, e.Detail)
		if now, _ := k.registry.Machine(m.UID); now != nil {
			e.Machine = m.UID
		}
	}
	dropped, ok := k.limit(e.Machine, e.At)
	if !ok {
		return
	}
	if dropped > 0 {
		e.Detail = fmt.Sprintf("(%d events of this client before it were not recorded) %s", dropped, e.Detail)
	}
	k.events.Add(e)
}

// limit counts an event of a client and reports whether it is recorded, and how many
// before it were not; callers hold mu.
func (k *stateStore) limit(client string, at time.Time) (dropped int, ok bool) {
	l := k.limits[client]
	if l == nil {
		l = &eventLimit{}
		k.limits[client] = l
	}
	if second := at.Unix(); second != l.second {
		l.second, l.count = second, 0
	}
	if l.count >= maxEventRate {
		l.dropped++
		return 0, false
	}
	l.count++
	dropped = l.dropped
	l.dropped = 0
	return dropped, true
}
