// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers"
	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/plan"
)

// machineFootprint is what one machine of the tests takes of the host.
var machineFootprint = machine.Footprint(1024, machine.TCG)

// limitedLab is up on a host with limits. report returns its capacity.
func limitedLab(t *testing.T, limits plan.Limits) (l *lab, report func() access.Capacity) {
	t.Helper()
	l = newLab(t)
	var mu sync.Mutex
	var host *controllers.Host
	l.adapt = func(h *controllers.Host) {
		h.Capacity = controllers.NewCapacity(limits)
		mu.Lock()
		defer mu.Unlock()
		host = h
	}
	l.restart()
	l.create(newServer("lab"), newProfile("debian"))
	l.waitReadyServer("lab")
	l.waitCondition(l.profile("debian"), v1alpha1.ConditionReady, "True", v1alpha1.ReasonReady, "")
	return l, func() access.Capacity {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		capacity, err := (&controllers.Access{Host: host}).Capacity(l.ctx)
		l.must(err)
		return capacity
	}
}

// room returns limits with memory for a number of machines.
func room(machines int64) plan.Limits { return plan.Limits{Memory: machines * machineFootprint} }

// waitsFor waits until a target waits for capacity, with a reason and a part of the message.
func (l *lab) waitsFor(name, reason, text string) {
	l.t.Helper()
	l.waitCondition(l.target(name), v1alpha1.ConditionMachineRunning, "False", reason, text)
	l.waitCondition(l.target(name), v1alpha1.ConditionProgressing, "True", reason, text)
	l.waitPhase(name, v1alpha1.TargetPending)
}

// crowd is a runner that records how many machines ran at a time.
type crowd struct {
	*machines
	mu   sync.Mutex
	most int
}

func (c *crowd) Start(ctx context.Context, m machine.Machine) error {
	if err := c.machines.Start(ctx, m); err != nil {
		return err
	}
	states, err := c.List(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	alive := 0
	for _, s := range states {
		if s.Phase.Alive() {
			alive++
		}
	}
	c.most = max(c.most, alive)
	return err
}

func (c *crowd) peak() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.most
}

// Thirty targets on a host with memory for ten: never more than ten run, and each
// becomes Ready when others are deleted or powered off, also after a restart of the
// manager.
func TestHostIsNeverOvercommitted(t *testing.T) {
	const targets, fit = 30, 10
	l, report := limitedLab(t, room(fit+1)) // and the server
	runner, adapt := &crowd{machines: l.machines}, l.adapt
	l.adapt = func(h *controllers.Host) {
		adapt(h)
		h.Machines = runner
	}
	l.restart()
	l.waitReadyServer("lab")
	guests := l.runGuests("lab", l.machines.Fake)
	defer guests()
	for i := range targets {
		l.create(newTarget(fmt.Sprintf("target-%d", i)))
	}
	ready := map[string]bool{}
	waiting := func() (names []string) {
		for _, w := range report().Waiting {
			names = append(names, w.Name)
		}
		return names
	}
	observe := func(each func(*v1alpha1.BareMetalTarget)) {
		t.Helper()
		list := &v1alpha1.BareMetalTargetList{}
		l.must(l.client.List(l.ctx, list, client.InNamespace(l.ns)))
		for i := range list.Items {
			if o := &list.Items[i]; o.Status.Phase == v1alpha1.TargetReady && o.DeletionTimestamp.IsZero() {
				ready[o.Name] = true
				each(o)
			}
		}
	}
	l.eventually(func() string {
		observe(func(*v1alpha1.BareMetalTarget) {})
		return missing(len(ready) == fit && len(waiting()) == targets-fit, "%d targets are Ready, %d wait", len(ready), len(waiting()))
	})
	for _, name := range waiting() {
		l.waitsFor(name, v1alpha1.ReasonHostFull, "needs 1792Mi")
	}
	queue := waiting()
	l.restart()
	l.waitReadyServer("lab")
	// The queue is the same for the next manager, as far as seconds order it.
	l.eventually(func() string {
		now := waiting()
		return missing(len(now) == len(queue), "%d targets wait after the restart, not %d", len(now), len(queue))
	})
	if got := report(); got.Machines != fit+1 || got.Memory.Used != (fit+1)*machineFootprint {
		t.Errorf("after a restart: got %+v in use, want %d machines", got, fit+1)
	}
	ended := 0
	l.eventually(func() string {
		observe(func(o *v1alpha1.BareMetalTarget) {
			if o.Spec.Power == v1alpha1.PowerOff {
				return
			}
			if ended++; ended%2 == 0 {
				l.must(client.IgnoreNotFound(l.client.Delete(l.ctx, o)))
				return
			}
			update(l, o, func(o *v1alpha1.BareMetalTarget) { o.Spec.Power = v1alpha1.PowerOff })
		})
		return missing(len(ready) == targets, "%d targets have been Ready", len(ready))
	})
	if got := runner.peak(); got > fit+1 {
		t.Errorf("got %d machines at a time, want at most %d", got, fit+1)
	}
	l.eventually(func() string {
		got := report()
		return missing(len(got.Waiting) == 0 && got.Installations.Used == 0, "%+v is in use", got)
	})
}

