// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"container/list"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// Registry is safe for use by one goroutine at a time: its owner has a lock.
type Registry struct {
	store    string
	sequence uint64
	// changed is closed by publish.
	changed chan struct{}

	state netbootapi.State
	// serverAt is the sequence of the last change of state.
	serverAt uint64
	config   *netbootapi.ServerConfig
	raw      []byte
	digest   string // of raw

	machines map[string]*member
	// changedLast has each machine, that of the latest change at its back.
	changedLast *list.List
	byMAC       map[string]*member
	byAddr      map[netip.Addr]*member
	byLabel     map[string][]*member // several if their host names are equal
	byToken     map[[sha256.Size]byte]bearer
	// removed holds the latest removals, oldest first; forgotten is the sequence of
	// the last one that it no longer has.
	removed   []removal
	forgotten uint64

	// stored holds the size of each stored blob, named the UIDs of the machines that
	// name a blob, and forServer for a program.
	stored map[string]int64
	named  map[string]map[string]struct{}
	// epoch is the highest that Admit has accepted.
	epoch int64
}

// member is one stored entry.
type member struct {
	entry   netbootapi.Entry
	machine *netbootapi.Machine // decoded entry; never modified, only replaced
	// content and control are the digests of the entry's parts.
	content, control string

	state netbootapi.MachineState
	at    uint64        // sequence of the last change of state
	place *list.Element // in changedLast, nil before the first change
}

// bearer is whose secret a token is, and which of its secrets.
type bearer struct {
	*member
	secret Secret
}

// Secret is the kind of a machine's secret.
type Secret string

// The secrets of a machine: its Token and its SeedToken.
const (
	SecretBoot Secret = "Boot"
	SecretSeed Secret = "Seed"
)

type removal struct {
	uid string
	at  uint64
}

const (
	// maxRemoved bounds the removals that a resumed stream can catch up with.
	maxRemoved = netbootapi.MaxMachines
	// forServer stands in named for the server configuration. It is not a UID.
	forServer = ""
)

// New returns an empty registry with a state to start from.
func New(state netbootapi.State) *Registry {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails (crypto/rand)
	return &Registry{
		store: hex.EncodeToString(id), changed: make(chan struct{}), sequence: 1, serverAt: 1, state: state,
		changedLast: list.New(), machines: map[string]*member{}, byMAC: map[string]*member{}, byAddr: map[netip.Addr]*member{},
		byLabel: map[string][]*member{}, byToken: map[[sha256.Size]byte]bearer{}, stored: map[string]int64{}, named: map[string]map[string]struct{}{},
	}
}

// Store identifies this run, as in Position.
func (r *Registry) Store() string { return r.store }

// Changed returns a channel that the next Publish closes.
func (r *Registry) Changed() <-chan struct{} { return r.changed }

// Publish wakes those who wait for Changed. Changes are part of Changes without it.
func (r *Registry) Publish() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// EditServer changes the server's part of the state, of which edit must replace, not
// modify, the maps and slices, and derives what follows from the configuration. It does
// not publish.
func (r *Registry) EditServer(edit func(*netbootapi.State)) {
	edit(&r.state)
	r.state.Server, r.state.MissingBlobs = "", nil
	if r.config != nil {
		r.state.Server = r.digest
		r.state.MissingBlobs = r.missing(Programs(r.config))
	}
	r.sequence++
	r.serverAt = r.sequence
}

// State returns the server's part of the state, whose maps and slices must not be
// modified.
func (r *Registry) State() netbootapi.State { return r.state }

// EditMachine changes the state of a machine and derives what follows from it; edit must
// replace, not modify, what pointers and slices refer to. It reports whether the machine
// is stored, and does not publish.
func (r *Registry) EditMachine(uid string, edit func(*netbootapi.MachineState)) bool {
	m := r.machines[uid]
	if m == nil {
		return false
	}
	edit(&m.state)
	r.touch(m)
	return true
}

// touch derives a machine's state and counts a change of it.
func (r *Registry) touch(m *member) {
	r.derive(m)
	r.sequence++
	m.at = r.sequence
	if m.place == nil {
		m.place = r.changedLast.PushBack(m)
	} else {
		r.changedLast.MoveToBack(m.place)
	}
}

