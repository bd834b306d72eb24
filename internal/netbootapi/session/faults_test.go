// SPDX-License-Identifier: Apache-2.0

package session

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/netbootdtest"
)

// A netbootd that is killed again and again while 50 machines are put has all of them in
// the end, and none is put more often than the answers that were lost require.
func TestKilledNetbootdHasAllMachines(t *testing.T) {
	const machines, kills = 50, 6
	h, w := newHub(t)
	image, path := blob(t, []byte("image"))
	server := netbootdtest.Start(t, netbootdtest.Options{})
	connect(t, h, server)
	h.PutServer("s", newConfig(60), nil)
	for n := range machines {
		d := newMachine(n)
		installs(&d, image, path)
		userData(&d, "#cloud-config\n# "+uidOf(n))
		h.PutMachine("s", uidOf(n), d)
	}
	runs := []*netbootdtest.Server{server}
	for range kills {
		// At random, after some requests of this run.
		enough := min(len(server.Machines())+rand.IntN(machines/kills), machines)
		await(t, w, "some entries", func() int { return len(server.Machines()) }, func(n int) bool { return n >= enough })
		time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
		server.Stop()
		server = netbootdtest.Start(t, netbootdtest.Options{
			Address: server.Address(), Credentials: server.Credentials(), Saved: server.Saved(),
		})
		runs = append(runs, server)
	}
	total := 0
	for n := range machines {
		w.untilMachine(t, h, uidOf(n), "in force", machineInForce)
		for _, run := range runs {
			total += run.MachinePuts(uidOf(n))
		}
	}
	if most := machines + kills*putters; total < machines || total > most {
		t.Errorf("got %d entries of %d machines, want at most %d", total, machines, most)
	}
}

// A text may be a secret: it is in no log and no error.
func TestTextsStaySecret(t *testing.T) {
	const secret = "password-of-the-text"
	var mu sync.Mutex
	var lines []string
	log := funcr.New(func(prefix, args string) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, prefix+args)
	}, funcr.Options{Verbosity: 10})
	h, w := newHub(t, func(o *Options) { o.Log = log })
	server := netbootdtest.Start(t, netbootdtest.Options{})
	connect(t, h, server)
	h.PutServer("s", newConfig(60), nil)
	d := newMachine(1)
	b := userData(&d, secret)
	d.Texts[b.Digest] = "wrong-" + secret[6:] // of the same size
	h.PutMachine("s", "m", d)
	m := w.untilMachine(t, h, "m", "the error", func(m Machine) bool { return m.Upload != nil && m.Upload.Error != nil })
	errs := []string{m.Upload.Error.Error()}
	if o := h.Observe("s"); o.Upload != nil && o.Upload.Error != nil {
		errs = append(errs, o.Upload.Error.Error())
	}
	server.RefuseMachine("m", netbootapi.ErrInvalid)
	userData(&d, secret+"2")
	h.PutMachine("s", "m", d)
	errs = append(errs, w.untilMachine(t, h, "m", "refused", func(m Machine) bool { return m.Error != nil }).Error.Error())
	server.RefuseMachine("m", nil)
	userData(&d, secret+"3")
	h.PutMachine("s", "m", d)
	w.untilMachine(t, h, "m", "in force", machineInForce)
	mu.Lock()
	defer mu.Unlock()
	if len(lines) == 0 {
		t.Error("got no log, want some lines")
	}
	for _, text := range append(lines, errs...) {
		if strings.Contains(text, secret[6:]) || strings.Contains(text, d.Control.Token) {
			t.Errorf("got %q, want it without the text and the token", text)
		}
	}
}

// offline gives a server a link that does not run.
func offline(s *server) *link {
	l := &link{server: s, renewal: make(chan struct{}, 1), cancel: func() {}}
	s.setLink(l)
	return l
}

