// SPDX-License-Identifier: Apache-2.0

package machine_test

import (
	"testing"

	"github.com/pxelab/pxelab/internal/machine"
)

func TestByID(t *testing.T) {
	state := machine.ByID([]machine.State{{ID: "a", Phase: machine.PhaseRunning}, {ID: "b", Phase: machine.PhaseStopped}})
	for id, want := range map[string]machine.Phase{
		"a": machine.PhaseRunning, "b": machine.PhaseStopped, "c": machine.PhaseNotFound,
	} {
		if got := state(id); got.Phase != want || got.ID != id {
			t.Errorf("%s: got %+v, want phase %s", id, got, want)
		}
	}
	if state("c").Phase.Alive() {
		t.Error("a machine that is not listed: got alive, want not")
	}
}
