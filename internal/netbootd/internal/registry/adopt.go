// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/pxelab/pxelab/internal/bootconfig/policy"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// Adoption is an entry that CheckMachine has accepted.
type Adoption struct {
	UID string
	// Entry is the entry to store: the one that was put, with the content in force if
	// that is kept.
	Entry netbootapi.Entry
	// Unchanged is set if this entry is in force already.
	Unchanged bool
	// Kept is set if an installation in progress keeps the content in force.
	Kept bool

	put     netbootapi.Entry
	machine *netbootapi.Machine
}

// CheckMachine decides what PutMachine of an entry does, and changes nothing. The error
// wraps ErrNoServer, ErrNoContent, ErrInvalid, ErrConflict, ErrTooMany or ErrMissing.
func (r *Registry) CheckMachine(uid string, put netbootapi.Entry) (*Adoption, error) {
	if r.config == nil {
		return nil, netbootapi.ErrNoServer
	}
	a, err := r.merge(uid, put)
	if err != nil {
		return nil, err
	}
	m := a.machine
	if err := m.Validate(&r.config.Network); err != nil {
		return nil, err
	}
	if err := r.conflict(m); err != nil {
		return nil, err
	}
	if r.machines[uid] == nil && len(r.machines) >= netbootapi.MaxMachines {
		return nil, fmt.Errorf("%w: %d are declared", netbootapi.ErrTooMany, len(r.machines))
	}
	if a.Kept {
		// The manager may no longer have the content that is kept, and must be able
		// to control the machine although some of it was lost.
		return a, nil
	}
	if before := r.machines[uid]; before != nil && bytes.Equal(before.entry.Content, a.Entry.Content) && m.Boot != netbootapi.BootInstall {
		// What is lost of a content in force is asked for as MissingBlobs. A manager that
		// does not have it any more must be able to control an installed machine.
		return a, nil
	}
	if err := r.content(m); err != nil {
		return nil, err
	}
	return a, nil
}

// content returns an error if the content of m is not stored as its Boot needs it.
func (r *Registry) content(m *netbootapi.Machine) error {
	if err := r.sizes(append(m.Texts(), m.Files()...)); err != nil {
		return err
	}
	if missing := r.missing(needed(m)); len(missing) > 0 {
		return &netbootapi.MissingError{Blobs: missing}
	}
	return nil
}

// needed returns the content that the Boot of m needs. The files, and the template of the
// script that starts the installer, are for an installation only; an installed system may
// request what the other texts result in at each boot.
func needed(m *netbootapi.Machine) []netbootapi.Blob {
	if m.Boot == netbootapi.BootInstall {
		return append(m.Texts(), m.Files()...)
	}
	booted := m.Content
	booted.IPXETemplate = netbootapi.Blob{}
	return booted.Texts()
}

// merge decodes an entry and completes it with the content in force, if the entry or an
// installation in progress keeps that.
func (r *Registry) merge(uid string, put netbootapi.Entry) (*Adoption, error) {
	before := r.machines[uid]
	a := &Adoption{UID: uid, Entry: put, put: put}
	if put.Content == nil {
		if before == nil {
			return nil, netbootapi.ErrNoContent
		}
		a.Entry.Content = before.entry.Content
	}
	if before != nil {
		kept := netbootapi.Entry{Content: before.entry.Content, Control: put.Control}
		m, err := kept.Machine(uid)
		if err != nil {
			return nil, err
		}
		if policy.Installing(m, Carry(before.state, m)) && !bytes.Equal(a.Entry.Content, kept.Content) {
			a.Entry, a.Kept = kept, true
		}
		a.Unchanged = same(before.entry, a.Entry)
	}
	var err error
	a.machine, err = a.Entry.Machine(uid)
	return a, err
}

// conflict returns an error if another machine has the MAC address, the address or a
// token of m.
func (r *Registry) conflict(m *netbootapi.Machine) error {
	mac, err := netbootapi.ParseMAC(m.MAC)
	if err != nil {
		return fmt.Errorf("%w: mac: %w", netbootapi.ErrInvalid, err)
	}
	for _, c := range []struct {
		other *member
		what  string
	}{
		{r.byMAC[mac.String()], "MAC address " + mac.String()},
		{r.byAddr[m.Address], "address " + m.Address.String()},
		{r.byToken[sha256.Sum256([]byte(m.Token))].member, "token"},
		{r.byToken[sha256.Sum256([]byte(m.SeedToken))].member, "seed token"},
	} {
		if c.other != nil && c.other.machine.UID != m.UID {
			return fmt.Errorf("%w: the %s belongs to %s (%s)",
				netbootapi.ErrConflict, c.what, Clip(c.other.machine.Name, maxProblem), c.other.machine.UID)
		}
	}
	return nil
}

// sizes returns an error if the size of a stored blob is not what a config or an entry
// names.
func (r *Registry) sizes(blobs []netbootapi.Blob) error {
	for _, b := range blobs {
		if size, stored := r.stored[b.Digest]; stored && size != b.Size && !r.Damaged(b) {
			return fmt.Errorf("%w: %s has %d bytes, not %d", netbootapi.ErrInvalid, b.Digest, size, b.Size)
		}
	}
	return nil
}