// A state that does not continue the last one ends the connection, and the next one
// starts with the whole state.
func TestDiscontinuousStateEndsTheConnection(t *testing.T) {
	s := newServer("s", &Options{Log: logr.Discard(), ServerChanged: func(string) {}, MachinesChanged: func([]string) {}})
	l := offline(s)
	snapshot := netbootapi.Update{Snapshot: true, Server: &netbootapi.State{}, Position: netbootapi.Position{Store: "a", Sequence: 7}}
	if err := l.observed(snapshot); err != nil {
		t.Fatal(err)
	}
	err := l.observed(netbootapi.Update{Position: netbootapi.Position{Store: "b", Sequence: 8}})
	if err == nil {
		t.Fatal("got no error, want one")
	}
	if got := s.observed.Position; got != (netbootapi.Position{}) {
		t.Errorf("got position %v, want none", got)
	}
	l.disconnected(err)
	if o := s.observe(); o.Connected || o.Error == nil {
		t.Errorf("got %+v, want the error", o)
	}
}

// netbootd may be hostile: it claims to lack what it has confirmed, what an entry does not
// name, and more than an entry can name.
func TestHostileMissingContentIsBounded(t *testing.T) {
	s := newServer("s", &Options{Log: logr.Discard(), ServerChanged: func(string) {}, MachinesChanged: func([]string) {}})
	defer s.close()
	l := offline(s)
	var many []netbootapi.Blob
	for n := range 1000 {
		many = append(many, netbootapi.TextBlob(textKey, uidOf(n)))
	}
	many = append(many, netbootapi.Blob{Digest: "../x", Size: 1}, netbootapi.Blob{Digest: many[0].Digest, Size: -1})
	if err := l.observed(netbootapi.Update{
		Snapshot: true, Server: &netbootapi.State{Server: "config", MissingBlobs: many}, Position: netbootapi.Position{Store: "a"},
		Machines: map[string]*netbootapi.MachineState{"m": {MissingBlobs: many}, "other": {MissingBlobs: many}},
	}); err != nil {
		t.Fatal(err)
	}
	s.putMachine("m", newMachine(1))
	r, _ := s.nextRequest(t.Context())
	s.answered(l, r, &netbootapi.MissingError{Blobs: many})
	if n := len(s.wants); n > 2*maxNeeds {
		t.Errorf("got %d blobs that are needed, want at most %d", n, 2*maxNeeds)
	}
	if m := s.observeMachine("m"); m.Error == nil {
		t.Error("got no error, want one about content that is not available")
	}
	// The same text again and again, although it was uploaded.
	d := newMachine(1)
	b := userData(&d, "#cloud-config")
	s.putMachine("m", d)
	for range 3 {
		r, _ := s.nextRequest(t.Context())
		s.answered(l, r, &netbootapi.MissingError{Blobs: []netbootapi.Blob{b}})
		sent, _ := s.nextUpload(t.Context(), &s.lanes[laneSmall])
		s.uploaded(l, sent, nil, false)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.machines["m"]; i.queued || i.timer == nil || i.err == nil {
		t.Errorf("got queued %v, timer %v, error %v; want a pause and an error", i.queued, i.timer, i.err)
	}
}

// Older states that are still in transit do not lead to another request.
func TestOlderStatesAreNotAnswered(t *testing.T) {
	s := newServer("s", &Options{Log: logr.Discard(), ServerChanged: func(string) {}, MachinesChanged: func([]string) {}})
	defer s.close()
	l := offline(s)
	sequence := uint64(0)
	update := func(snapshot bool, state *netbootapi.MachineState) {
		t.Helper()
		sequence++
		u := netbootapi.Update{
			Snapshot: snapshot, Position: netbootapi.Position{Store: "a", Sequence: sequence},
			Machines: map[string]*netbootapi.MachineState{"m": state},
		}
		if snapshot {
			u.Server = &netbootapi.State{Server: "config"}
		}
		if err := l.observed(u); err != nil {
			t.Fatal(err)
		}
	}
	due := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.machines["m"].queued
	}
	update(true, nil)
	first := newDesired(newMachine(1))
	s.putMachine("m", newMachine(1))
	r, _ := s.nextRequest(t.Context())
	s.answered(l, r, nil)
	old := &netbootapi.MachineState{Content: "old", Control: "old"}
	update(false, old)
	if due() {
		t.Error("an older state: got a request, want none")
	}
	if s.observeMachine("m").InForce {
		t.Error("an older state: got the entry in force, want it not yet")
	}
	update(false, &netbootapi.MachineState{Content: first.content, Control: first.control})
	if due() || !s.observeMachine("m").InForce {
		t.Error("the entry's state: got it not in force, want it to be")
	}
	update(false, old)
	if !due() {
		t.Error("another entry in force: got no request, want one")
	}
	// An acceptance that no state shows is not believed for ever.
	r, _ = s.nextRequest(t.Context())
	s.answered(l, r, nil)
	s.mu.Lock()
	s.machines["m"].accepted.at = time.Now().Add(-2 * shownWithin)
	s.mu.Unlock()
	sequence++
	if err := l.observed(netbootapi.Update{Position: netbootapi.Position{Store: "a", Sequence: sequence}}); err != nil {
		t.Fatal(err)
	}
	if !due() {
		t.Error("an acceptance that is not shown: got no request, want one")
	}
}

