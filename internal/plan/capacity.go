// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"slices"
)

// class is what a machine needs besides other machines of its namespace. The demands of
// one class are admitted in their order, because the first of them that does not fit
// keeps what it needs from the others.
type class int

const (
	classServer    class = iota
	classPowerOn         // of a target without an installation
	classInstall         // power-on for an installation
	classReinstall       // of a target that runs
	classes
)

// Capacity decides which machines may run. Machines that run are counted, whatever the
// limits are; others ask and wait in a queue until they fit:
//
//   - Servers are first. Then the namespaces take turns, and in a namespace the machine
//     that has waited longest is first.
//   - What the first of the queue needs is kept for it: no machine behind it takes memory
//     or an installation that it waits for, however long that lasts. Nothing is kept for
//     a machine that does not fit beside the servers that run, because they do not end.
//   - A machine that its namespace's limits hold back does not delay other namespaces,
//     and one that waits for an installation does not delay power-ons for which there is
//     memory besides.
//
// Its methods return the UIDs of the machines that are admitted as a result, which then
// count as running. They do no I/O, depend on nothing but the calls before, and are not
// safe for concurrent use. What a call costs depends on the number of namespaces, not on
// the number of machines, but for those that wait and do not fit beside the servers.
type Capacity struct {
	limits  Limits
	running map[string]Demand
	waiting map[string]queued
	total   Use
	tenants map[string]*tenant
	clock   int64
}

// queued is a demand that waits in one of the lists of its namespace.
type queued struct {
	Demand
	class class
}

// tenant is a namespace with machines.
type tenant struct {
	name string
	used Use
	// turn orders the namespaces: the one that was served longest ago is next. One that
	// was not served yet counts from its first demand.
	turn  int64
	lists [classes][]Demand
}

// NewCapacity returns a Capacity without machines.
func NewCapacity(limits Limits) *Capacity {
	return &Capacity{limits: limits, running: map[string]Demand{}, waiting: map[string]queued{}, tenants: map[string]*tenant{}}
}

// Limits returns the limits.
func (c *Capacity) Limits() Limits { return c.limits }

// Used returns what the machines that run or are admitted use.
func (c *Capacity) Used() Use { return c.total }

// Running returns the demand of a machine that runs or is admitted.
func (c *Capacity) Running(uid string) (Demand, bool) {
	d, ok := c.running[uid]
	return d, ok
}

// Count counts a machine that runs, even if it exceeds the limits. An earlier demand of
// the machine is replaced; if it waits, it keeps its place for what it still needs.
func (c *Capacity) Count(d Demand) (admitted []string) {
	old, counted := c.running[d.UID]
	c.run(d)
	waits, waiting := c.waiting[d.UID]
	if waiting {
		c.enqueue(waits.Demand)
	}
	if counted && !waiting && old.Namespace == d.Namespace && old.use() == d.use() {
		return nil // nothing that others need became free
	}
	return c.admit()
}

// Ask asks for what a machine needs. It is admitted now or later, unless Withdraw or
// Release is called before. A machine that waits keeps its place when it asks again.
// One that needs more than a limit asks for all of it.
func (c *Capacity) Ask(d Demand) (admitted []string) {
	d = d.within(c.limits)
	if _, runs := c.running[d.UID]; runs && c.need(d) == (Use{}) {
		return c.Withdraw(d.UID)
	}
	if old, waits := c.waiting[d.UID]; waits {
		d.Since = old.Since
		if old.Demand == d {
			return nil
		}
	}
	c.enqueue(d)
	return c.admit()
}

// Withdraw ends the wait of a machine. What it has already is kept.
func (c *Capacity) Withdraw(uid string) (admitted []string) {
	if !c.dequeue(uid) {
		return nil
	}
	return c.admit()
}

