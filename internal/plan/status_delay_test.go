// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

func TestTargetStatusDelay(t *testing.T) {
	const second = time.Second
	for name, c := range map[string]struct {
		edit func(*v1alpha1.BareMetalTargetStatus)
		age  time.Duration
		want time.Duration
	}{
		"phase":               {func(s *v1alpha1.BareMetalTargetStatus) { s.Phase = v1alpha1.TargetBooting }, 0, 0},
		"power":               {func(s *v1alpha1.BareMetalTargetStatus) { s.Power = v1alpha1.PowerOff }, 0, 0},
		"host name":           {func(s *v1alpha1.BareMetalTargetStatus) { s.Hostname = "node-1" }, 0, 0},
		"observed generation": {func(s *v1alpha1.BareMetalTargetStatus) { s.ObservedGeneration++ }, 0, 0},
		"attempt":             {func(s *v1alpha1.BareMetalTargetStatus) { s.Install.ID++ }, 0, 0},
		"no installation":     {func(s *v1alpha1.BareMetalTargetStatus) { s.Install = nil }, 0, 0},
		"timeline": {func(s *v1alpha1.BareMetalTargetStatus) {
			s.Timeline = Timeline(s.Timeline, v1alpha1.TargetBooting, epoch)
		}, 0, 0},
		"reason":            {func(s *v1alpha1.BareMetalTargetStatus) { s.Conditions[0].Reason = v1alpha1.ReasonInstallerSilent }, 0, 0},
		"condition's value": {func(s *v1alpha1.BareMetalTargetStatus) { s.Conditions[0].Status = metav1.ConditionFalse }, 0, 0},
		"new condition": {func(s *v1alpha1.BareMetalTargetStatus) {
			s.Conditions = append(s.Conditions, metav1.Condition{Type: v1alpha1.ConditionPaused})
		}, 0, 0},
		"percentage":                {func(s *v1alpha1.BareMetalTargetStatus) { s.Install.Percent++ }, second / 4, second * 3 / 4},
		"percentage, after a while": {func(s *v1alpha1.BareMetalTargetStatus) { s.Install.Percent++ }, 2 * second, 0},
		"stage":                     {func(s *v1alpha1.BareMetalTargetStatus) { s.Install.Stage = "Verify" }, 0, second},
		"bytes":                     {func(s *v1alpha1.BareMetalTargetStatus) { s.Install.BytesWritten++ }, 2 * second, 3 * second},
		"step": {func(s *v1alpha1.BareMetalTargetStatus) {
			s.Progress = "TFTP"
			s.Message = "TFTP"
			s.Conditions[0].Message = "TFTP"
		}, second, 4 * second},
		"step, after a while": {func(s *v1alpha1.BareMetalTargetStatus) { s.Progress = "TFTP" }, time.Hour, 0},
	} {
		t.Run(name, func(t *testing.T) {
			before := &v1alpha1.BareMetalTargetStatus{
				Phase: v1alpha1.TargetInstalling, Progress: "3%", Power: v1alpha1.PowerOn,
				Install:    &v1alpha1.InstallProgress{ID: 1, Stage: "Write", Percent: 3, BytesWritten: 3, BytesTotal: 100},
				Conditions: []metav1.Condition{{Type: v1alpha1.ConditionProgressing, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonInstalling}},
			}
			after := before.DeepCopy()
			c.edit(after)
			if got := TargetStatusDelay(before, after, c.age); got != c.want {
				t.Errorf("got a delay of %s, want %s", got, c.want)
			}
		})
	}
}

// An installer reports every 700 ms for 35 s, as fast as it does.
func TestProgressIsWrittenSparingly(t *testing.T) {
	for name, c := range map[string]struct {
		step int64 // bytes per report
		most int
	}{
		"a stuck percentage": {step: 1 << 20, most: 8},
		"nothing new":        {step: 0, most: 0},
		"a percent a second": {step: 700 << 20, most: 35},
	} {
		t.Run(name, func(t *testing.T) {
			const total = 100 << 30
			status := func(written int64) *v1alpha1.BareMetalTargetStatus {
				return &v1alpha1.BareMetalTargetStatus{Phase: v1alpha1.TargetInstalling, Install: &v1alpha1.InstallProgress{
					ID: 1, Stage: "Write", BytesTotal: total, BytesWritten: written, Percent: int32(100 * written / total),
				}}
			}
			shown, since, writes := status(1<<30), epoch, 0
			for i := range 50 {
				now := epoch.Add(time.Duration(i) * 700 * time.Millisecond)
				next := status(1<<30 + int64(i)*c.step)
				if *next.Install != *shown.Install && TargetStatusDelay(shown, next, now.Sub(since)) == 0 {
					shown, since, writes = next, now, writes+1
				}
			}
			if writes > c.most {
				t.Errorf("got %d writes of the status in 35 s, want at most %d", writes, c.most)
			}
		})
	}
}