// Machines are put in the order in which they were desired, those that failed after the
// others, and all after the config.
func TestRequestsAreInOrderOfArrival(t *testing.T) {
	s := newServer("s", &Options{Log: logr.Discard(), ServerChanged: func(string) {}, MachinesChanged: func([]string) {}})
	defer s.close()
	l := offline(s)
	if err := l.observed(netbootapi.Update{
		Snapshot: true, Server: &netbootapi.State{Server: "config"}, Position: netbootapi.Position{Store: "a", Sequence: 1},
	}); err != nil {
		t.Fatal(err)
	}
	for n := range 6 {
		s.putMachine(uidOf(n), newMachine(n))
	}
	s.putConfig(newConfig(60), nil)
	var got []string
	for range 8 {
		r, _ := s.nextRequest(t.Context())
		got = append(got, r.item.uid)
		var err error
		if len(got) == 2 {
			err = netbootapi.ErrConflict
		}
		s.answered(l, r, err)
	}
	want := []string{"", uidOf(0), uidOf(1), uidOf(2), uidOf(3), uidOf(4), uidOf(5), uidOf(0)}
	if !slices.Equal(got, want) {
		t.Errorf("got requests of %q, want %q", got, want)
	}
}

// An entry that keeps a content which no state has shown yet is put once.
func TestUnknownContentIsKeptOnce(t *testing.T) {
	s := newServer("s", &Options{Log: logr.Discard(), ServerChanged: func(string) {}, MachinesChanged: func([]string) {}})
	defer s.close()
	l := offline(s)
	if err := l.observed(netbootapi.Update{
		Snapshot: true, Server: &netbootapi.State{Server: "config"}, Position: netbootapi.Position{Store: "a", Sequence: 1},
	}); err != nil {
		t.Fatal(err)
	}
	keep := Desired{Control: newMachine(1).Control}
	s.putMachine("m", keep)
	r, _ := s.nextRequest(t.Context())
	s.answered(l, r, nil)
	if n := len(s.queue); n != 0 {
		t.Errorf("after its acceptance: got %d requests, want none", n)
	}
	if s.observeMachine("m").InForce {
		t.Error("before its state: got it in force, want it not yet")
	}
	if err := l.observed(netbootapi.Update{
		Machines: map[string]*netbootapi.MachineState{"m": {Content: "c", Control: newDesired(keep).control}},
		Position: netbootapi.Position{Store: "a", Sequence: 2},
	}); err != nil {
		t.Fatal(err)
	}
	if m := s.observeMachine("m"); len(s.queue) != 0 || !m.InForce {
		t.Errorf("with its state: got %+v and %d requests, want it in force", m, len(s.queue))
	}
}

