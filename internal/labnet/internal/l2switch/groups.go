// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"slices"
	"sync"
)

// group is the part of a solicited-node multicast address (RFC 4291, section 2.7.1)
// that comes from the addresses for which it stands: their last three bytes.
type group [3]byte

// maxGroups bounds the groups that are remembered of one port. A port with more
// receives the solicitations of all groups.
const maxGroups = 32

// groups knows which ports have IPv6 addresses of which solicited-node group, from the
// neighbour discovery of their machines. A machine remains in its groups until its port
// is removed: it then receives a solicitation that it ignores, and misses none.
type groups struct {
	mu      sync.RWMutex
	members map[group][]*port
	// everywhere are the ports that are in more groups than are remembered.
	everywhere []*port
}

func (g *groups) init() { g.members = map[group][]*port{} }

// join records that the machine of a port has an address of a group.
func (g *groups) join(p *port, id group) {
	g.mu.RLock()
	joined := p.everywhere || slices.Contains(p.groups, id)
	g.mu.RUnlock()
	if joined {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case p.everywhere || slices.Contains(p.groups, id):
	case len(p.groups) == maxGroups:
		g.leave(p)
		p.everywhere = true
		g.everywhere = append(g.everywhere, p)
	default:
		p.groups = append(p.groups, id)
		g.members[id] = append(g.members[id], p)
	}
}

// known reports whether a machine other than that of p has an address of a group.
func (g *groups) known(p *port, id group) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return slices.ContainsFunc(g.members[id], func(m *port) bool { return m != p })
}

// size returns the number of ports that receive the solicitations of a group.
func (g *groups) size(id group) int {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return len(g.members[id]) + len(g.everywhere)
}

// forget removes a port from its groups.
func (g *groups) forget(p *port) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leave(p)
	if p.everywhere {
		g.everywhere = slices.DeleteFunc(g.everywhere, func(m *port) bool { return m == p })
		p.everywhere = false
	}
}

// leave requires g.mu.
func (g *groups) leave(p *port) {
	for _, id := range p.groups {
		rest := slices.DeleteFunc(g.members[id], func(m *port) bool { return m == p })
		if len(rest) == 0 {
			delete(g.members, id)
		} else {
			g.members[id] = rest
		}
	}
	p.groups = nil
}
