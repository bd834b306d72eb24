// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"crypto/sha256"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/pxelab/pxelab/internal/agent"
)

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
// the attempt that the observer saw, and tells the watchers. What only repeats
// itself is told with the next news.
func (k *keeper) update(m *agent.Machine, apply func(*agent.MachineState) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	s, known := k.state.Machines[m.UID]
	if !known || s.Attempt != m.Attempt {
		return errOldAttempt
	}
	before := s
	err := apply(&s)
	k.state.Machines[m.UID] = s
	switch {
	case reflect.DeepEqual(before, s):
	case repeats(before, s):
		k.untold = true
	default:
		k.publish()
	}
	return err
}

// repeats reports whether the only news is that the last warning came again.
func repeats(before, after agent.MachineState) bool {
	if n := len(after.Warnings); n > 0 && n == len(before.Warnings) {
		after.Warnings = slices.Clone(after.Warnings)
		after.Warnings[n-1].At = before.Warnings[n-1].At
	}
	return reflect.DeepEqual(before, after)
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
