// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"slices"
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// PhaseStart returns when a phase began that is first observed at now. A network
// boot, and the boot of an installed machine that was powered on again, began at
// the power-on, whose time is known exactly.
func PhaseStart(phase v1alpha1.TargetPhase, records []v1alpha1.PhaseRecord, powerOn, now time.Time) time.Time {
	if powerOn.IsZero() || len(records) == 0 {
		return now
	}
	last := records[len(records)-1]
	switch phase {
	case v1alpha1.TargetPXE, v1alpha1.TargetBooting:
		if powerOn.After(last.StartedAt.Time) && powerOn.Before(now) &&
			(last.Phase == v1alpha1.TargetPending || last.Phase == v1alpha1.TargetStopped) {
			return powerOn
		}
	}
	return now
}

// maxTimeline is the maximum number of records in a status.
const maxTimeline = 32

// Timeline returns records with phase appended, unless phase is already the last
// one. at is when the phase began; it ends the record before, which gets its
// duration. Timeline does not modify records.
func Timeline(records []v1alpha1.PhaseRecord, phase v1alpha1.TargetPhase, at time.Time) []v1alpha1.PhaseRecord {
	if n := len(records); n > 0 {
		records = slices.Clone(records)
		last := &records[n-1]
		if last.Phase == phase {
			return records
		}
		if at.Before(last.StartedAt.Time) {
			at = last.StartedAt.Time
		}
		last.Seconds = fmt.Sprintf("%.1f", at.Sub(last.StartedAt.Time).Seconds())
	}
	records = append(records, v1alpha1.PhaseRecord{Phase: phase, StartedAt: microTime(at)})
	if len(records) > maxTimeline {
		records = records[len(records)-maxTimeline:]
	}
	return records
}

// PhaseDuration returns how long the last phase of a timeline lasted that is now
// followed by another phase. after is the timeline with that phase; it may be empty, or
// that of another attempt. known is false if the timeline before is empty.
func PhaseDuration(before, after []v1alpha1.PhaseRecord, now time.Time) (d time.Duration, known bool) {
	if len(before) == 0 {
		return 0, false
	}
	ended, end := before[len(before)-1], now
	if n := len(after); n > 0 && after[n-1].Phase != ended.Phase {
		end = after[n-1].StartedAt.Time
	}
	return max(0, end.Sub(ended.StartedAt.Time)), true
}