// missing returns which of the blobs are not stored, or damaged, each once.
func (r *Registry) missing(blobs []netbootapi.Blob) []netbootapi.Blob {
	var out []netbootapi.Blob
	for _, b := range blobs {
		if (!r.Has(b.Digest) || r.Damaged(b)) && !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	return out
}

// PutMachine puts an accepted entry in force and publishes. It reports false, and changes
// nothing, if CheckMachine would now decide otherwise: the caller starts over.
func (r *Registry) PutMachine(a *Adoption) bool {
	now, err := r.merge(a.UID, a.put)
	if err != nil || !same(now.Entry, a.Entry) || r.config == nil {
		return false
	}
	if now.Unchanged {
		return true
	}
	m := r.machines[a.UID]
	if m == nil {
		m = &member{}
		r.machines[a.UID] = m
	} else {
		r.unindex(m)
	}
	m.set(a.Entry, a.machine)
	m.state = Carry(m.state, m.machine)
	r.index(m)
	r.judge(m)
	r.touch(m)
	r.Publish()
	return true
}

// Restore stores an entry of an earlier run with the state that was observed, whether it
// can be served or not. It returns an error if the entry cannot be decoded or conflicts
// with one that is stored.
func (r *Registry) Restore(uid string, entry netbootapi.Entry, state netbootapi.MachineState) error {
	machine, err := entry.Machine(uid)
	if err != nil {
		return err
	}
	if err := r.conflict(machine); err != nil {
		return err
	}
	m := r.machines[uid]
	if m == nil {
		m = &member{}
		r.machines[uid] = m
	} else {
		r.unindex(m)
	}
	m.state = Carry(state, machine)
	m.set(entry, machine)
	r.index(m)
	r.judge(m)
	r.touch(m)
	return nil
}

// DeleteMachine removes a machine and its state, publishes, and returns the machine that
// was stored, or nil.
func (r *Registry) DeleteMachine(uid string) *netbootapi.Machine {
	m := r.machines[uid]
	if m == nil {
		return nil
	}
	r.unindex(m)
	delete(r.machines, uid)
	if m.place != nil {
		r.changedLast.Remove(m.place)
	}
	r.sequence++
	r.removed = append(r.removed, removal{uid, r.sequence})
	if extra := len(r.removed) - maxRemoved; extra > 0 {
		r.forgotten = r.removed[extra-1].at
		r.removed = append([]removal(nil), r.removed[extra:]...)
	}
	r.Publish()
	return m.machine
}

// judge sets and returns the Problem of a machine: why it is not served.
func (r *Registry) judge(m *member) string {
	m.state.Problem = ""
	if r.config == nil {
		m.state.Problem = netbootapi.ErrNoServer.Error()
	} else if err := m.machine.Validate(&r.config.Network); err != nil {
		m.state.Problem = Clip(err.Error(), maxProblem)
	}
	return m.state.Problem
}

// derive sets what follows from the entry, the state and the stored blobs.
func (r *Registry) derive(m *member) {
	m.state.Content = m.content
	m.state.Control = m.control
	m.state.Installing = policy.Installing(m.machine, m.state)
	m.state.MissingBlobs = r.missing(append(m.machine.Texts(), m.machine.Files()...))
}

func (m *member) set(entry netbootapi.Entry, machine *netbootapi.Machine) {
	m.entry = entry
	m.machine = machine
	m.content = entry.ContentDigest()
	m.control = entry.ControlDigest()
}

func (r *Registry) index(m *member) {
	if mac, err := netbootapi.ParseMAC(m.machine.MAC); err == nil {
		r.byMAC[mac.String()] = m
	}
	r.byAddr[m.machine.Address] = m
	label := Label(m.machine)
	r.byLabel[label] = append(r.byLabel[label], m)
	r.byToken[sha256.Sum256([]byte(m.machine.Token))] = bearer{m, SecretBoot}
	if m.machine.SeedToken != "" { // an entry of an earlier version has none
		r.byToken[sha256.Sum256([]byte(m.machine.SeedToken))] = bearer{m, SecretSeed}
	}
	r.name(m.machine.UID, append(m.machine.Texts(), m.machine.Files()...))
}

func (r *Registry) unindex(m *member) {
	if mac, err := netbootapi.ParseMAC(m.machine.MAC); err == nil {
		delete(r.byMAC, mac.String())
	}
	delete(r.byAddr, m.machine.Address)
	label := Label(m.machine)
	r.byLabel[label] = slices.DeleteFunc(r.byLabel[label], func(other *member) bool { return other == m })
	if len(r.byLabel[label]) == 0 {
		delete(r.byLabel, label)
	}
	delete(r.byToken, sha256.Sum256([]byte(m.machine.Token)))
	delete(r.byToken, sha256.Sum256([]byte(m.machine.SeedToken)))
	r.unname(m.machine.UID, append(m.machine.Texts(), m.machine.Files()...))
}

func same(a, b netbootapi.Entry) bool {
	return bytes.Equal(a.Content, b.Content) && bytes.Equal(a.Control, b.Control)
}
