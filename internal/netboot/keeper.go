// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"crypto/sha256"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pxelab/pxelab/internal/agent"
)

// keeper holds the configuration in force and everything observed. Its
// methods are safe for concurrent use and never block on anything but each
// other.
type keeper struct {
	now func() time.Time

	mu      sync.Mutex
	changed chan struct{}
	dirty   bool
	// untold: something changed that strangers can cause at any pace. It is
	// told with the next news, or by tell.
	untold  bool
	config  *agent.Config
	digest  string
	state   agent.State
	have    map[string]bool
	byMAC   map[string]*agent.Machine
	byAddr  map[netip.Addr]*agent.Machine
	byToken map[[sha256.Size]byte]*agent.Machine
	byUID   map[string]*agent.Machine
	// fetched is what a machine got of its present boot, by UID.
	fetched map[string]map[string]int64
}

func newKeeper(version string, now func() time.Time) *keeper {
	return &keeper{
		now:     now,
		changed: make(chan struct{}),
		state: agent.State{
			Version: version, StartedAt: now().UTC(),
			Services: map[string]agent.Service{},
			Machines: map[string]agent.MachineState{},
			Refused:  map[string]int64{},
		},
		have:    map[string]bool{},
		fetched: map[string]map[string]int64{},
	}
}

// observe returns a copy of the state that nobody will change.
func (k *keeper) observe() (agent.State, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.state
	s.Services = maps.Clone(s.Services)
	s.Machines = maps.Clone(s.Machines)
	s.Refused = maps.Clone(s.Refused)
	s.Leases = slices.Clone(s.Leases)
	s.Unknown = slices.Clone(s.Unknown)
	// Values behind MachineState's pointers and slices are replaced, never
	// written to.
	return s, k.changed
}

// publish tells the watchers; callers hold mu.
func (k *keeper) publish() {
	k.dirty, k.untold = true, false
	close(k.changed)
	k.changed = make(chan struct{})
}

// tell tells the watchers what was put off. It is called once a second: a
// flood of requests must not make everybody who watches work.
func (k *keeper) tell() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.untold {
		k.publish()
	}
}

// takeDirty reports whether there is news since it was last asked.
func (k *keeper) takeDirty() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	was := k.dirty
	k.dirty = false
	return was
}

// setConfig puts a valid configuration in force.
func (k *keeper) setConfig(c *agent.Config) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.config, k.digest = c, c.Digest()
	k.byMAC = map[string]*agent.Machine{}
	k.byAddr = map[netip.Addr]*agent.Machine{}
	k.byToken = map[[sha256.Size]byte]*agent.Machine{}
	k.byUID = map[string]*agent.Machine{}
	machines := map[string]agent.MachineState{}
	for i := range c.Machines {
		m := &c.Machines[i]
		mac, err := agent.ParseMAC(m.MAC)
		if err != nil {
			continue // Validate has refused such a document.
		}
		k.byMAC[mac.String()] = m
		k.byAddr[m.Address] = m
		k.byToken[sha256.Sum256([]byte(m.Token))] = m
		k.byUID[m.UID] = m
		before := k.state.Machines[m.UID]
		machines[m.UID] = forConfig(before, m)
		if before.Attempt != m.Attempt {
			delete(k.fetched, m.UID)
		}
	}
	for uid := range k.fetched {
		if k.byUID[uid] == nil {
			delete(k.fetched, uid)
		}
	}
	k.state.Machines = machines
	k.state.ConfigDigest, k.state.ConfigError = k.digest, ""
	k.state.Unknown = slices.DeleteFunc(slices.Clone(k.state.Unknown), func(u agent.UnknownClient) bool {
		return k.byMAC[u.MAC] != nil
	})
	k.recountBlobs()
	k.publish()
}

func (k *keeper) startedAt() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state.StartedAt
}

// configGood forgets why another configuration is not in force.
func (k *keeper) configGood() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.state.ConfigError != "" {
		k.state.ConfigError = ""
		k.publish()
	}
}

func (k *keeper) configFailed(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state.ConfigError = clip(err.Error())
	k.publish()
}

// current returns the configuration in force, nil before the first. It is
// never written to.
func (k *keeper) current() *agent.Config {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.config
}

// restore takes over an earlier run's observations, before any configuration.
func (k *keeper) restore(saved savedState) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if saved.Machines != nil {
		k.state.Machines = saved.Machines
	}
	k.state.Unknown = saved.Unknown
}
