// SPDX-License-Identifier: Apache-2.0

package plan

import "github.com/pxelab/pxelab/internal/agent"

// present is what netbootd saw of the present power-on. An installation that
// was cut off is netbootd's last word until it is told of the next power-on.
func (o TargetObservation) present() *agent.MachineState {
	s := o.Seen
	switch {
	case s == nil || s.Install == nil || !s.Install.DoneAt.IsZero() || s.Install.Error != "":
		return s
	case o.PowerOn == "" || s.SSH.PowerOn == "" || s.SSH.PowerOn == o.PowerOn:
		return s
	}
	return &agent.MachineState{Attempt: s.Attempt, Warnings: s.Warnings}
}
