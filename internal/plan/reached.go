// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"slices"
	"time"

	"github.com/pxelab/pxelab/internal/seriallog"
)

// networkBoot lists the steps of a network boot in the order in which a machine passes
// them.
var networkBoot = []Step{stepFirmware, stepDHCP, stepProgram, stepScript, stepKernel, stepInstaller}

// bootRank returns the position of a step in the network boot from 1, and 0 for any other
// step.
func bootRank(s Step) int { return slices.Index(networkBoot, s) + 1 }

// Reached is how far a target has come in a round, and since when. The zero Reached is
// that of a target that was not observed.
type Reached struct {
	// Step is the current step; during a network boot, the last one that was reached.
	// A machine that resets in a loop passes the same steps again and again without
	// progress.
	Step Step
	// Since is when Step was first observed.
	Since time.Time
	// Finding is the last finding in the serial log since then, nil for none.
	Finding *seriallog.Finding

	round string
}

// Observe returns how far a target has come after an observation of its step and of the
// finding in its serial log (nil for none). A round that differs from the previous one
// starts from scratch: the steps before it, such as those before a power-on, do not count.
func (r Reached) Observe(step Step, round string, f *seriallog.Finding, now time.Time) Reached {
	again := bootRank(step) > 0 && bootRank(step) <= bootRank(r.Step)
	if r.Since.IsZero() || r.round != round || step != r.Step && !again {
		return Reached{Step: step, Since: now, Finding: f, round: round}
	}
	r.Finding = cmp.Or(f, r.Finding)
	return r
}
