// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// demand is what a target needs that is named "namespace/name" and needs GiB of memory.
// It waits since as many seconds after epoch.
func demand(name string, gib, since int) Demand {
	namespace, short, _ := strings.Cut(name, "/")
	return Demand{
		UID: name, Kind: KindTarget, Namespace: namespace, Name: short, Memory: int64(gib) << 30,
		Since: epoch.Add(time.Duration(since) * time.Second), CreatedAt: epoch,
	}
}

func installs(d Demand) Demand {
	d.Installing = true
	return d
}

func serves(d Demand) Demand {
	d.Kind = KindServer
	return d
}

// A capacityStep is a call and the machines that it admits.
type capacityStep struct {
	ask, count, release, withdraw, yield any // a Demand, or the UID
	want                                 string
}

func (s capacityStep) run(c *Capacity) []string {
	switch {
	case s.ask != nil:
		return c.Ask(s.ask.(Demand))
	case s.count != nil:
		return c.Count(s.count.(Demand))
	case s.yield != nil:
		return c.Yield(s.yield.(string))
	case s.release != nil:
		return c.Release(s.release.(string))
	default:
		return c.Withdraw(s.withdraw.(string))
	}
}

func TestCapacity(t *testing.T) {
	for name, c := range map[string]struct {
		limits Limits
		steps  []capacityStep
		// queue is what waits at the end, used the memory in GiB.
		queue string
		used  int64
	}{
		"without limits all are admitted": {
			steps: []capacityStep{
				{ask: installs(demand("a/1", 1000, 0)), want: "a/1"},
				{ask: serves(demand("b/2", 1000, 0)), want: "b/2"},
			},
			used: 2000,
		},
		"the one that has waited longest is next": {
			limits: Limits{Memory: 4 << 30},
			steps: []capacityStep{
				{ask: demand("a/1", 4, 0), want: "a/1"},
				{ask: demand("a/3", 4, 3)},
				{ask: demand("a/2", 4, 2)},
				{release: "a/1", want: "a/2"},
				{release: "a/2", want: "a/3"},
				{release: "a/3"},
			},
		},
		"one that asks again keeps its place": {
			limits: Limits{Memory: 4 << 30},
			steps: []capacityStep{
				{ask: demand("a/1", 4, 0), want: "a/1"},
				{ask: demand("a/2", 4, 1)},
				{ask: demand("a/3", 4, 2)},
				{ask: demand("a/2", 4, 9)},
				{ask: demand("a/2", 3, 9)},
				{release: "a/1", want: "a/2"},
			},
			queue: "a/3", used: 3,
		},
		"servers are first": {
			limits: Limits{Memory: 4 << 30},
			steps: []capacityStep{
				{ask: demand("a/1", 4, 0), want: "a/1"},
				{ask: demand("a/2", 4, 1)},
				{ask: demand("b/3", 4, 2)},
				{ask: serves(demand("c/server", 4, 9))},
				{release: "a/1", want: "c/server"},
			},
			queue: "a/2 b/3", used: 4,
		},
		"namespaces take turns": {
			limits: Limits{Memory: 2 << 30},
			steps: []capacityStep{
				{ask: demand("a/1", 2, 0), want: "a/1"},
				{ask: demand("a/2", 1, 1)},
				{ask: demand("a/3", 1, 2)},
				{ask: demand("a/4", 1, 3)},
				{ask: demand("b/1", 1, 8)},
				{ask: demand("b/2", 1, 9)},
				{release: "a/1", want: "a/2 b/1"},
				{release: "a/2", want: "a/3"},
				{release: "b/1", want: "b/2"},
			},
			queue: "a/4", used: 2,
		},
		"small ones do not overtake a big one": {
			limits: Limits{Memory: 8 << 30},
			steps: []capacityStep{
				{ask: demand("a/1", 4, 0), want: "a/1"},
				{ask: demand("a/2", 2, 1), want: "a/2"},
				{ask: demand("a/big", 8, 2)},
				{ask: demand("a/3", 1, 3)},
				{ask: demand("b/3", 1, 3)},
				{release: "a/2"},
				{release: "a/1", want: "a/big"},
				{release: "a/big", want: "b/3 a/3"},
			},
			used: 2,
		},
		"one that is withdrawn does not hold up others": {
			limits: Limits{Memory: 8 << 30},
			steps: []capacityStep{
				{ask: demand("a/1", 4, 0), want: "a/1"},
				{ask: demand("a/big", 8, 2)},
				{ask: demand("a/3", 1, 3)},
				{withdraw: "a/big", want: "a/3"},
				{withdraw: "a/big"},
			},
			used: 5,
		},
		"machines of an earlier manager count beyond the budget": {
			limits: Limits{Memory: 4 << 30},
			steps: []capacityStep{
				{count: demand("a/1", 3, 0)},
				{count: demand("a/2", 3, 0)},
				{ask: demand("a/3", 1, 0)},
				{release: "a/1", want: "a/3"},
			},
			used: 4,
		},
		"what runs can need less than it was admitted for": {
			limits: Limits{Memory: 4 << 30},
			steps: []capacityStep{
				{ask: demand("a/1", 3, 0), want: "a/1"},
				{ask: demand("a/2", 2, 0)},
				{count: demand("a/1", 3, 5)},
				{count: demand("a/1", 2, 5), want: "a/2"},
			},
			used: 4,
		},
		"installations are limited, power-ons are not": {
			limits: Limits{Memory: 8 << 30, Installations: 1},
			steps: []capacityStep{
				{ask: installs(demand("a/1", 1, 0)), want: "a/1"},
				{ask: installs(demand("a/2", 1, 1))},
				{ask: installs(demand("a/3", 1, 2))},
				{ask: demand("a/4", 1, 3), want: "a/4"},
				{count: demand("a/1", 1, 0), want: "a/2"},
				{release: "a/2", want: "a/3"},
			},
			used: 3,
		},
		"a power-on does not take the memory of the next installation": {
			limits: Limits{Memory: 8 << 30, Installations: 1},
			steps: []capacityStep{
				{ask: installs(demand("a/1", 1, 0)), want: "a/1"},
				{ask: installs(demand("a/2", 6, 1))},
				{ask: demand("a/3", 2, 2)},
				{ask: demand("b/4", 1, 3)},
				{count: demand("a/1", 1, 0), want: "a/2 b/4"},
			},
			queue: "a/3", used: 8,
		},
		"a reinstallation needs no memory": {
			limits: Limits{Memory: 4 << 30, Installations: 1},
			steps: []capacityStep{
				{count: demand("a/1", 4, 0)},
				{ask: installs(demand("a/2", 4, 1))},
				{ask: installs(demand("a/1", 4, 2)), want: "a/1"},
				{ask: installs(demand("a/1", 4, 2))},
				{count: installs(demand("a/1", 4, 2))},
				{count: demand("a/1", 4, 2)},
				{release: "a/1", want: "a/2"},
			},
			used: 4,
		},
		"one that waits for its reinstallation keeps running": {
			limits: Limits{Installations: 1},
			steps: []capacityStep{
				{ask: installs(demand("a/1", 1, 0)), want: "a/1"},
				{count: demand("a/2", 1, 0)},
				{ask: installs(demand("a/2", 1, 1))},
				{count: demand("a/2", 1, 2)},
				{count: demand("a/1", 1, 0), want: "a/2"},
			},
			used: 2,
		},
		"a namespace's limits delay only itself": {
			limits: Limits{Memory: 8 << 30, NamespaceMemory: 4 << 30, NamespaceTargets: 2},
			steps: []capacityStep{
				{ask: demand("a/1", 3, 0), want: "a/1"},
				{ask: demand("a/2", 3, 1)},
				{ask: demand("a/3", 1, 2)},
				{ask: demand("b/1", 1, 3), want: "b/1"},
				{ask: demand("b/2", 1, 4), want: "b/2"},
				{ask: demand("b/3", 1, 5)},
				{ask: serves(demand("b/server", 1, 6)), want: "b/server"},
				{release: "a/1", want: "a/2 a/3"},
				{release: "b/2", want: "b/3"},
			},
			used: 7,
		},
		"one that does not fit beside the servers does not hold up others": {
			limits: Limits{Memory: 8 << 30},
			steps: []capacityStep{
				{ask: serves(demand("a/server", 2, 0)), want: "a/server"},
				{ask: demand("a/big", 7, 1)},
				{ask: demand("a/2", 4, 2), want: "a/2"},
				{ask: demand("b/3", 1, 3), want: "b/3"},
				{ask: serves(demand("b/big-server", 7, 4))},
				{ask: demand("b/4", 1, 5), want: "b/4"},
				{release: "a/server"},
				{release: "a/2"},
				{release: "b/3", want: "b/big-server"},
				{release: "b/4"},
				{release: "b/big-server", want: "a/big"},
			},
			used: 7,
		},
		"one that does not fit beside the servers of its namespace": {
			limits: Limits{NamespaceMemory: 8 << 30},
			steps: []capacityStep{
				{ask: serves(demand("a/server", 2, 0)), want: "a/server"},
				{ask: demand("a/big", 7, 1)},
				{ask: demand("a/2", 4, 2), want: "a/2"},
				{release: "a/2"},
				{release: "a/server", want: "a/big"},
			},
			used: 7,
		},
		"a server that is restarted with more memory does not wait for itself": {
			limits: Limits{Memory: 8 << 30},
			steps: []capacityStep{
				{ask: serves(demand("a/server", 4, 0)), want: "a/server"},
				{ask: demand("a/1", 3, 1), want: "a/1"},
				{ask: serves(demand("a/server", 7, 2))},
				{ask: demand("a/2", 1, 3)},
				{release: "a/1", want: "a/server a/2"},
			},
			used: 8,
		},
		"servers that are restarted with more memory do not wait for each other": {
			limits: Limits{Memory: 5 << 30},
			steps: []capacityStep{
				{ask: serves(demand("a/server", 2, 0)), want: "a/server"},
				{ask: serves(demand("b/server", 2, 1)), want: "b/server"},
				{yield: "a/server"},
				{ask: serves(demand("a/server", 4, 2))},
				{ask: serves(demand("b/server", 4, 3))},
				{ask: demand("a/1", 2, 4)},
				{yield: "b/server", want: "a/server"},
				{yield: "a/server"},
			},
			queue: "b/server a/1", used: 4,
		},
		"one that is off and waits for its reinstallation needs no memory": {
			limits: Limits{Memory: 4 << 30, Installations: 1},
			steps: []capacityStep{
				{ask: installs(demand("a/1", 1, 0)), want: "a/1"},
				{count: demand("a/2", 3, 1)},
				{ask: installs(demand("a/2", 3, 2))},
				{ask: demand("b/3", 3, 3)},
				{yield: "a/2"},
				{withdraw: "a/2", want: "b/3"},
			},
			used: 4,
		},
		"one that counts as larger than a limit needs all of it": {
			limits: Limits{Memory: 8 << 30, NamespaceMemory: 4 << 30},
			steps: []capacityStep{
				{ask: demand("a/1", 5, 0), want: "a/1"},
				{ask: demand("a/2", 1, 1)},
				{ask: demand("b/3", 9, 2), want: "b/3"},
				{count: demand("a/1", 3, 3), want: "a/2"},
			},
			used: 8,
		},
		"installations of a namespace": {
			limits: Limits{NamespaceInstallations: 1},
			steps: []capacityStep{
				{ask: installs(demand("a/1", 1, 0)), want: "a/1"},
				{ask: installs(demand("a/2", 1, 0))},
				{ask: installs(demand("b/1", 1, 0)), want: "b/1"},
				{ask: demand("a/3", 1, 0), want: "a/3"},
				{count: demand("a/1", 1, 0), want: "a/2"},
			},
			used: 4,
		},
	} {
		t.Run(name, func(t *testing.T) {
			capacity := NewCapacity(c.limits)
			for i, s := range c.steps {
				if got := strings.Join(s.run(capacity), " "); got != s.want {
					t.Errorf("step %d: got %q admitted, want %q", i, got, s.want)
				}
			}
			var queue []string
			for _, d := range capacity.Queue() {
				queue = append(queue, d.UID)
			}
			if got := strings.Join(queue, " "); got != c.queue {
				t.Errorf("got the queue %q, want %q", got, c.queue)
			}
			if got := capacity.Used().Memory >> 30; got != c.used {
				t.Errorf("got %d GiB in use, want %d", got, c.used)
			}
		})
	}
}