// Yield gives back what a machine has that does not run while it waits for more, as after
// its memory was raised: machines that keep what they have and wait for each other would
// wait for ever. It keeps its place.
func (c *Capacity) Yield(uid string) (admitted []string) {
	has, counted := c.running[uid]
	q, waits := c.waiting[uid]
	if !counted || !waits {
		return nil
	}
	delete(c.running, uid)
	c.account(has.Namespace, has.use(), Use{})
	c.enqueue(q.Demand) // it may be of another class
	return c.admit()
}

// Release drops a machine that does not run and does not wait any more.
func (c *Capacity) Release(uid string) (admitted []string) {
	waited := c.dequeue(uid)
	d, counted := c.running[uid]
	if counted {
		delete(c.running, uid)
		c.account(d.Namespace, d.use(), Use{})
	}
	if !waited && !counted {
		return nil
	}
	return c.admit()
}

// run counts a machine instead of what was counted of it before.
func (c *Capacity) run(d Demand) {
	before := Use{}
	if old, counted := c.running[d.UID]; counted {
		before = old.use()
		if old.Namespace != d.Namespace {
			c.account(old.Namespace, before, Use{})
			before = Use{}
		}
	}
	c.account(d.Namespace, before, d.use())
	c.running[d.UID] = d
}

// account replaces a part of what a namespace uses.
func (c *Capacity) account(namespace string, before, after Use) {
	t := c.tenant(namespace)
	t.used = t.used.minus(before).plus(after)
	c.total = c.total.minus(before).plus(after)
	c.drop(t)
}

// tenant returns a namespace, which drop removes when it has nothing.
func (c *Capacity) tenant(name string) *tenant {
	t := c.tenants[name]
	if t == nil {
		c.clock++
		t = &tenant{name: name, turn: c.clock}
		c.tenants[name] = t
	}
	return t
}

func (c *Capacity) drop(t *tenant) {
	if t.used == (Use{}) && t.first(classServer, classPowerOn, classInstall, classReinstall) == nil {
		delete(c.tenants, t.name)
	}
}

// need returns what a demand needs besides what its machine has already.
func (c *Capacity) need(d Demand) Use {
	need := d.use()
	if has, ok := c.running[d.UID]; ok {
		need = need.minus(has.use())
	}
	return Use{
		max(0, need.Memory), max(0, need.ServerMemory), max(0, need.Installations), max(0, need.Targets), max(0, need.Machines),
	}
}

func (c *Capacity) classOf(d Demand) class {
	_, runs := c.running[d.UID]
	switch {
	case d.Kind == KindServer:
		return classServer
	case d.Installing && runs:
		return classReinstall
	case d.Installing:
		return classInstall
	default:
		return classPowerOn
	}
}

// enqueue puts a demand at its place; it has one place at most.
func (c *Capacity) enqueue(d Demand) {
	c.remove(d.UID)
	t, q := c.tenant(d.Namespace), queued{d, c.classOf(d)}
	list := t.lists[q.class]
	i, _ := slices.BinarySearchFunc(list, d, Demand.compare)
	t.lists[q.class] = slices.Insert(list, i, d)
	c.waiting[d.UID] = q
}

func (c *Capacity) dequeue(uid string) (waited bool) {
	t := c.remove(uid)
	if t != nil {
		c.drop(t)
	}
	return t != nil
}

// remove removes a machine from the list in which it waits, and returns its namespace;
// nil if it does not wait.
func (c *Capacity) remove(uid string) *tenant {
	q, ok := c.waiting[uid]
	if !ok {
		return nil
	}
	delete(c.waiting, uid)
	t := c.tenants[q.Namespace]
	list := t.lists[q.class]
	if i, found := slices.BinarySearchFunc(list, q.Demand, Demand.compare); found {
		t.lists[q.class] = slices.Delete(list, i, i+1)
	}
	return t
}

// first returns the first demand of some classes, nil if there is none.
func (t *tenant) first(of ...class) *Demand {
	var first *Demand
	for _, class := range of {
		if list := t.lists[class]; len(list) > 0 && (first == nil || list[0].compare(*first) < 0) {
			first = &list[0]
		}
	}
	return first
}
