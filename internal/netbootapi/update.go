// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
)

// Position is a place in the sequence of one netbootd's changes or events.
type Position struct {
	// Store identifies the run of netbootd that counts.
	Store string
	// Sequence is the number of the last change or event before the position.
	Sequence uint64
}

// String returns the form that ParsePosition reads.
func (p Position) String() string { return fmt.Sprintf("%s:%d", p.Store, p.Sequence) }

// ParsePosition parses what String returned. The error wraps ErrInvalid.
func ParsePosition(s string) (Position, error) {
	store, text, ok := strings.Cut(s, ":")
	sequence, err := strconv.ParseUint(text, 10, 64)
	if !ok || err != nil || !ValidUID(store) {
		return Position{}, fmt.Errorf("%w: position %q is not STORE:NUMBER", ErrInvalid, s)
	}
	return Position{store, sequence}, nil
}

// Update is what changed of a netbootd's state since a Position.
type Update struct {
	// Snapshot is set if the Update is the whole state: of other machines nothing is
	// observed. It is the answer to a Position that the netbootd does not know.
	Snapshot bool
	// Server is the state but for the machines; nil if it did not change.
	Server *State
	// Machines has the machines that changed, by UID; nil for one that was removed.
	Machines map[string]*MachineState
	// Position is where the next Update continues.
	Position Position
}

// Observed is the state of one netbootd as its Updates described it. The zero value is
// that before the first.
type Observed struct {
	State    State
	Machines map[string]MachineState
	Position Position
}

// Apply applies an Update. It returns an error, and changes nothing, if the Update does
// not continue what was observed or exceeds MaxMachines: netbootd runs in a guest and
// may be hostile.
func (o *Observed) Apply(u Update) error {
	switch {
	case u.Snapshot && u.Server == nil:
		return errors.New("a whole state lacks the server's part")
	case !u.Snapshot && u.Position.Store != o.Position.Store:
		return errors.New("the state does not continue the last one")
	}
	total := 0
	if !u.Snapshot {
		total = len(o.Machines)
	}
	for uid, state := range u.Machines {
		if _, known := o.Machines[uid]; state != nil && (u.Snapshot || !known) {
			total++
		}
	}
	if total > MaxMachines {
		return fmt.Errorf("the state has more than %d machines", MaxMachines)
	}
	if u.Snapshot {
		o.Machines = map[string]MachineState{}
	}
	if u.Server != nil {
		o.State = *u.Server
	}
	for uid, state := range u.Machines {
		if state == nil {
			delete(o.Machines, uid)
		} else {
			o.Machines[uid] = *state
		}
	}
	o.Position = u.Position
	return nil
}

// Clone returns a copy that later Updates do not change.
func (o *Observed) Clone() Observed {
	return Observed{State: o.State, Machines: maps.Clone(o.Machines), Position: o.Position}
}