func TestCapacityWait(t *testing.T) {
	for name, c := range map[string]struct {
		limits       Limits
		running, ask Demand
		reason       string
		message      []string
	}{
		"memory": {
			limits: Limits{Memory: 4 << 30}, running: demand("a/1", 3, 0), ask: demand("a/2", 2, 0),
			reason: v1alpha1.ReasonHostFull, message: []string{"needs 2Gi", "1Gi of 4Gi", "--memory-budget"},
		},
		"more than all memory in use": {
			limits: Limits{Memory: 4 << 30}, running: demand("a/1", 6, 0), ask: demand("a/2", 2, 0),
			reason: v1alpha1.ReasonHostFull, message: []string{"0 of 4Gi"},
		},
		"installations": {
			limits: Limits{Installations: 1}, running: installs(demand("a/1", 3, 0)), ask: installs(demand("a/2", 2, 0)),
			reason: v1alpha1.ReasonInstallationsLimit, message: []string{"1 targets", "--max-installations is 1"},
		},
		"targets of a namespace": {
			limits: Limits{NamespaceTargets: 1}, running: demand("a/1", 3, 0), ask: demand("a/2", 2, 0),
			reason: v1alpha1.ReasonNamespaceLimit, message: []string{"namespace a", "1 of its targets", "--namespace-max-targets is 1"},
		},
		"memory of a namespace": {
			limits: Limits{NamespaceMemory: 4 << 30}, running: demand("a/1", 3, 0), ask: demand("a/2", 2, 0),
			reason: v1alpha1.ReasonNamespaceLimit, message: []string{"namespace a", "1Gi of 4Gi", "--namespace-max-memory", "needs 2Gi"},
		},
		"installations of a namespace": {
			limits: Limits{NamespaceInstallations: 1}, running: installs(demand("a/1", 3, 0)), ask: installs(demand("a/2", 2, 0)),
			reason: v1alpha1.ReasonNamespaceLimit, message: []string{"namespace a", "1 of its targets", "--namespace-max-installations is 1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			capacity := NewCapacity(c.limits)
			capacity.Count(c.running)
			capacity.Ask(c.ask)
			got, waits := capacity.Wait(c.ask.UID)
			if !waits || got.Reason != c.reason || got.Terminal {
				t.Errorf("got %+v, waiting: %t; want reason %s", got, waits, c.reason)
			}
			for _, want := range c.message {
				if !strings.Contains(got.Message, want) {
					t.Errorf("got message %q, want it to contain %q", got.Message, want)
				}
			}
			if got, waits := capacity.Wait(c.running.UID); waits {
				t.Errorf("got %+v for a machine that runs, want none", got)
			}
		})
	}
}