// missing returns what is missing unless ok.
func missing(ok bool, format string, args ...any) string {
	if ok {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

// What becomes free wakes the next target and no other that waits.
func TestFreeCapacityWakesOnlyTheNext(t *testing.T) {
	const targets, releases = 8, 6
	l, report := limitedLab(t, room(2))
	for i := range targets {
		l.create(newTarget(fmt.Sprintf("target-%d", i)))
	}
	l.eventually(func() string {
		return missing(len(report().Waiting) == targets-1, "%d targets wait", len(report().Waiting))
	})
	queue := report().Waiting
	last := l.target(queue[len(queue)-1].Name)
	l.waitsFor(last.Name, v1alpha1.ReasonHostFull, "")
	began, looks := time.Now(), l.machines.observations(string(last.UID))
	running := func() (name string) {
		list := &v1alpha1.BareMetalTargetList{}
		l.must(l.client.List(l.ctx, list, client.InNamespace(l.ns)))
		for i := range list.Items {
			if l.state(&list.Items[i]).Phase.Alive() {
				return list.Items[i].Name
			}
		}
		return ""
	}
	for i := range releases {
		update(l, l.target(running()), func(o *v1alpha1.BareMetalTarget) { o.Spec.Power = v1alpha1.PowerOff })
		l.waitPhase(queue[i].Name, v1alpha1.TargetPXE)
	}
	// Each target is also reconciled every 30 s.
	most := 1 + int(time.Since(began)/(30*time.Second))
	if got := l.machines.observations(string(last.UID)) - looks; got > most {
		t.Errorf("got %d reconciliations of the last target during %d releases, want at most %d", got, releases, most)
	}
}

func TestImpossibleSizesFail(t *testing.T) {
	limits := room(4)
	limits.NamespaceMemory = 3 * machineFootprint
	l, _ := limitedLab(t, limits)
	sized := func(name, memory, disk string) *v1alpha1.BareMetalTarget {
		o := newTarget(name)
		o.Spec.Machine.Memory = resource.MustParse(memory)
		o.Spec.Machine.Disks[0].Size = resource.MustParse(disk)
		return o
	}
	for _, c := range []struct {
		target  *v1alpha1.BareMetalTarget
		message string
	}{
		{sized("memory", "100Ti", "2Gi"), "spec.machine.memory is 100Ti, and the largest memory is 16Ti"},
		{sized("disk", "1Gi", "900P"), "spec.machine.disks[0].size is 900P, and the largest disk is 64Ti"},
		{sized("host", "64Gi", "2Gi"), "all machines together have 7Gi; reduce it, or raise the manager's --memory-budget"},
		{sized("namespace", "6Gi", "2Gi"), "the machines of a namespace have 5376Mi; reduce it, or raise the manager's --namespace-max-memory"},
	} {
		l.create(c.target)
		l.waitPhase(c.target.Name, v1alpha1.TargetFailed)
		l.waitCondition(c.target, v1alpha1.ConditionValid, "False", v1alpha1.ReasonExceedsCapacity, c.message)
		l.waitCondition(c.target, v1alpha1.ConditionReady, "False", v1alpha1.ReasonExceedsCapacity, c.message)
		l.checkStarts(c.target, 0)
	}
	server := newServer("large")
	server.Spec.Network.CIDR = "10.99.0.0/24"
	server.Spec.Machine.Memory = resource.MustParse("100Ti")
	l.create(server)
	l.waitCondition(server, v1alpha1.ConditionReady, "False", v1alpha1.ReasonExceedsCapacity, "spec.machine.memory is 100Ti")
	if got := l.server("large").Status.Phase; got != v1alpha1.ServerFailed {
		t.Errorf("got phase %s of a server with 100 TiB of memory, want %s", got, v1alpha1.ServerFailed)
	}
	// A correction takes effect.
	update(l, l.target("memory"), func(o *v1alpha1.BareMetalTarget) { o.Spec.Machine.Memory = resource.MustParse("1Gi") })
	l.waitPhase("memory", v1alpha1.TargetPXE)
}

// Whether a disk of 32 TiB is possible depends on the file system.
func TestDiskLargerThanFileSystemFails(t *testing.T) {
	l, _ := limitedLab(t, plan.Limits{})
	target := newTarget("target-1")
	target.Spec.Machine.Disks[0].Size = resource.MustParse("32Ti")
	l.create(target)
	probe := filepath.Join(l.data, "probe")
	l.must(os.WriteFile(probe, nil, 0o600))
	err := os.Truncate(probe, 32<<40)
	if err == nil {
		l.waitPhase("target-1", v1alpha1.TargetPXE)
		return
	}
	if !errors.Is(err, syscall.EFBIG) {
		t.Fatal(err)
	}
	l.waitPhase("target-1", v1alpha1.TargetFailed)
	l.waitCondition(target, v1alpha1.ConditionValid, "False", v1alpha1.ReasonExceedsCapacity, "of 35184372088832 bytes")
	l.reconciled(target)
	l.waitPhase("target-1", v1alpha1.TargetFailed)
}

// Installations are limited, power-ons of installed targets are not, and no system is
// stopped for a reinstallation that has to wait.
func TestInstallationsWaitForEachOther(t *testing.T) {
	l, report := limitedLab(t, plan.Limits{Installations: 1})
	l.create(newTarget("target-1"))
	first := l.becomesReady("target-1")
	update(l, first, func(o *v1alpha1.BareMetalTarget) { o.Spec.Power = v1alpha1.PowerOff })
	l.waitPhase("target-1", v1alpha1.TargetStopped)

	l.create(newTarget("target-2"))
	l.waitPhase("target-2", v1alpha1.TargetPXE)
	l.create(newTarget("target-3"))
	l.waitsFor("target-3", v1alpha1.ReasonInstallationsLimit, "--max-installations is 1")
	update(l, l.target("target-1"), func(o *v1alpha1.BareMetalTarget) { o.Spec.Power = v1alpha1.PowerOn })
	l.waitPhase("target-1", v1alpha1.TargetBooting)
	first = l.target("target-1")
	l.answers(first)
	l.waitPhase("target-1", v1alpha1.TargetReady)
	l.checkStarts(first, 2)

	update(l, first, func(o *v1alpha1.BareMetalTarget) { o.Spec.InstallGeneration = 2 })
	l.waitCondition(first, v1alpha1.ConditionProgressing, "True", v1alpha1.ReasonInstallationsLimit, "the disk is kept until then")
	l.checkAlive(first, true)
	if got := report(); got.Installations.Used != 1 || len(got.Waiting) != 2 {
		t.Errorf("got %+v, want one installation and two that wait", got)
	}
	// After a restart they wait as before.
	l.restart()
	l.eventually(func() string { return missing(len(report().Waiting) == 2, "%+v do not wait", report()) })
	l.checkAlive(first, true)
	l.checkStarts(l.target("target-3"), 0)

	// The installation ends; one of the two is next.
	second := l.target("target-2")
	l.installs(second, 370)
	l.finishes(second)
	var next string
	l.eventually(func() string {
		if w := report().Waiting; len(w) == 1 {
			next = map[string]string{"target-1": "target-3", "target-3": "target-1"}[w[0].Name]
			return ""
		}
		return "two still wait"
	})
	installed := l.waitPhase(next, v1alpha1.TargetPXE)
	l.installs(installed, 370)
	l.finishes(installed)
	l.eventually(func() string { return missing(len(report().Waiting) == 0, "%+v waits", report()) })
	for _, name := range []string{"target-1", "target-3"} {
		if name != next {
			l.waitPhase(name, v1alpha1.TargetPXE)
		}
	}
	l.checkStarts(l.target("target-1"), 3)
	l.checkStarts(l.target("target-3"), 1)
}

func TestNamespaceLimit(t *testing.T) {
	l, _ := limitedLab(t, plan.Limits{NamespaceTargets: 1})
	first := newTarget("target-1")
	l.create(first)
	l.waitPhase("target-1", v1alpha1.TargetPXE)
	l.create(newTarget("target-2"))
	l.waitsFor("target-2", v1alpha1.ReasonNamespaceLimit, "--namespace-max-targets is 1")
	l.must(l.client.Delete(l.ctx, first))
	l.waitPhase("target-2", v1alpha1.TargetPXE)
}

// A server waits as well, and is the next.
func TestServerWaitsForMemory(t *testing.T) {
	l, report := limitedLab(t, room(2))
	target := newTarget("target-1")
	l.create(target)
	l.waitPhase("target-1", v1alpha1.TargetPXE)
	l.create(newTarget("target-2"))
	l.waitsFor("target-2", v1alpha1.ReasonHostFull, "")
	other := newServer("other")
	other.Spec.Network.CIDR = "10.99.0.0/24"
	l.create(other)
	l.waitCondition(other, v1alpha1.ConditionMachineRunning, "False", v1alpha1.ReasonHostFull, "needs 1792Mi")
	if got := l.server("other").Status.Phase; got != v1alpha1.ServerPending {
		t.Errorf("got phase %s of a server that waits, want %s", got, v1alpha1.ServerPending)
	}
	var queue []string
	for _, w := range report().Waiting {
		queue = append(queue, string(w.Kind)+"/"+w.Name)
	}
	if want := []string{"provisioningservers/other", "baremetaltargets/target-2"}; !slices.Equal(queue, want) {
		t.Errorf("got the queue %v, want %v", queue, want)
	}
	l.must(l.client.Delete(l.ctx, target))
	l.waitReadyServer("other")
	l.waitPhase("target-2", v1alpha1.TargetPending)
	l.checkStarts(l.target("target-2"), 0)

	// A server that ends keeps its place: without it, its targets are of no use.
	l.machines.crash(string(other.UID))
	l.eventually(func() string {
		starts := l.machines.starts(string(other.UID))
		return missing(starts == 2, "the server was started %d times", starts)
	})
	l.waitReadyServer("other")
	l.checkStarts(l.target("target-2"), 0)
}

// After a restart of the host, a server is started before the targets that ran, or wanted
// to run, in its place.
func TestServersAreFirstAfterHostRestart(t *testing.T) {
	l, _ := limitedLab(t, room(2))
	set := func(name string, power v1alpha1.PowerState) {
		update(l, l.target(name), func(o *v1alpha1.BareMetalTarget) { o.Spec.Power = power })
	}
	for _, name := range []string{"target-1", "target-2"} {
		l.create(newTarget(name))
		l.becomesReady(name)
		set(name, v1alpha1.PowerOff)
		l.waitPhase(name, v1alpha1.TargetStopped)
	}
	set("target-1", v1alpha1.PowerOn)
	l.waitPhase("target-1", v1alpha1.TargetBooting)
	set("target-2", v1alpha1.PowerOn)
	l.waitsFor("target-2", v1alpha1.ReasonHostFull, "")
	l.stopManager()
	for _, o := range []client.Object{l.server("lab"), l.target("target-1")} {
		_, err := l.machines.Stop(l.ctx, string(o.GetUID()), machine.StopOptions{})
		l.must(err)
	}
	l.start()
	l.checkRunning("lab", "target-1", "target-2")
	l.waitReadyServer("lab")
	l.checkRunning("lab", "target-1", "target-2")
}

// checkRunning waits until the server and one of two targets run, and no other.
func (l *lab) checkRunning(server, first, second string) {
	l.t.Helper()
	l.eventually(func() string {
		alive := map[string]bool{}
		for _, o := range []client.Object{l.server(server), l.target(first), l.target(second)} {
			if l.state(o).Phase.Alive() {
				alive[o.GetName()] = true
			}
		}
		return missing(len(alive) == 2 && alive[server], "%v run", alive)
	})
}

// A machine that lost its object uses memory until it ends.
func TestMachineWithoutObjectCounts(t *testing.T) {
	l, report := limitedLab(t, room(2))
	target := newTarget("target-1")
	l.create(target)
	target = l.waitPhase("target-1", v1alpha1.TargetPXE)
	l.create(newTarget("target-2"))
	l.waitsFor("target-2", v1alpha1.ReasonHostFull, "")
	// The manager is away when the object is lost, so that it cannot clean up.
	l.stopManager()
	update(l, l.target("target-1"), func(o *v1alpha1.BareMetalTarget) { o.Finalizers = nil })
	l.must(l.client.Delete(l.ctx, target))
	l.waitGone(target)
	l.start()
	l.waitReadyServer("lab")
	second := l.target("target-2")
	l.reconciled(second)
	l.checkStarts(second, 0)
	if got := report(); got.Machines != 2 {
		t.Errorf("got %d machines, want the server and the one without an object", got.Machines)
	}
	_, err := l.machines.Stop(l.ctx, string(target.UID), machine.StopOptions{})
	l.must(err)
	l.waitPhase("target-2", v1alpha1.TargetPXE)
}

// A target that is paused, or blocked by something else, does not keep others waiting.
func TestBlockedTargetGivesUpItsPlace(t *testing.T) {
	l, report := limitedLab(t, room(2))
	l.create(newTarget("target-1"))
	first := l.waitPhase("target-1", v1alpha1.TargetPXE)
	l.create(newTarget("target-2"))
	l.waitsFor("target-2", v1alpha1.ReasonHostFull, "")
	l.create(newTarget("target-3"))
	l.waitsFor("target-3", v1alpha1.ReasonHostFull, "")
	second := l.target("target-2")
	update(l, second, func(o *v1alpha1.BareMetalTarget) { o.Annotations = map[string]string{v1alpha1.PausedAnnotation: ""} })
	l.eventually(func() string {
		w := report().Waiting
		return missing(len(w) == 1 && w[0].Name == "target-3", "%v wait", w)
	})
	update(l, first, func(o *v1alpha1.BareMetalTarget) { o.Spec.Power = v1alpha1.PowerOff })
	l.waitPhase("target-3", v1alpha1.TargetPXE)
	l.waitTarget("target-2", "reported as paused", func(o *v1alpha1.BareMetalTarget) bool {
		return strings.Contains(o.Status.Message, "paused")
	})
}

// unstartable is a runner that cannot start one machine.
type unstartable struct {
	*machines
	name string
}

func (u *unstartable) Start(ctx context.Context, m machine.Machine) error {
	if m.Name == u.name {
		return errors.New("it cannot be started")
	}
	return u.machines.Start(ctx, m)
}

// A target whose start fails again and again does not keep others waiting.
func TestTargetThatCannotStartHoldsNoMemory(t *testing.T) {
	l, _ := limitedLab(t, room(2))
	adapt := l.adapt
	l.adapt = func(h *controllers.Host) {
		adapt(h)
		h.Machines = &unstartable{l.machines, l.ns + "/target-1"}
	}
	l.restart()
	l.waitReadyServer("lab")
	l.create(newTarget("target-1"))
	l.waitCondition(l.target("target-1"), v1alpha1.ConditionProgressing, "False", v1alpha1.ReasonFailed, "it cannot be started")
	l.create(newTarget("target-2"))
	l.waitPhase("target-2", v1alpha1.TargetPXE)
}

// A target whose files cannot be read gives back its memory when its machine ends.
func TestTargetWithDamagedRecordHoldsNoMemory(t *testing.T) {
	l, _ := limitedLab(t, room(2))
	l.create(newTarget("target-1"))
	first := l.waitPhase("target-1", v1alpha1.TargetPXE)
	l.create(newTarget("target-2"))
	l.waitsFor("target-2", v1alpha1.ReasonHostFull, "")
	l.must(os.WriteFile(filepath.Join(l.machineDir(first), "disks.json"), []byte("{"), 0o600))
	l.machines.crash(string(first.UID))
	l.waitPhase("target-2", v1alpha1.TargetPXE)
}

// hanging is a runner that does not answer for one machine until the gate is open.
type hanging struct {
	*machines
	id   string
	gate chan struct{}
}

func (h *hanging) Observe(ctx context.Context, id string) (machine.State, error) {
	if id == h.id {
		<-h.gate
	}
	return h.machines.Observe(ctx, id)
}

// A server whose reconciliation hangs does not keep the targets of the host off for ever.
func TestTargetsStartBesideServerThatHangs(t *testing.T) {
	l, _ := limitedLab(t, room(2))
	set := func(power v1alpha1.PowerState) {
		update(l, l.target("target-1"), func(o *v1alpha1.BareMetalTarget) { o.Spec.Power = power })
	}
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	set(v1alpha1.PowerOff)
	l.waitPhase("target-1", v1alpha1.TargetStopped)
	gate, adapt := make(chan struct{}), l.adapt
	defer close(gate)
	server := string(l.server("lab").UID)
	l.adapt = func(h *controllers.Host) {
		adapt(h)
		h.Machines = &hanging{l.machines, server, gate}
	}
	l.restart()
	set(v1alpha1.PowerOn)
	l.waitCondition(target, v1alpha1.ConditionProgressing, "True", v1alpha1.ReasonStarting, "servers are started before targets")
	l.checkStarts(target, 1)
	l.sleep(3 * time.Minute)
	l.eventually(func() string {
		starts := l.machines.starts(string(target.UID))
		return missing(starts == 2, "the target was started %d times", starts)
	})
}

// On a full host, a target that waits costs as much as one that does not, however many
// wait.
func TestCostPerTargetIsConstantOnFullHost(t *testing.T) {
	numbers := []int{10, 20}
	var costs []cost
	for _, n := range numbers {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			c := costOnFullHost(t, n)
			t.Logf("%d targets: %s", n, c)
			costs = append(costs, c)
		})
	}
	if len(costs) < len(numbers) {
		t.FailNow()
	}
	compareCosts(t, numbers, costs)
}

