// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

func TestPhaseDuration(t *testing.T) {
	record := func(phase v1alpha1.TargetPhase, at time.Duration) v1alpha1.PhaseRecord {
		return v1alpha1.PhaseRecord{Phase: phase, StartedAt: microTime(epoch.Add(at))}
	}
	pending, pxe := record(v1alpha1.TargetPending, 0), record(v1alpha1.TargetPXE, 20*time.Second)
	for name, c := range map[string]struct {
		before, after []v1alpha1.PhaseRecord
		want          time.Duration
		known         bool
	}{
		"first_phase":       {nil, []v1alpha1.PhaseRecord{pending}, 0, false},
		"next_phase":        {[]v1alpha1.PhaseRecord{pending}, []v1alpha1.PhaseRecord{pending, pxe}, 20 * time.Second, true},
		"another_attempt":   {[]v1alpha1.PhaseRecord{pending, pxe}, []v1alpha1.PhaseRecord{record(v1alpha1.TargetPending, 30*time.Second)}, 10 * time.Second, true},
		"no_record_of_next": {[]v1alpha1.PhaseRecord{pending, pxe}, []v1alpha1.PhaseRecord{pending, pxe}, 40 * time.Second, true},
		"dropped":           {[]v1alpha1.PhaseRecord{pending, pxe}, nil, 40 * time.Second, true},
		"clock_set_back":    {[]v1alpha1.PhaseRecord{pxe}, []v1alpha1.PhaseRecord{pxe, record(v1alpha1.TargetInstalling, 0)}, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, known := PhaseDuration(c.before, c.after, epoch.Add(time.Minute))
			if got != c.want || known != c.known {
				t.Errorf("got %s, %t, want %s, %t", got, known, c.want, c.known)
			}
		})
	}
}