// One that fits but is not next has the same reason as the one it waits for.
func TestCapacityWaitsBehindOthers(t *testing.T) {
	capacity := NewCapacity(Limits{Memory: 4 << 30})
	capacity.Count(demand("a/1", 2, 0))
	capacity.Ask(demand("a/2", 4, 1))
	capacity.Ask(demand("a/3", 1, 2))
	got, waits := capacity.Wait("a/3")
	if !waits || got.Reason != v1alpha1.ReasonHostFull || !strings.Contains(got.Message, "have waited longer") {
		t.Errorf("got %+v, waiting: %t; want %s behind others", got, waits, v1alpha1.ReasonHostFull)
	}
}

func TestLimitsCheck(t *testing.T) {
	if err := (Limits{}).Check(); err != nil {
		t.Errorf("got error %v without limits, want none", err)
	}
	for want, l := range map[string]Limits{
		"--memory-budget":               {Memory: -1},
		"--max-installations":           {Installations: -1},
		"--namespace-max-targets":       {NamespaceTargets: -1},
		"--namespace-max-memory":        {NamespaceMemory: -1},
		"--namespace-max-installations": {NamespaceInstallations: -1},
	} {
		if err := l.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one that names %s", err, want)
		}
	}
}

// capacityModel checks a Capacity against what was asked of it.
type capacityModel struct {
	t        *testing.T
	capacity *Capacity
	limits   Limits
	demands  []Demand
	running  map[string]Demand
	waiting  map[string]Demand
	admitted map[string]int
}

