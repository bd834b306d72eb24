// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
)

// This file alone reads spec.machine.simulation. What explains the state of a target
// must find a simulated fault from its effects, as it would find a real one.

// simulation returns the simulation of a machine, nil if it has the default one.
func simulation(m v1alpha1.TargetMachine) *machine.Simulation {
	s := m.Simulation
	if s == nil {
		return nil
	}
	out := &machine.Simulation{}
	if s.LinkRate != nil {
		out.LinkRate = s.LinkRate.Value()
	}
	if s.FirmwareDelay != nil {
		out.FirmwareDelay = s.FirmwareDelay.Duration
	}
	if s.BootDelay != nil {
		out.BootDelay = s.BootDelay.Duration
	}
	for _, f := range s.Faults {
		fault := machine.SimulatedFault{Type: string(f.Type), Probability: 1}
		if f.Attempts != nil {
			fault.Attempts = int(*f.Attempts)
		}
		if f.Probability != nil {
			fault.Probability = float64(*f.Probability) / 100
		}
		out.Faults = append(out.Faults, fault)
	}
	return out
}

// simulationDigest identifies the simulation of a machine; that of a machine that runs a
// guest is the same for all.
func simulationDigest(m v1alpha1.TargetMachine) string {
	if m.Runner != v1alpha1.RunnerSimulated {
		return DigestOf(nil)
	}
	return DigestOf(simulation(m))
}
