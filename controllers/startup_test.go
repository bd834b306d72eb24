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
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers"
	"github.com/pxelab/pxelab/internal/labdown"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi/session"
)

// unobserved lists the objects of the lab that the manager has not observed, as
// "Kind name".
func (l *lab) unobserved() []string {
	l.t.Helper()
	all, err := (&controllers.Access{Client: cluster.client, Set: l.set}).Unobserved(l.ctx)
	l.must(err)
	var names []string
	for _, o := range all {
		if o.Namespace == l.ns {
			names = append(names, o.Kind+" "+o.Name)
		}
	}
	return names
}

func (l *lab) waitObserved() {
	l.t.Helper()
	l.eventually(func() string {
		if left := l.unobserved(); len(left) > 0 {
			return "not observed: " + strings.Join(left, ", ")
		}
		return ""
	})
}

// history are the states of one kind of object that the API has reported since watch.
type history struct {
	mu     sync.Mutex
	states map[string][]client.Object // by name
}

// watch records the states of the lab's objects from now on, until the test ends.
func (l *lab) watch(list client.ObjectList) *history {
	l.t.Helper()
	c, err := client.NewWithWatch(cluster.admin, client.Options{Scheme: cluster.scheme})
	l.must(err)
	l.must(c.List(l.ctx, list, client.InNamespace(l.ns)))
	stream, err := c.Watch(l.ctx, list, client.InNamespace(l.ns), &client.ListOptions{
		Raw: &metav1.ListOptions{ResourceVersion: list.GetResourceVersion()},
	})
	l.must(err)
	h := &history{states: map[string][]client.Object{}}
	var reading sync.WaitGroup
	reading.Go(func() {
		for event := range stream.ResultChan() {
			o, ok := event.Object.(client.Object)
			if !ok || event.Type != watch.Modified {
				continue
			}
			h.mu.Lock()
			h.states[o.GetName()] = append(h.states[o.GetName()], o)
			h.mu.Unlock()
		}
	})
	l.t.Cleanup(func() {
		stream.Stop()
		reading.Wait()
	})
	return h
}

// of returns the recorded states of an object.
func (h *history) of(name string) []client.Object {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.states[name])
}

func readyOf(o client.Object) metav1.Condition {
	if c := meta.FindStatusCondition(conditionsOf(o), v1alpha1.ConditionReady); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// checkNeverReady checks that no state of an object was Ready.
func (h *history) checkNeverReady(t *testing.T, name string) {
	t.Helper()
	for i, o := range h.of(name) {
		phase := ""
		switch o := o.(type) {
		case *v1alpha1.BareMetalTarget:
			phase = string(o.Status.Phase)
		case *v1alpha1.ProvisioningServer:
			phase = string(o.Status.Phase)
		}
		if ready := readyOf(o); ready.Status == metav1.ConditionTrue || phase == "Ready" {
			t.Errorf("%s, write %d of the new manager: got phase %s, Ready=%s, want it not Ready before it was observed",
				name, i, phase, ready.Status)
		}
	}
}

// gated is a Runner that answers reconcilers once the gate is open.
type gated struct {
	*machines
	gate chan struct{}
}

func (g *gated) Observe(ctx context.Context, id string) (machine.State, error) {
	select {
	case <-g.gate:
	case <-ctx.Done():
		return machine.State{}, ctx.Err()
	}
	return g.machines.Observe(ctx, id)
}

// gate makes the reconcilers of managers that start wait until open is called.
func (l *lab) gate() (open func()) {
	gate := make(chan struct{})
	open = sync.OnceFunc(func() { close(gate) })
	l.t.Cleanup(open)
	l.adapt = func(h *controllers.Host) { h.Machines = &gated{l.machines, gate} }
	return open
}

// A manager that starts after its machines were killed replaces their statuses before the
// reconcilers have reached them, and leaves those of machines that run alone.
func TestStartupReplacesStaleStatuses(t *testing.T) {
	l, writes := newCountedLab(t)
	l.create(newTarget("gone"), newTarget("kept"))
	gone, kept := l.becomesReady("gone"), l.becomesReady("kept")
	l.stopManager()
	l.machines.crash(string(gone.UID))
	before := writes.of("baremetaltargets/kept")
	targets := l.watch(&v1alpha1.BareMetalTargetList{})
	open := l.gate()
	l.start()
	l.waitCondition(gone, v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonNotYetObserved, "not observed yet")
	gone = l.target("gone")
	if gone.Status.Phase != v1alpha1.TargetPending || gone.Status.Power != v1alpha1.PowerOff {
		t.Errorf("got phase %s, power %s, want Pending and Off", gone.Status.Phase, gone.Status.Power)
	}
	if got := l.unobserved(); !slices.Contains(got, "BareMetalTarget gone") || !slices.Contains(got, "BareMetalTarget kept") {
		t.Errorf("got unobserved objects %q, want both targets", got)
	}
	if got := l.target("kept"); readyOf(got).Status != metav1.ConditionTrue || got.Status.Phase != v1alpha1.TargetReady {
		t.Errorf("target whose machine runs: got phase %s, want Ready", got.Status.Phase)
	}
	open()
	l.waitPhase("gone", v1alpha1.TargetBooting)
	l.waitObserved()
	targets.checkNeverReady(t, "gone")
	l.answers(gone)
	l.waitPhase("gone", v1alpha1.TargetReady)
	if got := writes.of("baremetaltargets/kept") - before; got != 0 {
		t.Errorf("target whose machine runs: got %d writes of its status, want none", got)
	}
	l.checkStarts(kept, 1)
	l.checkStarts(gone, 2)
}

// The same for a server: what depends on its netbootd is unknown as well.
func TestStartupReplacesStaleServer(t *testing.T) {
	l := up(t)
	server := l.server("lab")
	l.stopManager()
	l.machines.crash(string(server.UID))
	servers := l.watch(&v1alpha1.ProvisioningServerList{})
	open := l.gate()
	l.start()
	for _, kind := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionAgentConnected, v1alpha1.ConditionDHCPReady} {
		l.waitCondition(server, kind, metav1.ConditionUnknown, v1alpha1.ReasonNotYetObserved, "not observed yet")
	}
	servers.checkNeverReady(t, "lab")
	if server.Status.Phase != v1alpha1.ServerPending || server.Status.PoweredOnAt != nil {
		t.Errorf("got phase %s, power-on %v, want Pending and none", server.Status.Phase, server.Status.PoweredOnAt)
	}
	open()
	l.waitReadyServer("lab")
	l.waitObserved()
	l.checkStarts(server, 2)
}

