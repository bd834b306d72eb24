// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"math"
	"slices"
)

// admit admits what fits, in order.
func (c *Capacity) admit() (admitted []string) {
	for {
		d, ok := c.next()
		if !ok {
			return admitted
		}
		c.run(d)
		c.dequeue(d.UID)
		c.clock++
		c.tenants[d.Namespace].turn = c.clock
		admitted = append(admitted, d.UID)
	}
}

// next returns the demand that is admitted next, if one fits.
func (c *Capacity) next() (Demand, bool) {
	if len(c.waiting) == 0 {
		return Demand{}, false
	}
	host, rooms := c.room(), map[*tenant]Use{}
	for _, of := range [][]class{{classServer}, {classPowerOn, classInstall, classReinstall}} {
		for _, t := range c.inTurn(of...) {
			own, seen := rooms[t]
			if !seen {
				own = c.tenantRoom(t)
			}
			for _, d := range c.heads(t, of...) {
				need := c.need(d)
				switch {
				case !own.fits(need):
					own = own.minus(own.kept(need)) // others in its namespace only
				case host.fits(need):
					return d, true
				default:
					kept := host.kept(need)
					host, own = host.minus(kept), own.minus(kept)
				}
			}
			rooms[t] = own
		}
	}
	return Demand{}, false
}

// heads returns the first demand of each of some classes that fits beside the servers, in
// their order.
func (c *Capacity) heads(t *tenant, of ...class) []Demand {
	var heads []Demand
	for _, class := range of {
		list := t.lists[class]
		if i := slices.IndexFunc(list, func(d Demand) bool { return c.fitsBesideServers(t, d) }); i >= 0 {
			heads = append(heads, list[i])
		}
	}
	slices.SortFunc(heads, Demand.compare)
	return heads
}

// fitsBesideServers reports whether there is enough memory for a demand once all targets
// that run have ended.
func (c *Capacity) fitsBesideServers(t *tenant, d Demand) bool {
	own := c.running[d.UID].use().ServerMemory // it does not wait for itself
	return c.need(d).Memory == 0 ||
		d.Memory <= left(c.limits.Memory, c.total.ServerMemory-own) && d.Memory <= left(c.limits.NamespaceMemory, t.used.ServerMemory-own)
}

// inTurn returns the namespaces in which a machine of some classes waits, the next first.
func (c *Capacity) inTurn(of ...class) []*tenant {
	var waiting []*tenant
	for _, t := range c.tenants {
		if t.first(of...) != nil {
			waiting = append(waiting, t)
		}
	}
	slices.SortFunc(waiting, func(a, b *tenant) int { return cmp.Compare(a.turn, b.turn) })
	return waiting
}

// fits reports whether what is left covers a need. A limit of which nothing is needed may
// be exceeded.
func (u Use) fits(need Use) bool {
	return need.Memory <= max(0, u.Memory) && need.Installations <= max(0, u.Installations) && need.Targets <= max(0, u.Targets)
}

// kept returns what is kept for a machine whose need does not fit into what is left: all
// of it, but a machine that waits for memory cannot use an installation yet.
func (u Use) kept(need Use) Use {
	if need.Memory > max(0, u.Memory) || need.Targets > max(0, u.Targets) {
		need.Installations = 0
	}
	return need
}

// left returns what a limit leaves; it is negative if the limit is exceeded.
func left[T int | int64](limit, used T) int64 {
	if limit == 0 {
		return math.MaxInt64 / 4 // sums of it do not overflow
	}
	return int64(limit) - int64(used)
}

// room returns what is left on the host.
func (c *Capacity) room() Use {
	return Use{
		Memory:        left(c.limits.Memory, c.total.Memory),
		Installations: int(left(c.limits.Installations, c.total.Installations)),
		Targets:       int(left(0, c.total.Targets)),
	}
}

// tenantRoom returns what is left in a namespace.
func (c *Capacity) tenantRoom(t *tenant) Use {
	return Use{
		Memory:        left(c.limits.NamespaceMemory, t.used.Memory),
		Installations: int(left(c.limits.NamespaceInstallations, t.used.Installations)),
		Targets:       int(left(c.limits.NamespaceTargets, t.used.Targets)),
	}
}
