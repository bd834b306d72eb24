// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/qemu"
)

// TestStalledTarget has the host's disk stop an installation: the target says
// why, and not that its installer is silent.
func TestStalledTarget(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		stall  qemu.Stall
		reason string
		text   string
	}{
		"full":   {qemu.Stall{Disk: "disk0", Path: "/data/disk0.raw", NoSpace: true, Free: 1000, Needed: 5000, Growth: 7000}, v1alpha1.ReasonNoSpace, "free 4000 bytes"},
		"broken": {qemu.Stall{Disk: "disk0", Path: "/data/disk0.raw"}, v1alpha1.ReasonDiskError, "kernel log"},
	} {
		t.Run(name, func(t *testing.T) {
			target := &v1alpha1.BareMetalTarget{}
			target.Spec.InstallGeneration = 1
			o := TargetObservation{
				Machine:        qemu.State{Phase: qemu.PhasePaused, RunState: "io-error", Stall: &tc.stall},
				AgentConnected: true, Now: now, StepSince: now.Add(-24 * time.Hour),
				Seen: &agent.MachineState{DiscoverAt: now, Install: &agent.InstallState{Stage: "Write", BytesTotal: 100, BytesWritten: 50}},
			}
			out := Target(target, o)
			if out.Phase != v1alpha1.TargetInstalling || !out.Stalled || out.Reason != tc.reason {
				t.Errorf("%+v", out)
			}
			for _, want := range []string{"/data/disk0.raw", tc.text} {
				if !strings.Contains(out.Message, want) {
					t.Errorf("%q lacks %q", out.Message, want)
				}
			}
			if c := MachineCondition(o.Machine); c.Status != metav1.ConditionFalse || c.Reason != tc.reason || c.Message != out.Message {
				t.Errorf("condition %+v", c)
			}
		})
	}
}

func TestFailureReason(t *testing.T) {
	full := fmt.Errorf("starting: %w", &os.PathError{Op: "write", Path: "/data/x", Err: syscall.ENOSPC})
	for err, want := range map[error]string{
		full: v1alpha1.ReasonNoSpace, syscall.EDQUOT: v1alpha1.ReasonNoSpace, os.ErrPermission: v1alpha1.ReasonFailed,
	} {
		if got := FailureReason(err); got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
}
