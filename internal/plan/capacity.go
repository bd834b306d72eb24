// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// Limits bound what machines use at a time. 0 means no limit.
type Limits struct {
	// Memory is the budget in bytes of all machines, with their overhead.
	Memory int64
	// Installations is the number of targets that are installed.
	Installations int
	// NamespaceTargets, NamespaceMemory and NamespaceInstallations bound the powered-on
	// targets, the memory and the installations of each namespace.
	NamespaceTargets       int
	NamespaceMemory        int64
	NamespaceInstallations int
}

// Check refuses negative limits. The error names the manager's flag.
func (l Limits) Check() error {
	for flag, value := range map[string]int64{
		"memory-budget": l.Memory, "max-installations": int64(l.Installations), "namespace-max-targets": int64(l.NamespaceTargets),
		"namespace-max-memory": l.NamespaceMemory, "namespace-max-installations": int64(l.NamespaceInstallations),
	} {
		if value < 0 {
			return fmt.Errorf("--%s=%d is negative; use a positive limit, or 0 for none", flag, value)
		}
	}
	return nil
}

// Demand is what a machine needs of the host in order to run.
type Demand struct {
	// UID is that of the machine and of its object.
	UID string
	// Kind, Namespace and Name are those of its object.
	Kind, Namespace, Name string
	// Memory is what its process can take in bytes, with its overhead.
	Memory int64
	// Installing means that the machine is installed.
	Installing bool
	// Since is when the object started to wait, and CreatedAt when it was created. They
	// order what waits.
	Since, CreatedAt time.Time
}

// Use is what machines use.
type Use struct {
	Memory        int64
	Installations int
	// Targets is the number of targets, Machines that of all machines.
	Targets, Machines int
}

func (u Use) plus(o Use) Use {
	return Use{u.Memory + o.Memory, u.Installations + o.Installations, u.Targets + o.Targets, u.Machines + o.Machines}
}

func (u Use) minus(o Use) Use {
	return Use{u.Memory - o.Memory, u.Installations - o.Installations, u.Targets - o.Targets, u.Machines - o.Machines}
}

// use returns what the machine of a demand uses.
func (d Demand) use() Use {
	u := Use{Memory: d.Memory, Machines: 1}
	if d.Installing {
		u.Installations = 1
	}
	if d.Kind == KindTarget {
		u.Targets = 1
	}
	return u
}

// compare orders demands of one namespace: by the time they wait, then by age.
func (d Demand) compare(o Demand) int {
	return cmp.Or(d.Since.Compare(o.Since), d.CreatedAt.Compare(o.CreatedAt), cmp.Compare(d.UID, o.UID))
}

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
//     or an installation that it waits for, however long that lasts.
//   - A machine that its namespace's limits hold back does not delay other namespaces,
//     and one that waits for an installation does not delay power-ons for which there is
//     memory besides.
//
// Its methods return the UIDs of the machines that are admitted as a result, which then
// count as running. They do no I/O, depend on nothing but the calls before, and are not
// safe for concurrent use. What a call costs depends on the number of namespaces, not on
// the number of machines.
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
func (c *Capacity) Ask(d Demand) (admitted []string) {
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
	return Use{max(0, need.Memory), max(0, need.Installations), max(0, need.Targets), max(0, need.Machines)}
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
			for _, d := range t.heads(of...) {
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

// heads returns the first demand of each of some classes, in their order.
func (t *tenant) heads(of ...class) []Demand {
	var heads []Demand
	for _, class := range of {
		if list := t.lists[class]; len(list) > 0 {
			heads = append(heads, list[0])
		}
	}
	slices.SortFunc(heads, Demand.compare)
	return heads
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

// Queue returns the demands that wait, in the order in which they are admitted if
// nothing but the order decides.
func (c *Capacity) Queue() []Demand {
	turns := map[*tenant]int64{}
	lists := map[*tenant][2][]Demand{}
	for _, t := range c.tenants {
		targets := slices.Concat(t.lists[classPowerOn], t.lists[classInstall], t.lists[classReinstall])
		slices.SortFunc(targets, Demand.compare)
		turns[t] = t.turn
		lists[t] = [2][]Demand{t.lists[classServer], targets}
	}
	var queue []Demand
	for clock, kind := c.clock, 0; kind < 2; {
		var next *tenant
		for t, l := range lists {
			if len(l[kind]) > 0 && (next == nil || turns[t] < turns[next]) {
				next = t
			}
		}
		if next == nil {
			kind++
			continue
		}
		l := lists[next]
		queue = append(queue, l[kind][0])
		l[kind] = l[kind][1:]
		lists[next] = l
		clock++
		turns[next] = clock
	}
	return queue
}

// Waits reports whether a machine waits.
func (c *Capacity) Waits(uid string) bool {
	_, waits := c.waiting[uid]
	return waits
}

// Wait returns why a machine waits, with the figures of now; ok is false if it does not
// wait.
func (c *Capacity) Wait(uid string) (why Blocker, ok bool) {
	q, ok := c.waiting[uid]
	if !ok {
		return Blocker{}, false
	}
	t, need, l := c.tenants[q.Namespace], c.need(q.Demand), c.limits
	host, own := c.room(), c.tenantRoom(t)
	switch {
	case need.Targets > max(0, own.Targets):
		return namespaceLimit(t, "%d of its targets were powered on, and --namespace-max-targets is %d", t.used.Targets, l.NamespaceTargets), true
	case need.Memory > max(0, own.Memory):
		return namespaceLimit(t, "%s of %s of memory (--namespace-max-memory) were free, and the machine needs %s",
			Bytes(own.Memory), Bytes(l.NamespaceMemory), Bytes(need.Memory)), true
	case need.Installations > max(0, own.Installations):
		return namespaceLimit(t, "%d of its targets were being installed, and --namespace-max-installations is %d",
			t.used.Installations, l.NamespaceInstallations), true
	case need.Memory > max(0, host.Memory):
		return hostFull(need, host, l, "it is started when other machines stop"), true
	case need.Installations > max(0, host.Installations):
		return installationsLimit(c.total.Installations, l, "it is installed when another one ends"), true
	case need.Memory > 0 && l.Memory > 0:
		return hostFull(need, host, l, "machines that have waited longer are started first"), true
	case need.Installations > 0 && l.Installations > 0:
		return installationsLimit(c.total.Installations, l, "targets that have waited longer are installed first"), true
	default:
		return namespaceLimit(t, "others had waited longer"), true
	}
}

func hostFull(need, host Use, l Limits, then string) Blocker {
	return Blocker{Reason: v1alpha1.ReasonHostFull, Message: fmt.Sprintf(
		"the machine needs %s of the host's memory; when it started to wait, %s of %s (--memory-budget) were free; %s",
		Bytes(need.Memory), Bytes(host.Memory), Bytes(l.Memory), then)}
}

func installationsLimit(running int, l Limits, then string) Blocker {
	return Blocker{Reason: v1alpha1.ReasonInstallationsLimit, Message: fmt.Sprintf(
		"when it started to wait, %d targets were being installed, and --max-installations is %d; %s", running, l.Installations, then)}
}

func namespaceLimit(t *tenant, format string, args ...any) Blocker {
	return Blocker{Reason: v1alpha1.ReasonNamespaceLimit, Message: fmt.Sprintf("the machine waits for others of namespace %s: when it started to wait, ", t.name) +
		fmt.Sprintf(format, args...)}
}

// Bytes returns a human-readable size; a negative one is 0.
func Bytes(n int64) string { return resource.NewQuantity(max(0, n), resource.BinarySI).String() }
