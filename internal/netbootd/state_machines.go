// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/pxelab/pxelab/internal/bootconfig/policy"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/registry"
)

// machineByMAC and its siblings return a machine that is served, or nil. The machine
// must not be modified.
func (k *stateStore) machineByMAC(mac string) *netbootapi.Machine {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.registry.ByMAC(mac)
}

func (k *stateStore) machineByAddr(a netip.Addr) *netbootapi.Machine {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.registry.ByAddr(a)
}

func (k *stateStore) machineByLabel(label string) *netbootapi.Machine {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.registry.ByLabel(label)
}

// machineByToken also returns which secret of the machine the token is, and whether it is
// in force.
func (k *stateStore) machineByToken(token string) (m *netbootapi.Machine, secret registry.Secret, inForce bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m, secret = k.registry.ByToken(token)
	if m == nil {
		return nil, "", false
	}
	_, state := k.registry.Machine(m.UID)
	if secret == registry.SecretBoot {
		return m, secret, policy.MayInstall(m, state)
	}
	return m, secret, policy.MaySeed(m, state)
}

// machine returns a stored machine, whether it is served or not, or nil.
func (k *stateStore) machine(uid string) (*netbootapi.Machine, netbootapi.MachineState) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.registry.Machine(uid)
}

// decide applies the policy to a client and the current state.
func (k *stateStore) decide(client policy.Client) policy.Decision {
	k.mu.Lock()
	defer k.mu.Unlock()
	var state netbootapi.MachineState
	if client.Machine != nil {
		_, state = k.registry.Machine(client.Machine.UID)
	}
	return policy.Decide(k.registry.Config(), state, k.registry.Has, client)
}

// update applies an observation to the machine, if it is still declared with
// the attempt that the observer saw, and wakes the watchers. A repeated warning
// is published with the next change.
func (k *stateStore) update(m *netbootapi.Machine, apply func(*netbootapi.MachineState) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	now, before := k.registry.Machine(m.UID)
	if now == nil || before.Attempt != m.Attempt {
		return errOldAttempt
	}
	after := before
	err := apply(&after)
	if reflect.DeepEqual(before, after) {
		return err
	}
	k.set(m.UID, after)
	k.unsaved[m.UID] = true
	if repeats(before, after) {
		k.deferred = true
	} else {
		k.publish()
	}
	return err
}

// set replaces the state of a stored machine; callers hold mu.
func (k *stateStore) set(uid string, state netbootapi.MachineState) {
	k.registry.EditMachine(uid, func(s *netbootapi.MachineState) { *s = state })
}

// repeats reports whether the only change is the time of the last warning.
func repeats(before, after netbootapi.MachineState) bool {
	if n := len(after.Warnings); n > 0 && n == len(before.Warnings) {
		after.Warnings = slices.Clone(after.Warnings)
		after.Warnings[n-1].At = before.Warnings[n-1].At
	}
	return reflect.DeepEqual(before, after)
}

// quiet is update for changes that are published, and saved, at once only if apply
// returns true.
func (k *stateStore) quiet(m *netbootapi.Machine, apply func(*netbootapi.MachineState) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now, s := k.registry.Machine(m.UID)
	if now == nil || s.Attempt != m.Attempt {
		return
	}
	news := apply(&s)
	k.set(m.UID, s)
	k.unsaved[m.UID] = news || k.unsaved[m.UID]
	if news {
		k.publish()
	}
}

// fetchedPlan records that a machine is served the plan of its content on a network, with
// which an installation begins: the image must follow. It returns an error if m is not the machine in force any more: its content may be another
// one then, and what is recorded as installed must be what is served.
func (k *stateStore) fetchedPlan(m *netbootapi.Machine, network *netbootapi.Network) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	now, state := k.registry.Machine(m.UID)
	if now == nil || now.Attempt != m.Attempt || !reflect.DeepEqual(now.Content, m.Content) {
		return errChanged
	}
	state.ProfileDigest = m.ProfileDigest
	state.Declared = m.Declared
	state.RootDiskName = m.RootDiskName
	state.Network = network.Address.Masked().String()
	state.ImageAt = time.Time{}
	delete(k.fetched[m.UID], fileImage)
	delete(k.resumed, m.UID)
	k.set(m.UID, state)
	k.unsaved[m.UID] = true
	k.publish()
	return nil
}

// sent records that bytes from start to end of one of a machine's files were
// sent, and returns the offset up to which the file was sent without a gap. A boot that an
// earlier run served resumes where it was interrupted.
func (k *stateStore) sent(m *netbootapi.Machine, file string, start, end int64) int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	files := k.fetched[m.UID]
	if files == nil {
		files = map[string]int64{}
		k.fetched[m.UID] = files
	}
	if _, seen := files[file]; !seen && k.resumed[m.UID] && start > 0 {
		files[file] = start
	}
	if start <= files[file] && end > files[file] {
		files[file] = end
	}
	return files[file]
}

// newBoot clears what was sent to a machine, which boots again.
func (k *stateStore) newBoot(m *netbootapi.Machine) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forgetSent(m.UID)
}

// forgetSent clears what was sent to a machine; callers hold mu.
func (k *stateStore) forgetSent(uid string) {
	delete(k.fetched, uid)
	delete(k.resumed, uid)
}

// machines calls visit, which must not block or call k, for each machine that is served,
// in no order.
func (k *stateStore) machines(visit func(*netbootapi.Machine, netbootapi.MachineState)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.registry.Served(visit)
}