// No watcher sees Ready between the start of a manager and what it observed, also while
// the reconcilers and the pass at the start compete.
func TestRestartAfterCrashShowsNoStaleReady(t *testing.T) {
	const n = 10
	l := up(t)
	stop := l.runGuests("lab", l.machines.Fake)
	for i := range n {
		l.create(newTarget(fmt.Sprintf("target-%d", i)))
	}
	l.waitAll(n, v1alpha1.TargetReady)
	stop()
	l.stopManager()
	server := l.server("lab")
	l.machines.crash(string(server.UID))
	for i := range n {
		l.machines.crash(string(l.target(fmt.Sprintf("target-%d", i)).UID))
	}
	targets, servers := l.watch(&v1alpha1.BareMetalTargetList{}), l.watch(&v1alpha1.ProvisioningServerList{})
	l.start()
	l.waitAll(n, v1alpha1.TargetBooting)
	for i := range n {
		targets.checkNeverReady(t, fmt.Sprintf("target-%d", i))
	}
	for i, o := range servers.of("lab") {
		if s := o.(*v1alpha1.ProvisioningServer); s.Status.Phase == v1alpha1.ServerReady && s.Status.PoweredOnAt.Equal(server.Status.PoweredOnAt) {
			t.Errorf("server, write %d: got Ready since the power-on before the crash", i)
		}
	}
	defer l.runGuests("lab", l.machines.Fake)()
	l.waitAll(n, v1alpha1.TargetReady)
	l.waitObserved()
}

// A restart of the manager writes next to nothing for targets that run.
func TestRestartWritesNothingForRunningTargets(t *testing.T) {
	n, most := 20, 5
	if fullLoad() {
		n = 200
	}
	l, writes := newCountedLab(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit+time.Duration(n)*2*time.Second)
	defer cancel()
	l.ctx = ctx
	large := newServer("large")
	large.Spec.Network.CIDR = "10.99.0.0/20"
	l.create(large)
	l.waitReadyServer("large")
	defer l.runGuests("large", l.machines.Fake)()
	for i := range n {
		target := newTarget(fmt.Sprintf("target-%d", i))
		target.Spec.ProvisioningServerRef.Name = "large"
		l.create(target)
	}
	l.waitAll(n, v1alpha1.TargetReady)
	l.waitObserved()
	l.stopManager()
	before := writes.all()
	began := time.Now()
	l.start()
	l.waitObserved()
	t.Logf("%d targets: observed %s after the start", n, time.Since(began).Round(time.Millisecond))
	for i := range n {
		if got := l.target(fmt.Sprintf("target-%d", i)); got.Status.Phase != v1alpha1.TargetReady {
			t.Errorf("%s: got phase %s, want Ready", got.Name, got.Status.Phase)
		}
	}
	if got := writes.all() - before; got > most {
		t.Errorf("%d targets that run: got %d writes of statuses, want at most %d", n, got, most)
	}
}

