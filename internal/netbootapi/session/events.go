// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"time"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// maxEventPause limits the pause between failed attempts to read events.
const maxEventPause = 30 * time.Second

// readEvents passes netbootd's events on, and resumes where it ended, until ctx ends.
func (l *link) readEvents(ctx context.Context) {
	s := l.server
	retry := retryEvery
	var lost uint64 // since the last event that was passed on
	for {
		after, ok := s.nextEvents(ctx)
		if !ok {
			return
		}
		err := l.client.Events(ctx, after, func(store string, e *netbootapi.Event, missed uint64) {
			lost += missed
			if !s.event(l, store, e) {
				return
			}
			retry = retryEvery
			s.options.Event(s.name, *e, lost)
			lost = 0
		})
		if ctx.Err() != nil {
			return
		}
		s.log.V(1).Info("Reading netbootd's events ended", "error", err.Error())
		pause(ctx, retry)
		retry = min(2*retry, maxEventPause)
	}
}

// nextEvents blocks while there is no connection and returns where to continue. It
// returns false when ctx ends.
func (s *server) nextEvents(ctx context.Context) (netbootapi.Position, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ctx.Err() == nil && !s.connected {
		s.wake.Wait()
	}
	return s.events, ctx.Err() == nil
}

// event records the position of an event, and reports whether there is one to pass on.
func (s *server) event(l *link, store string, e *netbootapi.Event) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link != l {
		return false
	}
	if store != "" && store != s.events.Store {
		s.events = netbootapi.Position{Store: store}
	}
	if e == nil {
		return false
	}
	s.events.Sequence = e.Sequence
	return true
}

// EventLog returns an Options.Event that logs netbootd's events at verbosity 1, or nil if
// such messages are not logged.
func EventLog(log logr.Logger) func(server string, e netbootapi.Event, lost uint64) {
	if log = log.V(1); !log.Enabled() {
		return nil
	}
	return func(server string, e netbootapi.Event, lost uint64) {
		log.Info("Event", "server", server, "target", e.Machine, "mac", e.MAC, "address", e.Address,
			"kind", e.Kind, "name", e.Name, "detail", e.Detail, "at", e.At, "lost", lost)
	}
}
