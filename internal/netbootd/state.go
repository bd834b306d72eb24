// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"maps"
	"sync"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/registry"
)

// stateStore holds what is in force and all observations. Its methods are safe for
// concurrent use and block only on each other.
type stateStore struct {
	now      func() time.Time
	counters *counters

	mu       sync.Mutex
	registry *registry.Registry
	events   *registry.Events
	limits   map[string]*eventLimit
	// deferred is set after a change that guests can cause at any rate. The change
	// is published with the next other one, or by publishDeferred.
	deferred bool
	// deferredAt is when publishDeferred last published.
	deferredAt time.Time
	// unsaved holds the UIDs of machines whose observations changed since they were
	// saved: true for changes that must be saved soon.
	unsaved map[string]bool
	// unsavedUnknown is set when the undeclared clients changed since then.
	unsavedUnknown bool
	// unknown holds the undeclared clients, the last seen first; State.Unknown is
	// what is published of them.
	unknown []netbootapi.UnknownClient
	// entries holds, by UID, channels that are closed when the machine has another entry or
	// none: a hundred machines that wait for theirs must not be woken by each observation.
	entries map[string]chan struct{}
	// fetched holds, by UID and file, how many bytes of the file were sent in the
	// machine's current boot.
	fetched map[string]map[string]int64
	// resumed has the UIDs of machines that an earlier run served in their current boot.
	resumed map[string]bool
}

func newStateStore(version string, now func() time.Time) *stateStore {
	r := registry.New(netbootapi.State{
		Version: version, StartedAt: now().UTC(), Services: map[string]netbootapi.Service{}, Refused: map[string]int64{},
	})
	return &stateStore{
		now: now, counters: newCounters(), registry: r, events: registry.NewEvents(r.Store(), maxEvents), limits: map[string]*eventLimit{},
		unsaved: map[string]bool{}, fetched: map[string]map[string]int64{}, resumed: map[string]bool{},
		entries: map[string]chan struct{}{},
	}
}

// changes returns what changed since a position, and a channel that is closed at the
// next change. What it returns is never modified.
func (k *stateStore) changes(after netbootapi.Position) (netbootapi.Update, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	// The values behind pointers and slices are never modified, only replaced.
	return k.registry.Changes(after), k.registry.Changed()
}

// entryChanged returns a channel that is closed when the machine has another entry, or
// none.
func (k *stateStore) entryChanged(uid string) <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	changed := k.entries[uid]
	if changed == nil {
		changed = make(chan struct{})
		k.entries[uid] = changed
	}
	return changed
}

// announceEntry closes the channel of entryChanged; callers hold mu.
func (k *stateStore) announceEntry(uid string) {
	if changed := k.entries[uid]; changed != nil {
		close(changed)
		delete(k.entries, uid)
	}
}

// publish wakes the watchers; callers hold mu.
func (k *stateStore) publish() {
	k.deferred = false
	k.registry.Publish()
}

// deferEvery is the minimum interval between two publications of deferred changes.
const deferEvery = 5 * time.Second

// mayPublishDeferred reports whether deferEvery has passed since publishDeferred published
// something: a flood of requests must not keep the watchers busy, nor must the leases,
// which are sent whole, be collected for each machine that boots.
func (k *stateStore) mayPublishDeferred() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.deferralEnds()
}

// deferralEnds is mayPublishDeferred for a caller that holds mu.
func (k *stateStore) deferralEnds() bool {
	return k.deferredAt.IsZero() || k.now().Sub(k.deferredAt) >= deferEvery
}

// publishDeferred publishes deferred changes, at most every deferEvery.
func (k *stateStore) publishDeferred() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.deferralEnds() {
		return
	}
	k.showUnknown()
	if k.deferred {
		k.deferredAt = k.now()
		k.publish()
	}
}

// takeUnsaved returns the machines whose observations must be saved; all of them if the
// server ends.
func (k *stateStore) takeUnsaved(ending bool) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var uids []string
	for uid, soon := range k.unsaved {
		if soon || ending {
			uids = append(uids, uid)
			delete(k.unsaved, uid)
		}
	}
	return uids
}

