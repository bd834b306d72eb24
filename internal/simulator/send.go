// SPDX-License-Identifier: Apache-2.0

package simulator

import (
	"context"
	"slices"

	"github.com/pxelab/pxelab/internal/simulator/internal/control"
)

// attach makes the program list its machines, and disregard what earlier connections of
// this Runner still contain.
func (r *Runner) attach(l *link) error {
	request := control.Request{Operation: control.Attach, Runner: r.name}
	r.mu.Lock()
	r.number(&request)
	r.mu.Unlock()
	line, err := control.Encode(request)
	if err != nil {
		return err
	}
	_, err = l.conn.Write(line)
	return err
}

// send sends requests until ctx ends.
func (r *Runner) send(ctx context.Context, l *link) {
	select {
	case <-l.ready:
	case <-ctx.Done():
		return
	}
	for {
		for _, c := range r.take(l) {
			line, err := control.Encode(c.request)
			if err != nil {
				r.answer(c.request.Sequence, err)
				continue
			}
			if _, err := l.conn.Write(line); err != nil {
				_ = l.conn.Close()
				return
			}
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return
		}
	}
}

// take returns the requests to send now: all, or only that to retire, after which the
// program accepts no other.
func (r *Runner) take(l *link) []*call {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l.retiring {
		return nil
	}
	batch := slices.DeleteFunc(r.outbox, r.obsolete)
	r.outbox = nil
	for i, c := range batch {
		r.number(&c.request)
		r.sent[c.request.Sequence] = c
		if c.request.Operation == control.Retire {
			l.retiring = true
			r.outbox = slices.Clone(batch[i+1:])
			return batch[:i+1]
		}
	}
	return batch
}

// obsolete reports whether a request is a start that was carried out although its reply
// was lost, or revoked. The caller holds mu.
func (r *Runner) obsolete(c *call) bool {
	if c.request.Operation != control.Start {
		return false
	}
	e := r.machines[c.request.Machine]
	return e == nil || e.starting != c
}

// answer ends a request that was sent.
func (r *Runner) answer(sequence uint64, err error) {
	r.mu.Lock()
	c := r.sent[sequence]
	delete(r.sent, sequence)
	r.mu.Unlock()
	if c != nil {
		c.ended(err)
	}
}
