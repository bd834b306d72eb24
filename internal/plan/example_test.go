// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"fmt"
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/plan"
)

// A target whose firmware received a DHCP offer four minutes ago, but has not
// accepted it.
func ExampleTargetStatus() {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	target := &v1alpha1.BareMetalTarget{}
	target.Spec.Power = v1alpha1.PowerOn
	target.Spec.InstallGeneration = 1

	out := plan.TargetStatus(target, plan.TargetObservation{
		Machine:        machine.State{Phase: machine.PhaseRunning},
		AgentConnected: true,
		Seen:           &netbootapi.MachineState{DiscoverAt: now.Add(-4 * time.Minute)},
		StepSince:      now.Add(-4 * time.Minute),
		Now:            now,
	})
	fmt.Println(out.Phase, out.Stalled, out.Reason)
	fmt.Println(out.Message)
	// Output:
	// PXE true NoRequest
	// no progress for 4m0s at "DHCP": the firmware did not accept the DHCP offer; look for another DHCP server on the lab network
}