func newCapacityModel(t *testing.T, limits Limits, demands []Demand) *capacityModel {
	return &capacityModel{
		t: t, capacity: NewCapacity(limits), limits: limits, demands: demands,
		running: map[string]Demand{}, waiting: map[string]Demand{}, admitted: map[string]int{},
	}
}

// step makes one call for a demand, and checks the result.
func (m *capacityModel) step(call int, d Demand) {
	m.t.Helper()
	var admitted []string
	_, runs := m.running[d.UID]
	_, waits := m.waiting[d.UID]
	switch call % 7 {
	case 0, 1: // most of the calls
		admitted = m.capacity.Ask(d)
		if has, runs := m.running[d.UID]; !runs || d.Installing && !has.Installing {
			m.waiting[d.UID] = d
		} else {
			delete(m.waiting, d.UID)
		}
	case 2:
		if !runs {
			return // it would be beyond the limits
		}
		d.Installing = false
		admitted = m.capacity.Count(d)
		m.running[d.UID] = d
	case 3:
		admitted = m.capacity.Withdraw(d.UID)
		delete(m.waiting, d.UID)
	case 4:
		admitted = m.capacity.Yield(d.UID)
		if runs && waits {
			delete(m.running, d.UID)
		}
	default:
		if !runs && !waits {
			return
		}
		admitted = m.capacity.Release(d.UID)
		delete(m.waiting, d.UID)
		delete(m.running, d.UID)
	}
	m.took(admitted)
	m.check()
}