// retrySave makes the next takeUnsaved return machines again.
func (k *stateStore) retrySave(uids ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, uid := range uids {
		k.unsaved[uid] = true
	}
}

// takeUnknown returns the undeclared clients, and whether they changed since the last
// call.
func (k *stateStore) takeUnknown() ([]netbootapi.UnknownClient, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	was := k.unsavedUnknown
	k.unsavedUnknown = false
	return append([]netbootapi.UnknownClient(nil), k.unknown...), was
}

// retryUnknown makes the next takeUnknown report a change.
func (k *stateStore) retryUnknown() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.unsavedUnknown = true
}

// restoreUnknown sets the undeclared clients of an earlier run.
func (k *stateStore) restoreUnknown(list []netbootapi.UnknownClient) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.unknown = list
	k.dropUnknown()
}

// checkServer is [registry.Registry.CheckServer].
func (k *stateStore) checkServer(c *netbootapi.ServerConfig) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.registry.CheckServer(c)
}

// putServer puts a valid configuration in force. It returns the machines that are no
// longer served.
func (k *stateStore) putServer(raw []byte, c *netbootapi.ServerConfig) (ended []*netbootapi.Machine) {
	k.mu.Lock()
	defer k.mu.Unlock()
	before := map[string]*netbootapi.Machine{}
	k.registry.Served(func(m *netbootapi.Machine, _ netbootapi.MachineState) { before[m.UID] = m })
	k.registry.PutServer(raw, c)
	k.registry.Served(func(m *netbootapi.Machine, _ netbootapi.MachineState) { delete(before, m.UID) })
	for _, m := range before {
		ended = append(ended, m)
	}
	k.dropUnknown()
	return ended
}

// checkMachine is [registry.Registry.CheckMachine].
func (k *stateStore) checkMachine(uid string, entry netbootapi.Entry) (*registry.Adoption, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.registry.CheckMachine(uid, entry)
}

// putMachine is [registry.Registry.PutMachine]; before is the machine that the entry
// replaced, nil for none.
func (k *stateStore) putMachine(a *registry.Adoption) (before *netbootapi.Machine, done bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	before, was := k.registry.Machine(a.UID)
	if !k.registry.PutMachine(a) {
		return nil, false
	}
	if _, now := k.registry.Machine(a.UID); now.Attempt != was.Attempt {
		k.forgetSent(a.UID)
	}
	k.unsaved[a.UID] = true
	k.announceEntry(a.UID)
	k.dropUnknown()
	return before, true
}

// deleteMachine removes a machine and returns it, nil if there was none.
func (k *stateStore) deleteMachine(uid string) *netbootapi.Machine {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forgetSent(uid)
	delete(k.unsaved, uid)
	delete(k.limits, uid)
	k.announceEntry(uid)
	return k.registry.DeleteMachine(uid)
}

// restoreMachine is [registry.Registry.Restore].
func (k *stateStore) restoreMachine(uid string, entry netbootapi.Entry, state netbootapi.MachineState) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.registry.Restore(uid, entry, state); err != nil {
		return err
	}
	k.resumed[uid] = !state.ScriptAt.IsZero()
	return nil
}

// admit is [registry.Registry.Admit]; it also returns the highest epoch.
func (k *stateStore) admit(epoch int64) (highest int64, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	err = k.registry.Admit(epoch)
	return k.registry.Epoch(), err
}

func (k *stateStore) startedAt() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.registry.State().StartedAt
}

// current returns the configuration in force, nil before the first. It must not
// be modified.
func (k *stateStore) current() *netbootapi.ServerConfig {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.registry.Config()
}

// rawConfig returns the configuration in force as it was put.
func (k *stateStore) rawConfig() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.registry.RawConfig()
}

// edit changes the server's part of the state without publishing it; callers hold mu.
// The maps are copies, which edit may modify.
func (k *stateStore) edit(edit func(*netbootapi.State)) {
	k.registry.EditServer(func(s *netbootapi.State) {
		s.Services = maps.Clone(s.Services)
		s.Refused = maps.Clone(s.Refused)
		edit(s)
	})
}
