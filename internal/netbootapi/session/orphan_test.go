// SPDX-License-Identifier: Apache-2.0

package session

import (
	"slices"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/netbootdtest"
)

func gone(m Machine) bool { return m.Connected && m.State == nil }

func TestMachineIsDeleted(t *testing.T) {
	h, w, server := started(t, netbootdtest.Options{})
	h.PutMachine("s", "m", newMachine(1))
	w.untilMachine(t, h, "m", "in force", machineInForce)
	h.DeleteMachine("s", "m")
	h.DeleteMachine("s", "m")
	w.untilMachine(t, h, "m", "deleted", gone)
	if got := server.Machines(); len(got) != 0 {
		t.Errorf("got %d machines, want none", len(got))
	}
	// It may be created again.
	h.PutMachine("s", "m", newMachine(1))
	h.DeleteMachine("s", "m")
	h.PutMachine("s", "m", newMachine(2))
	w.untilMachine(t, h, "m", "in force", machineInForce)
	if got, _ := server.Machine("m"); got.Hostname != uidOf(2) {
		t.Errorf("got machine %+v, want the last", got)
	}
}

func TestMachineIsDeletedWhenItCanBe(t *testing.T) {
	h, w, server := started(t, netbootdtest.Options{})
	h.PutMachine("s", "m", newMachine(1))
	w.untilMachine(t, h, "m", "in force", machineInForce)
	server.Stop()
	w.until(t, h, "disconnected", func(o Observation) bool { return !o.Connected })
	h.DeleteMachine("s", "m")
	h.PutMachine("s", "unknown", newMachine(2))
	h.DeleteMachine("s", "unknown")
	again := netbootdtest.Start(t, netbootdtest.Options{
		Address: server.Address(), Credentials: server.Credentials(), Saved: server.Saved(),
	})
	w.untilMachine(t, h, "m", "deleted", gone)
	if got := again.Machines(); len(got) != 0 {
		t.Errorf("got %d machines, want none", len(got))
	}
	if again.MachinePuts("unknown") != 0 {
		t.Error("a machine that was deleted before the connection was put")
	}
	// The State may arrive before the answer to the request.
	s, known := h.find("s"), 1
	for until := time.Now().Add(limit); known > 0 && time.Now().Before(until); time.Sleep(time.Millisecond) {
		s.mu.Lock()
		known = len(s.machines)
		s.mu.Unlock()
	}
	if known != 0 {
		t.Errorf("got %d machines in memory, want none", known)
	}
}

// Only machines that do not exist are deleted, and only after the grace.
func TestOrphansAreDeleted(t *testing.T) {
	first, w, server := started(t, netbootdtest.Options{})
	for n, uid := range []string{"desired", "existing", "orphan", "late"} {
		first.PutMachine("s", uid, newMachine(n))
		w.untilMachine(t, first, uid, "in force", machineInForce)
	}
	first.Close()

	const grace = 300 * time.Millisecond
	h, w := newHub(t, func(o *Options) { o.OrphanGrace = grace })
	h.PutServer("s", newConfig(60), nil)
	h.PutMachine("s", "desired", newMachine(0))
	connect(t, h, server)
	w.until(t, h, "connected", connected)
	if orphans := h.orphans(); len(orphans) != 0 {
		t.Errorf("before Retain: got orphans %v, want none", orphans)
	}
	began := time.Now()
	h.Retain("s", []string{"existing"})
	if got, want := h.orphans(), []string{"late", "orphan"}; !slices.Equal(got, want) {
		t.Errorf("after Retain: got orphans %v, want %v", got, want)
	}
	h.PutMachine("s", "late", newMachine(3))
	w.untilMachine(t, h, "orphan", "deleted", gone)
	if took := time.Since(began); took < grace {
		t.Errorf("the orphan was deleted after %v, want at least %v", took, grace)
	}
	var left []string
	for _, m := range server.Machines() {
		left = append(left, m.UID)
	}
	if want := []string{"desired", "existing", "late"}; !slices.Equal(left, want) {
		t.Errorf("got machines %v, want %v", left, want)
	}
	// What another manager adds later is an orphan too.
	other, otherWatcher := newHub(t)
	connect(t, other, server)
	other.PutMachine("s", "added", newMachine(9))
	otherWatcher.untilMachine(t, other, "added", "in force", machineInForce)
	other.Close()
	w.untilMachine(t, h, "added", "deleted", gone)
	h.Retain("s", []string{"existing", "desired"})
	if orphans := h.orphans(); len(orphans) != 0 {
		t.Errorf("at last: got orphans %v, want none", orphans)
	}
}

// A machine that does not exist gives its address to one that does, without the grace.
func TestOrphanYieldsItsAddress(t *testing.T) {
	first, w, server := started(t, netbootdtest.Options{})
	first.PutMachine("s", "lost", newMachine(1))
	w.untilMachine(t, first, "lost", "in force", machineInForce)
	first.Close()

	h, w := newHub(t, func(o *Options) { o.OrphanGrace = time.Hour })
	h.PutServer("s", newConfig(60), nil)
	connect(t, h, server)
	w.until(t, h, "connected", connected)
	h.Retain("s", []string{"new"})
	h.PutMachine("s", "new", newMachine(1))
	w.untilMachine(t, h, "new", "in force", machineInForce)
	if _, there := server.Machine("lost"); there {
		t.Error("got an entry of the lost machine, want none")
	}
}

// orphans returns the machines whose grace runs.
func (h *Hub) orphans() []string {
	s := h.find("s")
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for uid, i := range s.machines {
		if i.orphan != nil {
			out = append(out, uid)
		}
	}
	slices.Sort(out)
	return out
}

// An entry whose request failed without an answer may be in force: it is deleted.
func TestUncertainMachineIsDeleted(t *testing.T) {
	s := newServer("s", &Options{Log: logr.Discard(), ServerChanged: func(string) {}, MachinesChanged: func([]string) {}})
	l := offline(s)
	if err := l.observed(netbootapi.Update{
		Snapshot: true, Server: &netbootapi.State{Server: "config"}, Position: netbootapi.Position{Store: "a"},
	}); err != nil {
		t.Fatal(err)
	}
	s.putMachine("m", newMachine(1))
	r, _ := s.nextRequest(t.Context())
	s.deleteMachine("m")
	s.answered(l, r, netbootapi.ErrSilent)
	if r, _ := s.nextRequest(t.Context()); r.op != opDelete || r.item.uid != "m" {
		t.Errorf("got request %+v, want the deletion of m", r)
	}
}

// A machine whose object was lost is an orphan although an entry of it was put.
func TestForgottenMachineIsOrphan(t *testing.T) {
	h, w, server := started(t, netbootdtest.Options{}, func(o *Options) { o.OrphanGrace = time.Hour })
	h.PutMachine("s", "lost", newMachine(1))
	w.untilMachine(t, h, "lost", "in force", machineInForce)
	h.PutMachine("s", "new", newMachine(1))
	w.untilMachine(t, h, "new", "in conflict", func(m Machine) bool { return m.Error != nil })
	h.Forget("lost")
	if orphans := h.orphans(); len(orphans) != 0 {
		t.Errorf("before Retain: got orphans %v, want none", orphans)
	}
	h.Retain("s", []string{"new"})
	w.untilMachine(t, h, "new", "in force", machineInForce)
	if _, there := server.Machine("lost"); there {
		t.Error("got an entry of the lost machine, want none")
	}
	h.Forget("unknown")
}