// Changes returns what changed since a Position: a Snapshot if it is not one of this
// run, or too old. Its cost depends on what changed, not on the number of machines.
func (r *Registry) Changes(after netbootapi.Position) netbootapi.Update {
	since := after.Sequence
	u := netbootapi.Update{
		Machines: map[string]*netbootapi.MachineState{},
		Position: netbootapi.Position{Store: r.store, Sequence: r.sequence},
	}
	if after.Store != r.store || since > r.sequence || since < r.forgotten {
		u.Snapshot, since = true, 0
	}
	if since == r.sequence {
		return u
	}
	if r.serverAt > since {
		state := r.state
		u.Server = &state
	}
	for e := r.changedLast.Back(); e != nil; e = e.Prev() {
		m := e.Value.(*member)
		if m.at <= since {
			break
		}
		state := m.state
		u.Machines[m.machine.UID] = &state
	}
	if u.Snapshot {
		return u
	}
	for _, gone := range slices.Backward(r.removed) {
		if gone.at <= since {
			break
		}
		if r.machines[gone.uid] == nil {
			u.Machines[gone.uid] = nil
		}
	}
	return u
}

// Config returns the server configuration in force, nil before the first. It must not be
// modified.
func (r *Registry) Config() *netbootapi.ServerConfig { return r.config }

// RawConfig returns the bytes of Config as they were put.
func (r *Registry) RawConfig() []byte { return r.raw }

// Machine returns a stored machine, whether it is served or not, or nil, and its state.
// The machine must not be modified.
func (r *Registry) Machine(uid string) (*netbootapi.Machine, netbootapi.MachineState) {
	if m := r.machines[uid]; m != nil {
		return m.machine, m.state
	}
	return nil, netbootapi.MachineState{}
}

// Entry returns the entry in force of a machine, and whether there is one.
func (r *Registry) Entry(uid string) (netbootapi.Entry, bool) {
	if m := r.machines[uid]; m != nil {
		return m.entry, true
	}
	return netbootapi.Entry{}, false
}

// UIDs returns the UIDs of the stored machines, sorted.
func (r *Registry) UIDs() []string { return slices.Sorted(maps.Keys(r.machines)) }

// ByMAC and its siblings return a machine that is served, or nil. mac has the form of
// net.HardwareAddr.String.
func (r *Registry) ByMAC(mac string) *netbootapi.Machine { return served(r.byMAC[mac]) }

// ByAddr is documented with ByMAC.
func (r *Registry) ByAddr(a netip.Addr) *netbootapi.Machine { return served(r.byAddr[a]) }

// ByLabel returns the machine whose host name begins with a label, in lower case; of
// several, that with the lowest address.
func (r *Registry) ByLabel(label string) *netbootapi.Machine {
	var first *netbootapi.Machine
	for _, m := range r.byLabel[label] {
		if m := served(m); m != nil && (first == nil || m.Address.Less(first.Address)) {
			first = m
		}
	}
	return first
}

// Label returns the first label of a machine's host name, in lower case.
func Label(m *netbootapi.Machine) string {
	label, _, _ := strings.Cut(m.Hostname, ".")
	return strings.ToLower(label)
}

// ByToken returns the machine of which a token is a secret, in force or not, and which
// secret it is. It looks up by the token's digest, so that the time it takes does not
// reveal how much of a guess was right.
func (r *Registry) ByToken(token string) (*netbootapi.Machine, Secret) {
	b := r.byToken[sha256.Sum256([]byte(token))]
	return served(b.member), b.secret
}

// served returns the machine of an entry that is served.
func served(m *member) *netbootapi.Machine {
	if m == nil || m.state.Problem != "" {
		return nil
	}
	return m.machine
}

// Served calls visit for each machine that is served, in no order.
func (r *Registry) Served(visit func(*netbootapi.Machine, netbootapi.MachineState)) {
	for _, m := range r.machines {
		if machine := served(m); machine != nil {
			visit(machine, m.state)
		}
	}
}
