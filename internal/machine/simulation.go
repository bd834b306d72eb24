// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"time"
)

// Simulation configures a simulated machine.
type Simulation struct {
	// LinkRate limits each NIC in bits per second; 0 is unlimited.
	LinkRate int64 `json:"linkRate,omitempty"`
	// FirmwareDelay is the time from a power-on or reset to the first request of the
	// firmware.
	FirmwareDelay time.Duration `json:"firmwareDelay,omitempty"`
	// BootDelay is the time from the start of an operating system to its first
	// request.
	BootDelay time.Duration `json:"bootDelay,omitempty"`
	// Faults that the machine has, each type at most once.
	Faults []SimulatedFault `json:"faults,omitempty"`
}

// SimulatedFault is a fault of a simulated machine.
type SimulatedFault struct {
	// Type names the fault as the API does.
	Type string `json:"type"`
	// Attempts is in how many installation attempts the fault occurs; 0 is in all.
	Attempts int `json:"attempts,omitempty"`
	// Probability of the fault, above 0 and at most 1.
	Probability float64 `json:"probability"`
}

func (s *Simulation) isZero() bool {
	return s.LinkRate == 0 && s.FirmwareDelay == 0 && s.BootDelay == 0 && len(s.Faults) == 0
}

const (
	maxDelay  = 24 * time.Hour
	maxFaults = 64
)

func (s *Simulation) validate() error {
	if s.LinkRate < 0 {
		return invalid("link rate of %d bits per second: must not be negative", s.LinkRate)
	}
	for what, d := range map[string]time.Duration{"firmware delay": s.FirmwareDelay, "boot delay": s.BootDelay} {
		if d < 0 || d > maxDelay {
			return invalid("%s of %s: must be 0 to %s", what, d, maxDelay)
		}
	}
	if len(s.Faults) > maxFaults {
		return invalid("%d faults: at most %d", len(s.Faults), maxFaults)
	}
	seen := map[string]bool{}
	for _, f := range s.Faults {
		switch {
		case f.Type == "":
			return invalid("a fault without a type")
		case seen[f.Type]:
			return invalid("fault %s is listed twice", f.Type)
		case f.Attempts < 0:
			return invalid("fault %s in %d attempts: must not be negative", f.Type, f.Attempts)
		case !(f.Probability > 0 && f.Probability <= 1): // also refuses NaN
			return invalid("fault %s with probability %v: must be above 0 and at most 1", f.Type, f.Probability)
		}
		seen[f.Type] = true
	}
	return nil
}

func (m Machine) validateKind() error {
	switch m.Kind {
	case KindQEMU:
		if m.Simulation != nil {
			return invalid("a virtual machine has no simulation")
		}
		return nil
	case KindSimulated:
		if m.Simulation == nil {
			return nil
		}
		return m.Simulation.validate()
	default:
		return invalid("kind %q: must be empty or %q", m.Kind, KindSimulated)
	}
}