func (m *capacityModel) took(admitted []string) {
	m.t.Helper()
	for _, uid := range admitted {
		d, waited := m.waiting[uid]
		if !waited {
			m.t.Errorf("%s was admitted without waiting", uid)
		}
		delete(m.waiting, uid)
		m.running[uid] = d
		m.admitted[uid]++
	}
}

// check compares the sums, which never exceed a limit because all demands went through
// the queue.
func (m *capacityModel) check() {
	m.t.Helper()
	total, spaces := Use{}, map[string]Use{}
	for _, d := range m.running {
		total = total.plus(d.use())
		spaces[d.Namespace] = spaces[d.Namespace].plus(d.use())
	}
	if got := m.capacity.Used(); got != total {
		m.t.Fatalf("got %+v in use, want %+v", got, total)
	}
	over := func(limit, used int64) bool { return limit > 0 && used > limit }
	if over(m.limits.Memory, total.Memory) || over(int64(m.limits.Installations), int64(total.Installations)) {
		m.t.Fatalf("%+v exceeds %+v", total, m.limits)
	}
	for name, u := range spaces {
		if over(m.limits.NamespaceMemory, u.Memory) || over(int64(m.limits.NamespaceInstallations), int64(u.Installations)) ||
			over(int64(m.limits.NamespaceTargets), int64(u.Targets)) {
			m.t.Fatalf("namespace %s: %+v exceeds %+v", name, u, m.limits)
		}
	}
	var queue, waiting []string
	for _, d := range m.capacity.Queue() {
		queue = append(queue, d.UID)
		if why, waits := m.capacity.Wait(d.UID); !waits || why.Reason == "" || why.Message == "" {
			m.t.Fatalf("%s waits: got %t, %+v; want a reason", d.UID, waits, why)
		}
	}
	for uid := range m.waiting {
		waiting = append(waiting, uid)
	}
	slices.Sort(queue)
	slices.Sort(waiting)
	if !slices.Equal(waiting, queue) { // the difference takes long to compute
		m.t.Fatalf("queue differs (-want +got):\n%s", cmp.Diff(waiting, queue))
	}
	if len(m.running) == 0 && len(m.waiting) > 0 {
		m.t.Fatalf("%v wait although nothing runs", waiting)
	}
}

// drain ends what runs, one after the other, until nothing waits.
func (m *capacityModel) drain() {
	m.t.Helper()
	for most := len(m.running) + len(m.waiting); len(m.waiting) > 0; most-- {
		if most == 0 {
			m.t.Fatalf("%d machines still wait", len(m.waiting))
		}
		for _, d := range m.demands {
			if _, runs := m.running[d.UID]; runs {
				admitted := m.capacity.Release(d.UID)
				delete(m.running, d.UID)
				delete(m.waiting, d.UID) // a reinstallation
				m.took(admitted)
				m.check()
				break
			}
		}
	}
	for uid := range m.running {
		m.capacity.Release(uid)
	}
	if len(m.capacity.tenants) > 0 || len(m.capacity.running) > 0 || m.capacity.Used() != (Use{}) {
		m.t.Errorf("got %+v after all machines ended, want nothing", m.capacity)
	}
}

