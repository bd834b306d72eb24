// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"testing"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// A report that waits for the entry of its machine is woken by that entry alone.
func TestEntryChangedIsClosedByTheEntryOfTheMachine(t *testing.T) {
	s := newIdle(t, 2)
	first, second := s.state.entryChanged(idleUID(0)), s.state.entryChanged(idleUID(1))
	closed := func(changed <-chan struct{}) bool {
		select {
		case <-changed:
			return true
		default:
			return false
		}
	}
	m, _ := s.state.machine(idleUID(0))
	err := s.state.update(m, func(state *netbootapi.MachineState) error {
		state.ScriptAt = s.state.now()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if closed(first) || closed(second) {
		t.Error("after an observation: got a channel closed, want none")
	}
	next := *m
	next.BootConfirmed = m.Attempt
	next.Boot = netbootapi.BootDisk // needs no files, of which none are stored
	entry := netbootapi.Entry{Control: entryOf(&next).Control}
	if err := (backend{s}).PutMachine(t.Context(), idleUID(0), entry); err != nil {
		t.Fatal(err)
	}
	if !closed(first) || closed(second) {
		t.Errorf("after an entry: got closed %t and that of another machine %t, want true and false", closed(first), closed(second))
	}
	if closed(s.state.entryChanged(idleUID(0))) {
		t.Error("after an entry: got a closed channel, want one that waits for the next entry")
	}
	if err := (backend{s}).DeleteMachine(t.Context(), idleUID(1)); err != nil {
		t.Fatal(err)
	}
	if !closed(second) {
		t.Error("after the removal of the machine: got the channel open, want it closed")
	}
}