// costOnFullHost returns the cost of targets of which five run at a time: one that is
// Ready is powered off.
func costOnFullHost(t *testing.T, targets int) cost {
	l, writes := newCountedLab(t)
	l.adapt = func(h *controllers.Host) { h.Capacity = controllers.NewCapacity(room(1 + 5)) }
	l.restart()
	l.waitReadyServer("lab")
	guests := l.runGuests("lab", l.machines.Fake)
	defer guests()
	looks, written := l.machines.looks(), writes.all()
	for i := range targets {
		l.create(newTarget(fmt.Sprintf("target-%d", i)))
	}
	off := map[string]bool{}
	l.eventually(func() string {
		list := &v1alpha1.BareMetalTargetList{}
		l.must(l.client.List(l.ctx, list, client.InNamespace(l.ns)))
		for i := range list.Items {
			if o := &list.Items[i]; o.Status.Phase == v1alpha1.TargetReady && !off[o.Name] {
				off[o.Name] = true
				update(l, o, func(o *v1alpha1.BareMetalTarget) { o.Spec.Power = v1alpha1.PowerOff })
			}
		}
		return missing(len(off) == targets, "%d targets have been Ready", len(off))
	})
	l.waitAll(targets, v1alpha1.TargetStopped)
	n := float64(targets)
	return cost{looks: float64(l.machines.looks()-looks) / n, writes: float64(writes.all()-written) / n}
}