// randomDemands are what n machines need of which each fits within the limits.
func randomDemands(r *rand.Rand, n int) []Demand {
	var demands []Demand
	for i := range n {
		d := demand(fmt.Sprintf("ns-%d/%d", r.IntN(4), i), 1+r.IntN(4), r.IntN(n))
		d.Installing = r.IntN(2) == 0
		if r.IntN(8) == 0 {
			d = serves(d)
			d.Installing = false
		}
		demands = append(demands, d)
	}
	return demands
}

// Whatever is asked in whatever order, no limit is exceeded, nothing waits without a
// cause, and all are admitted in the end.
func FuzzCapacity(f *testing.F) {
	f.Add(uint64(1), uint8(8), uint8(2), uint8(3), uint8(6), uint8(1), []byte{0, 0, 0, 1, 0, 2, 0, 3, 4, 0, 2, 1, 3, 2, 1, 4})
	f.Add(uint64(2), uint8(0), uint8(0), uint8(0), uint8(0), uint8(0), []byte{0, 1, 0, 2, 4, 1})
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 0))
		calls := make([]byte, 400)
		for i := range calls {
			calls[i] = byte(r.Uint32())
		}
		f.Add(seed, uint8(4+r.IntN(12)), uint8(r.IntN(4)), uint8(r.IntN(4)), uint8(4+r.IntN(8)), uint8(r.IntN(3)), calls)
	}
	f.Fuzz(func(t *testing.T, seed uint64, memory, installations, targets, spaceMemory, spaceInstallations uint8, calls []byte) {
		atLeast := func(gib uint8) int64 { // every demand fits
			if gib == 0 {
				return 0
			}
			return max(4, int64(gib)) << 30
		}
		limits := Limits{
			Memory: atLeast(memory), Installations: int(installations), NamespaceTargets: int(targets),
			NamespaceMemory: atLeast(spaceMemory), NamespaceInstallations: int(spaceInstallations),
		}
		m := newCapacityModel(t, limits, randomDemands(rand.New(rand.NewPCG(seed, 1)), 32))
		for i := 0; i+1 < len(calls) && i < 1000; i += 2 {
			m.step(int(calls[i]), m.demands[int(calls[i+1])%len(m.demands)])
		}
		m.drain()
	})
}

// A big machine is admitted although small ones come and go all the time.
func TestCapacityStarvesNoMachine(t *testing.T) {
	capacity := NewCapacity(Limits{Memory: 8 << 30})
	var running []string
	for i := range 8 {
		running = append(running, capacity.Ask(demand(fmt.Sprintf("lab/%d", i), 1, 0))...)
	}
	capacity.Ask(demand("lab/big", 8, 1))
	for i := range 8 {
		capacity.Ask(demand(fmt.Sprintf("lab/%d-again", i), 1, 2))
		// It is the turn of a namespace that comes later after one machine of this one.
		capacity.Ask(demand(fmt.Sprintf("other-%d/1", i), 1, 2))
		admitted := capacity.Release(running[i])
		if want := i == 7; slices.Contains(admitted, "lab/big") != want {
			t.Fatalf("after %d of 8 machines ended: got %v admitted, want the big one: %t", i+1, admitted, want)
		}
	}
}

// What a call costs depends on the namespaces, not on the machines that wait.
func BenchmarkCapacity(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			capacity := NewCapacity(Limits{Memory: 10 << 30, Installations: 4})
			for i := range n {
				capacity.Ask(installs(demand(fmt.Sprintf("ns-%d/%d", i%10, i), 1, i)))
			}
			b.ResetTimer()
			for i := range b.N {
				d := installs(demand(fmt.Sprintf("ns-%d/more-%d", i%10, i), 1, n+i))
				capacity.Ask(d)
				capacity.Release(d.UID)
			}
		})
	}
}
