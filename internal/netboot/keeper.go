// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"cmp"
	"crypto/sha256"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pxelab/pxelab/internal/agent"
)

const maxUnknown = 64

// keeper holds the configuration in force and everything observed. Its
// methods are safe for concurrent use and never block on anything but each
// other.
type keeper struct {
	now func() time.Time

	mu      sync.Mutex
	changed chan struct{}
	dirty   bool
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
	k.dirty = true
	close(k.changed)
	k.changed = make(chan struct{})
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

// setBlobs says which blobs are here whole.
func (k *keeper) setBlobs(have map[string]bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.have = have
	k.recountBlobs()
	k.publish()
}

func (k *keeper) recountBlobs() {
	k.state.MissingBlobs = nil
	if k.config == nil {
		return
	}
	for _, b := range k.config.Blobs() {
		if !k.have[b.Digest] {
			k.state.MissingBlobs = append(k.state.MissingBlobs, b)
		}
	}
}

func (k *keeper) setService(name string, s agent.Service) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.state.Services[name] == s {
		return
	}
	k.state.Services[name] = s
	k.publish()
}

func (k *keeper) dropService(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, there := k.state.Services[name]; there {
		delete(k.state.Services, name)
		k.publish()
	}
}

// stopServices marks what was serving as stopped.
func (k *keeper) stopServices() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, service := range k.state.Services {
		service.Serving = false
		k.state.Services[name] = service
	}
	k.publish()
}

func (k *keeper) setLeases(leases []agent.Lease) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state.Leases = leases
	k.publish()
}

// refuse counts a request that was turned away.
func (k *keeper) refuse(reason string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	// A flood must not wake the watchers at its own pace; the figures go out
	// with the next change or heartbeat. The first one is news.
	k.state.Refused[reason]++
	if k.state.Refused[reason] == 1 {
		k.publish()
	}
}

// sawUnknown notes a client that nobody declared.
func (k *keeper) sawUnknown(c agent.UnknownClient) {
	k.mu.Lock()
	defer k.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(k.state.Unknown), func(u agent.UnknownClient) bool {
		if u.MAC == c.MAC && !c.Address.IsValid() {
			c.Address = u.Address
		}
		if u.MAC == c.MAC && c.Architecture == "" {
			c.Architecture = u.Architecture
		}
		return u.MAC == c.MAC
	})
	list = append(list, c)
	slices.SortFunc(list, func(a, b agent.UnknownClient) int {
		return cmp.Or(b.LastSeen.Compare(a.LastSeen), cmp.Compare(a.MAC, b.MAC))
	})
	k.state.Unknown = list[:min(len(list), maxUnknown)]
	k.publish()
}

// machineByMAC and its siblings find a declared machine, nil for none. The
// machine is never written to.
func (k *keeper) machineByMAC(mac string) *agent.Machine {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.byMAC[mac]
}

func (k *keeper) machineByAddr(a netip.Addr) *agent.Machine {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.byAddr[a]
}

// machineByToken looks up by the token's digest, so that the time it takes
// says nothing about how much of a guess was right.
func (k *keeper) machineByToken(token string) *agent.Machine {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.byToken[sha256.Sum256([]byte(token))]
}

func (k *keeper) machine(uid string) (*agent.Machine, agent.MachineState) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.byUID[uid], k.state.Machines[uid]
}

// decide asks the policy about a machine as things stand.
func (k *keeper) decide(who Asker) Decision {
	k.mu.Lock()
	defer k.mu.Unlock()
	var state agent.MachineState
	if who.Machine != nil {
		state = k.state.Machines[who.Machine.UID]
	}
	return Decide(k.config, state, func(digest string) bool { return k.have[digest] }, who)
}

// update applies an observation to the machine, if it is still declared with
// the attempt that the observer saw, and tells the watchers.
func (k *keeper) update(m *agent.Machine, apply func(*agent.MachineState) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	s, known := k.state.Machines[m.UID]
	if !known || s.Attempt != m.Attempt {
		return errOldAttempt
	}
	err := apply(&s)
	k.state.Machines[m.UID] = s
	k.publish()
	return err
}

// quiet is update for what need not be told at once; apply says whether it
// must be after all.
func (k *keeper) quiet(m *agent.Machine, apply func(*agent.MachineState) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s, known := k.state.Machines[m.UID]
	if !known || s.Attempt != m.Attempt {
		return
	}
	news := apply(&s)
	k.state.Machines[m.UID] = s
	if news {
		k.publish()
	}
}

// sent notes that bytes from start to end of one of a machine's files were
// sent, and returns up to where it has been sent without a gap.
func (k *keeper) sent(m *agent.Machine, file string, start, end int64) int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	files := k.fetched[m.UID]
	if files == nil {
		files = map[string]int64{}
		k.fetched[m.UID] = files
	}
	if start <= files[file] && end > files[file] {
		files[file] = end
	}
	return files[file]
}

// newBoot forgets what was sent to a machine that starts over.
func (k *keeper) newBoot(m *agent.Machine) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.fetched, m.UID)
}

// machines lists the declared machines with their states.
func (k *keeper) machines(visit func(*agent.Machine, agent.MachineState)) {
	k.mu.Lock()
	config := k.config
	states := maps.Clone(k.state.Machines)
	k.mu.Unlock()
	if config == nil {
		return
	}
	for i := range config.Machines {
		visit(&config.Machines[i], states[config.Machines[i].UID])
	}
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