// The update of a machine costs the same, whatever the number of the others.
func TestUpdateCostsTheOthersNothing(t *testing.T) {
	var changed []string
	cost := func(machines int) float64 {
		s := newServer("s", &Options{
			Log: logr.Discard(), ServerChanged: func(string) {},
			MachinesChanged: func(uids []string) { changed = append(changed[:0], uids...) },
		})
		defer s.close()
		l := offline(s)
		states := map[string]*netbootapi.MachineState{}
		for n := range machines {
			d := newMachine(n)
			e := newDesired(d)
			states[uidOf(n)] = &netbootapi.MachineState{Content: e.content, Control: e.control}
			s.putMachine(uidOf(n), d)
		}
		position := netbootapi.Position{Store: "a"}
		if err := l.observed(netbootapi.Update{
			Snapshot: true, Server: &netbootapi.State{Server: "config"}, Machines: states, Position: position,
		}); err != nil {
			t.Fatal(err)
		}
		if n := len(s.queue); n != 0 {
			t.Errorf("got %d requests, want none", n)
		}
		one := map[string]*netbootapi.MachineState{uidOf(0): states[uidOf(0)]}
		allocations := testing.AllocsPerRun(100, func() {
			position.Sequence++
			if err := l.observed(netbootapi.Update{Machines: one, Position: position}); err != nil {
				t.Fatal(err)
			}
		})
		if len(changed) != 1 || changed[0] != uidOf(0) {
			t.Errorf("got changes of %v, want only of %s", changed, uidOf(0))
		}
		return allocations
	}
	if few, many := cost(10), cost(500); many > few {
		t.Errorf("got %v allocations with 500 machines, want the %v with 10", many, few)
	}
}

func TestManyMachinesArePutOnce(t *testing.T) {
	const machines = 500
	h, w, server := started(t, netbootdtest.Options{})
	for n := range machines {
		d := newMachine(n)
		userData(&d, "#cloud-config")
		h.PutMachine("s", uidOf(n), d)
	}
	for n := range machines {
		w.untilMachine(t, h, uidOf(n), "in force", machineInForce)
	}
	total := 0
	for n := range machines {
		total += server.MachinePuts(uidOf(n))
	}
	if total != machines {
		t.Errorf("got %d entries, want %d", total, machines)
	}
	// Texts that are equal are in memory once.
	s := h.find("s")
	s.mu.Lock()
	first, last := s.machines[uidOf(0)].desired, s.machines[uidOf(machines-1)].desired
	s.mu.Unlock()
	for digest := range first.texts {
		if first.texts[digest] != last.texts[digest] {
			t.Error("got two copies of a text, want one")
		}
	}
	changes := w.times(uidOf(1))
	next := newMachine(0)
	next.Control.PowerOn = "on"
	h.PutMachine("s", uidOf(0), next)
	w.untilMachine(t, h, uidOf(0), "in force", machineInForce)
	if got := w.times(uidOf(1)); got != changes {
		t.Errorf("got %d changes of another machine, want none", got-changes)
	}
}

// What a Machine shows is not modified by later updates.
func TestStateIsNotModified(t *testing.T) {
	h, w, server := started(t, netbootdtest.Options{})
	h.PutMachine("s", "m", newMachine(1))
	first := w.untilMachine(t, h, "m", "in force", machineInForce).State
	before, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	server.UpdateMachine("m", func(m *netbootapi.MachineState) { m.ProfileDigest = "p" })
	w.untilMachine(t, h, "m", "the change", func(m Machine) bool { return m.State.ProfileDigest == "p" })
	after, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Errorf("got state %s, want %s", after, before)
	}
}
