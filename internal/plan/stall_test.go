// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// TestStalledTarget suspends an installation because of an error of the host's
// disk: the target reports that error, not a silent installer.
func TestStalledTarget(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		stall  machine.Stall
		reason string
		text   string
	}{
		"full": {
			machine.Stall{Disk: "disk0", Path: "/data/disk0.raw", NoSpace: true, Free: 1000, Needed: 5000, Growth: 7000},
			v1alpha1.ReasonNoSpace, "free 4000 bytes",
		},
		"broken": {machine.Stall{Disk: "disk0", Path: "/data/disk0.raw"}, v1alpha1.ReasonDiskError, "kernel log"},
	} {
		t.Run(name, func(t *testing.T) {
			target := &v1alpha1.BareMetalTarget{}
			target.Spec.InstallGeneration = 1
			o := TargetObservation{
				Machine:        machine.State{Phase: machine.PhasePaused, RunState: "io-error", Stall: &tc.stall},
				AgentConnected: true, Now: now, StepSince: now.Add(-24 * time.Hour),
				Seen: &netbootapi.MachineState{DiscoverAt: now, Install: &netbootapi.InstallState{Stage: "Write", BytesTotal: 100, BytesWritten: 50}},
			}
			out := TargetStatus(target, o)
			if out.Phase != v1alpha1.TargetInstalling {
				t.Errorf("got phase %s, want %s", out.Phase, v1alpha1.TargetInstalling)
			}
			if !out.Stalled {
				t.Error("got no stall, want one")
			}
			if out.Reason != tc.reason {
				t.Errorf("got reason %s, want %s", out.Reason, tc.reason)
			}
			for _, want := range []string{"/data/disk0.raw", tc.text} {
				if !strings.Contains(out.Message, want) {
					t.Errorf("got message %q, want it to contain %q", out.Message, want)
				}
			}
			want := Condition{Status: metav1.ConditionFalse, Reason: tc.reason, Message: out.Message}
			got := MachineCondition(o.Machine)
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Condition{}, "Type")); diff != "" {
				t.Errorf("condition of the machine (-want +got):\n%s", diff)
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
			t.Errorf("%v: got %s, want %s", err, got, want)
		}
	}
}
