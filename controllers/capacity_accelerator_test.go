// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"testing"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/plan"
)

// A simulated machine has no accelerator on which others would run: they would count as
// if they needed no translated code.
func TestSimulatedMachineIsNoAccelerator(t *testing.T) {
	const arch = v1alpha1.ArchitectureX86_64
	c := NewCapacity(plan.Limits{})
	c.runsOn(arch, machine.NoGuest)
	if _, got := c.limits(arch); got != "" {
		t.Errorf("got accelerator %q after a simulated machine, want none", got)
	}
	c.runsOn(arch, machine.TCG)
	c.runsOn(arch, machine.NoGuest)
	if _, got := c.limits(arch); got != machine.TCG {
		t.Errorf("got accelerator %q after a simulated machine, want %s", got, machine.TCG)
	}
}
