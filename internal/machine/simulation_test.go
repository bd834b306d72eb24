// SPDX-License-Identifier: Apache-2.0

package machine_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/machine"
)

func simulated(change func(*machine.Machine)) machine.Machine {
	m := machine.Machine{
		ID: "6f0a3c9e-5d2b-4b8e-9a51-0c1d2e3f4a5b", Architecture: machine.X8664, CPUs: 1, MemoryMiB: 256, Kind: machine.KindSimulated,
		Simulation: &machine.Simulation{
			LinkRate: 1, FirmwareDelay: time.Second, BootDelay: time.Hour,
			Faults: []machine.SimulatedFault{{Type: "A", Probability: 1}, {Type: "B", Attempts: 1, Probability: 0.01}},
		},
	}
	if change != nil {
		change(&m)
	}
	return m
}

func TestValidateSimulation(t *testing.T) {
	for name, change := range map[string]func(*machine.Machine){
		"complete":  nil,
		"default":   func(m *machine.Machine) { m.Simulation = nil },
		"empty":     func(m *machine.Machine) { *m.Simulation = machine.Simulation{} },
		"a virtual": func(m *machine.Machine) { m.Kind, m.Simulation = machine.KindQEMU, nil },
	} {
		if err := simulated(change).Validate(); err != nil {
			t.Errorf("%s: got error %v, want none", name, err)
		}
	}
	fault := func(change func(*machine.SimulatedFault)) func(*machine.Machine) {
		return func(m *machine.Machine) { change(&m.Simulation.Faults[1]) }
	}
	for name, change := range map[string]func(*machine.Machine){
		"unknown kind":       func(m *machine.Machine) { m.Kind = "Other" },
		"of a virtual":       func(m *machine.Machine) { m.Kind = machine.KindQEMU },
		"negative rate":      func(m *machine.Machine) { m.Simulation.LinkRate = -1 },
		"negative delay":     func(m *machine.Machine) { m.Simulation.FirmwareDelay = -1 },
		"long delay":         func(m *machine.Machine) { m.Simulation.BootDelay = 25 * time.Hour },
		"too many faults":    func(m *machine.Machine) { m.Simulation.Faults = make([]machine.SimulatedFault, 65) },
		"fault without type": fault(func(f *machine.SimulatedFault) { f.Type = "" }),
		"fault twice":        fault(func(f *machine.SimulatedFault) { f.Type = "A" }),
		"negative attempts":  fault(func(f *machine.SimulatedFault) { f.Attempts = -1 }),
		"no probability":     fault(func(f *machine.SimulatedFault) { f.Probability = 0 }),
		"high probability":   fault(func(f *machine.SimulatedFault) { f.Probability = 1.01 }),
		"NaN":                fault(func(f *machine.SimulatedFault) { f.Probability = math.NaN() }),
	} {
		if err := simulated(change).Validate(); !errors.Is(err, machine.ErrInvalid) {
			t.Errorf("%s: got error %v, want %v", name, err, machine.ErrInvalid)
		}
	}
}

func TestDigestOfSimulation(t *testing.T) {
	digest := simulated(nil).Digest()
	for name, change := range map[string]func(*machine.Machine){
		"rate":  func(m *machine.Machine) { m.Simulation.LinkRate++ },
		"fault": func(m *machine.Machine) { m.Simulation.Faults = m.Simulation.Faults[:1] },
		"none":  func(m *machine.Machine) { m.Simulation = nil },
		"kind":  func(m *machine.Machine) { m.Kind = machine.KindQEMU },
	} {
		if simulated(change).Digest() == digest {
			t.Errorf("%s: got the same digest, want another one", name)
		}
	}
	none := simulated(func(m *machine.Machine) { m.Simulation = nil })
	empty := simulated(func(m *machine.Machine) { *m.Simulation = machine.Simulation{} })
	if none.Digest() != empty.Digest() {
		t.Error("got different digests of the default simulation and an empty one, want the same")
	}
	// What runs must not be outdated because descriptions have more fields.
	virtual := machine.Machine{ID: none.ID, Architecture: machine.X8664, CPUs: 1, MemoryMiB: 256}
	const before = "sha256:cd49df9891f40475a81df76539af4861954fb8697a0016fb4a07ffa2f99f3d39"
	if got := virtual.Digest(); got != before {
		t.Errorf("virtual machine: got digest %s, want %s as before", got, before)
	}
}

func TestSimulatedPaths(t *testing.T) {
	const id = "6f0a3c9e-5d2b-4b8e-9a51-0c1d2e3f4a5b"
	virtual, got := machine.NewPaths("/data", "/run", id), machine.NewSimulatedPaths("/data", "/run", id)
	if got.Dir != virtual.Dir || got.Serial != virtual.Serial || got.SerialLog != virtual.SerialLog || got.Sockets != virtual.Sockets {
		t.Errorf("got paths %+v, want the directories and the serial console of %+v", got, virtual)
	}
	if got.Record == virtual.Record || got.QMP != "" || got.VNC != "" || got.Vars != "" {
		t.Errorf("got paths %+v, want another record, and no QMP, screen and firmware", got)
	}
}