// unreachable are sessions that fail to connect.
type unreachable struct{ connecting }

func (u *unreachable) Observe(string) session.Observation {
	return session.Observation{Error: errors.New("connection refused")}
}

// A target whose machine runs is not reported as Ready when its server does not respond to
// the manager that runs now, and is Ready again when it does.
func TestTargetIsNotReadyUnobserved(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	l.stopManager()
	l.sessions = &unreachable{}
	l.start()
	l.waitCondition(target, v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonNotYetObserved,
		"the provisioning server does not respond")
	if target.Status.Phase != v1alpha1.TargetPending || target.Status.Power != v1alpha1.PowerOn {
		t.Errorf("got phase %s, power %s, want Pending and On", target.Status.Phase, target.Status.Power)
	}
	l.reconciled(target)
	if got := l.unobserved(); !slices.Contains(got, "BareMetalTarget target-1") {
		t.Errorf("got unobserved objects %q, want the target", got)
	}
	l.stopManager()
	l.sessions = nil
	l.start()
	l.waitPhase("target-1", v1alpha1.TargetReady)
	l.waitObserved()
	l.checkStarts(target, 1)
}

// A target that cannot be observed because of its files is not reported as Ready either.
func TestTargetIsNotReadyWithDamagedRecord(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	l.stopManager()
	path := filepath.Join(l.machineDir(target), "disks.json")
	record, err := os.ReadFile(path)
	l.must(err)
	l.must(os.WriteFile(path, []byte("{"), 0o600))
	l.start()
	l.waitCondition(target, v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonNotYetObserved, "running since")
	l.waitCondition(target, v1alpha1.ConditionProgressing, metav1.ConditionFalse, v1alpha1.ReasonFailed, "disks.json")
	l.eventually(func() string {
		if got := l.unobserved(); !slices.Equal(got, []string{"BareMetalTarget target-1"}) {
			return fmt.Sprintf("got unobserved objects %q, want the target", got)
		}
		return ""
	})
	l.must(os.WriteFile(path, record, 0o600))
	l.set.TargetsObserved([]string{string(target.UID)})
	l.waitPhase("target-1", v1alpha1.TargetReady)
	l.waitObserved()
}

// A lab that was stopped reports that, and resumes.
func TestLabResumesAfterDown(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	l.stopManager()
	l.must(machine.StopAll(l.ctx, l.machines, machine.StopOptions{ACPITimeout: time.Second}, nil))
	states, err := l.machines.List(l.ctx)
	l.must(err)
	result, err := labdown.Record(l.ctx, labdown.Options{
		Reader: &inNamespace{cluster.client, l.ns}, Writer: cluster.client, Machines: states, Now: l.now(),
	})
	if err != nil || result.Stopped != 2 || len(result.Running) > 0 {
		t.Fatalf("got %+v, error %v, want a server and a target recorded", result, err)
	}
	if got := l.server("lab").Status.Phase; got != v1alpha1.ServerStopped {
		t.Errorf("server: got phase %s, want Stopped", got)
	}
	l.waitCondition(target, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonLabDown, "the lab was stopped")
	if target.Status.Phase != v1alpha1.TargetStopped || target.Status.Power != v1alpha1.PowerOff {
		t.Errorf("target: got phase %s, power %s, want Stopped and Off", target.Status.Phase, target.Status.Power)
	}
	targets := l.watch(&v1alpha1.BareMetalTargetList{})
	l.start()
	l.waitReadyServer("lab")
	l.waitPhase("target-1", v1alpha1.TargetBooting)
	targets.checkNeverReady(t, "target-1")
	l.answers(target)
	target = l.waitPhase("target-1", v1alpha1.TargetReady)
	l.waitObserved()
	l.checkStarts(target, 2)
	for _, o := range []client.Object{target, l.server("lab")} {
		for _, c := range conditionsOf(o) {
			if c.Reason == v1alpha1.ReasonLabDown || c.Reason == v1alpha1.ReasonNotYetObserved {
				t.Errorf("%s, Ready again: got condition %s=%s %s", o.GetName(), c.Type, c.Status, c.Reason)
			}
		}
	}
}

// inNamespace lists the objects of one namespace: the tests share a cluster.
type inNamespace struct {
	client.Client
	namespace string
}

func (c *inNamespace) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	return c.Client.List(ctx, list, append(opts, client.InNamespace(c.namespace))...)
}
