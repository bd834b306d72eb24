// SPDX-License-Identifier: Apache-2.0

package session

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// server is what is desired and known of one server. It outlives its links.
type server struct {
	name    string
	options *Options
	log     logr.Logger

	mu sync.Mutex
	// wake is broadcast when there may be work for the goroutines of the link.
	wake *sync.Cond
	link *link // nil before Connect

	connected  bool
	generation int // counts the connections
	untrusted  bool
	err        error
	renewErr   error
	observed   netbootapi.Observed
	base       base
	events     netbootapi.Position

	config   *item
	machines map[string]*item // desired or observed
	retained map[string]bool  // nil before Retain
	queue    []*item          // machines with a request that is due, in order of arrival
	unshown  map[*item]bool   // items with an acceptance
	wants    map[string]*want // by digest
	lanes    [lanes]lane
}

// base is what netbootd judges an entry by, besides the entry.
type base struct {
	started time.Time
	config  string
}

func newServer(name string, o *Options) *server {
	s := &server{
		name: name, options: o, log: o.Log.WithValues("server", name),
		config:   &item{},
		machines: map[string]*item{}, unshown: map[*item]bool{}, wants: map[string]*want{},
	}
	s.wake = sync.NewCond(&s.mu)
	return s
}

// changes are what the callbacks are called for once the lock is released.
type changes struct {
	server   bool
	machines []string
}

func (c *changes) add(i *item) {
	if i.uid == "" {
		c.server = true
	} else {
		c.machines = append(c.machines, i.uid)
	}
}

func (s *server) report(c changes) {
	if c.server {
		s.options.ServerChanged(s.name)
	}
	if len(c.machines) > 0 {
		slices.Sort(c.machines)
		s.options.MachinesChanged(slices.Compact(c.machines))
	}
}

// item returns the machine, which it creates if it is unknown.
func (s *server) item(uid string) *item {
	i := s.machines[uid]
	if i == nil {
		i = &item{uid: uid}
		s.machines[uid] = i
	}
	return i
}

// prune forgets a machine of which nothing is desired or known.
func (s *server) prune(i *item) {
	settled := s.connected && (!i.deleting || !i.exists())
	if i.desired == nil && i.state == nil && !i.busy && settled {
		delete(s.machines, i.uid)
		delete(s.unshown, i)
		i.reset()
	}
}

func (s *server) putConfig(config netbootapi.ServerConfig, files map[string]string) {
	raw := config.Encode()
	next := &desired{digests: digests{content: netbootapi.Digest(raw)}, entry: netbootapi.Entry{Content: raw}, install: true}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(s.config, next, files, nil)
}

func (s *server) putMachine(uid string, d Desired) {
	next := newDesired(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(s.item(uid), next, d.Files, d.Texts)
}

// put sets what is desired of an item.
func (s *server) put(i *item, next *desired, files, texts map[string]string) {
	if last := i.desired; last != nil && last.digests == next.digests {
		if last.supply(files, texts) {
			s.syncNeeds(i)
		}
		return
	}
	next.supply(files, texts)
	if i.desired != nil && i.desired.content != "" && i.desired.content == i.shown.content {
		i.kept = i.desired
	}
	if i.desired == nil || i.desired.content != next.content {
		i.stock = nil
	}
	i.desired = next
	i.deleting = false
	i.reset()
	s.dropKept(i)
	s.watchOrphan(i)
	s.keepNeeds(i)
	s.check(i)
}

// dropKept forgets the kept content unless netbootd has it while another one is desired.
func (s *server) dropKept(i *item) {
	if i.kept != nil && (i.kept.content != i.shown.content || i.desired == nil || i.kept.content == i.desired.content) {
		i.kept = nil
	}
}

func (s *server) deleteMachine(uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.machines[uid]; i != nil {
		s.delete(i)
	}
}

func (s *server) delete(i *item) {
	if i.deleting {
		return
	}
	i.desired, i.kept = nil, nil
	i.deleting = true
	i.reset()
	s.watchOrphan(i)
	s.syncNeeds(i)
	s.check(i)
	s.prune(i)
}

func (s *server) forgetMachine(uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.machines[uid]
	if i == nil || i.desired == nil {
		return
	}
	i.desired, i.kept = nil, nil
	i.reset()
	s.watchOrphan(i)
	s.syncNeeds(i)
	s.prune(i)
}

func (s *server) retain(uids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retained = make(map[string]bool, len(uids))
	for _, uid := range uids {
		s.retained[uid] = true
	}
	for _, i := range s.machines {
		s.watchOrphan(i)
	}
}

// watchOrphan starts or ends the grace of a machine that netbootd has and that neither
// exists nor is desired.
func (s *server) watchOrphan(i *item) {
	orphan := s.retained != nil && !s.retained[i.uid] && i.state != nil && i.desired == nil && !i.deleting
	switch {
	case !orphan && i.orphan != nil:
		i.orphan.Stop()
		i.orphan = nil
	case orphan && i.orphan == nil:
		i.orphan = s.after(s.options.OrphanGrace, &i.orphan, func() { s.deleteOrphan(i) })
	}
}

// endGrace deletes all orphans at once: one of them may have the address of a machine
// that exists.
func (s *server) endGrace() {
	for _, i := range s.machines {
		if i.orphan != nil {
			s.deleteOrphan(i)
		}
	}
}

func (s *server) deleteOrphan(i *item) {
	s.log.Info("Deleting a machine that does not exist", "uid", i.uid)
	s.delete(i)
}

// after returns a timer that calls f with the lock held, unless slot has another timer
// by then. It sets slot to nil first.
func (s *server) after(d time.Duration, slot **time.Timer, f func()) *time.Timer {
	var timer *time.Timer
	timer = time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if *slot == timer {
			*slot = nil
			f()
		}
	})
	return timer
}

func (s *server) observe() Observation {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := Observation{
		Connected: s.connected, State: s.observed.State, Error: s.err,
		PutError: s.config.problem(), Upload: s.upload(), Pending: len(s.wants),
		Untrusted: s.untrusted, RenewError: s.renewErr,
	}
	if s.config.desired != nil {
		o.Wanted = s.config.desired.content
	}
	return o
}

func (s *server) observeMachine(uid string) Machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.machines[uid]
	if i == nil {
		return Machine{Connected: s.connected}
	}
	return Machine{
		Connected: s.connected, State: i.state, InForce: i.inForce(), Profile: i.profile(),
		Error: i.problem(), Pending: len(i.needs), Upload: i.upload(),
	}
}

func (s *server) addContent(digests map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.items() {
		for _, d := range []*desired{i.desired, i.kept} {
			if d == nil {
				continue
			}
			for digest := range d.files {
				digests[digest] = true
			}
		}
	}
}

// items yields the config and all machines.
func (s *server) items() func(yield func(*item) bool) {
	return func(yield func(*item) bool) {
		if !yield(s.config) {
			return
		}
		for i := range maps.Values(s.machines) {
			if !yield(i) {
				return
			}
		}
	}
}

// uids returns all machines that are known.
func (s *server) uids() []string { return slices.Collect(maps.Keys(s.machines)) }

// client returns the client of the link; nil before Connect.
func (s *server) client() *netbootapi.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link == nil {
		return nil
	}
	return s.link.client
}

// close ends the link and all timers.
func (s *server) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link != nil {
		s.link.cancel()
		s.link = nil
	}
	s.connected = false
	for i := range s.items() {
		i.resume()
		if i.orphan != nil {
			i.orphan.Stop()
			i.orphan = nil
		}
	}
	for _, w := range s.wants {
		w.resume()
	}
}
