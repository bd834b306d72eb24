// SPDX-License-Identifier: Apache-2.0

package l2switch

import "sync"

// portSet is the ports among which frames are flooded. Adding and removing a port
// costs the same whatever their number, and so does everything that is not a flood.
type portSet struct {
	mu sync.RWMutex
	// all and trusted are unordered; a port knows its place in both.
	all, trusted []*port
}

// absent is the place of a port that is not in a list.
const absent = -1

// add adds a port that is not trusted yet.
func (s *portSet) add(p *port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.place, p.trustedPlace = len(s.all), absent
	s.all = append(s.all, p)
}

// trust adds a port of the set to the trusted ones, or removes it from them.
func (s *portSet) trust(p *port, trusted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case trusted && p.trustedPlace == absent:
		p.trustedPlace = len(s.trusted)
		s.trusted = append(s.trusted, p)
	case !trusted && p.trustedPlace != absent:
		s.distrust(p)
	}
}

// distrust requires s.mu.
func (s *portSet) distrust(p *port) {
	last := len(s.trusted) - 1
	s.trusted[p.trustedPlace] = s.trusted[last]
	s.trusted[p.trustedPlace].trustedPlace = p.trustedPlace
	s.trusted[last] = nil
	s.trusted = s.trusted[:last]
	p.trustedPlace = absent
}

func (s *portSet) remove(p *port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.trustedPlace != absent {
		s.distrust(p)
	}
	last := len(s.all) - 1
	s.all[p.place] = s.all[last]
	s.all[p.place].place = p.place
	s.all[last] = nil
	s.all = s.all[:last]
}

// count returns the number of ports.
func (s *portSet) count() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.all)
}

// list returns a copy of the ports.
func (s *portSet) list() []*port {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return append([]*port(nil), s.all...)
}
