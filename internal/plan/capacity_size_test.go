// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
)

func TestMemoryBudget(t *testing.T) {
	for memory, want := range map[int64]int64{
		512 << 20:      256 << 20,
		2 << 30:        1536 << 20,
		8 << 30:        7 << 30,
		25276284 << 10: 21598 << 20,
		256 << 30:      252 << 30,
		8<<30 + 123456: 7 << 30,
		1<<63 - 1:      (1<<63 - 1 - 4<<30) >> 20 << 20,
	} {
		if got := MemoryBudget(memory); got != want {
			t.Errorf("%d bytes: got a budget of %d, want %d", memory, got, want)
		}
	}
}

func TestDefaultInstallations(t *testing.T) {
	for processors, want := range map[int]int{1: 8, 2: 8, 4: 16, 64: 256} {
		if got := DefaultInstallations(processors); got != want {
			t.Errorf("%d processors: got %d, want %d", processors, got, want)
		}
	}
}

func TestCheckTargetSize(t *testing.T) {
	for name, c := range map[string]struct {
		memory, disk string
		accelerator  machine.Accelerator
		limits       Limits
		want         []string
	}{
		"it fits":              {memory: "1Gi", disk: "10Gi", limits: Limits{Memory: 4 << 30}},
		"without limits":       {memory: "1Ti", disk: "64Ti"},
		"memory of no machine": {memory: "100Ti", disk: "10Gi", want: []string{"spec.machine.memory is 100Ti", "16Ti"}},
		"memory of no number":  {memory: "900P", disk: "10Gi", want: []string{"spec.machine.memory is 900P"}},
		"a huge disk":          {memory: "1Gi", disk: "900P", want: []string{"spec.machine.disks[0].size is 900P", "64Ti"}},
		"more than the host has": {
			memory: "4Gi", disk: "10Gi", accelerator: machine.TCG, limits: Limits{Memory: 4 << 30},
			want: []string{"memory 4Gi takes 4864Mi", "have 4Gi", "--memory-budget"},
		},
		"more than a namespace has": {
			memory: "4Gi", disk: "10Gi", accelerator: machine.TCG, limits: Limits{Memory: 64 << 30, NamespaceMemory: 4 << 30},
			want: []string{"memory 4Gi takes 4864Mi", "have 4Gi", "--namespace-max-memory"},
		},
		"it may fit":             {memory: "1Gi", disk: "10Gi", limits: Limits{Memory: 1500 << 20}},
		"it does not, emulated":  {memory: "1Gi", disk: "10Gi", accelerator: machine.TCG, limits: Limits{Memory: 1500 << 20}, want: []string{"takes 1792Mi"}},
		"it fits, virtualized":   {memory: "1Gi", disk: "10Gi", accelerator: machine.KVM, limits: Limits{Memory: 1500 << 20}},
		"it never fits anywhere": {memory: "1Gi", disk: "10Gi", limits: Limits{Memory: 1 << 30}, want: []string{"takes 1280Mi"}},
	} {
		t.Run(name, func(t *testing.T) {
			target := &v1alpha1.BareMetalTarget{}
			target.Spec.Machine.Memory = resource.MustParse(c.memory)
			target.Spec.Machine.Disks = []v1alpha1.Disk{{Name: "disk0", Size: resource.MustParse(c.disk)}}
			got := CheckTargetSize(target, c.accelerator, c.limits)
			if got == nil {
				if c.want != nil {
					t.Fatalf("got no error, want one with %q", c.want)
				}
				return
			}
			if c.want == nil || got.Reason != v1alpha1.ReasonExceedsCapacity {
				t.Fatalf("got error %+v, want %q", got, c.want)
			}
			for _, want := range c.want {
				if !strings.Contains(got.Message, want) {
					t.Errorf("got message %q, want it to contain %q", got.Message, want)
				}
			}
		})
	}
}

func TestCheckServerSize(t *testing.T) {
	server := &v1alpha1.ProvisioningServer{}
	server.Spec.Machine.Memory = resource.MustParse("1Gi")
	if err := CheckServerSize(server, machine.TCG, Limits{Memory: 2 << 30}); err != nil {
		t.Errorf("got error %v, want none", err)
	}
	if err := CheckServerSize(server, machine.TCG, Limits{Memory: 1 << 30}); err == nil {
		t.Error("got no error for a server that does not fit, want one")
	}
}

// A simulated machine takes a small amount, and its installation does not count.
func TestTargetDemand(t *testing.T) {
	target := &v1alpha1.BareMetalTarget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "target-1", UID: "1"}}
	target.Spec.Machine.Memory = resource.MustParse("1Gi")
	if d := InstallDemand(target, machine.KVM); d.Memory != 1280<<20 || !d.Installing || d.Kind != KindTarget || d.Namespace != "default" {
		t.Errorf("got %+v, want an installation with 1280 MiB", d)
	}
	if d := TargetDemand(target, machine.KVM); d.Memory != 1280<<20 || d.Installing {
		t.Errorf("got %+v, want 1280 MiB and no installation", d)
	}
	target.Spec.Machine.Runner = v1alpha1.RunnerSimulated
	if d := InstallDemand(target, ""); d.Memory != machine.SimulatedFootprint || d.Installing {
		t.Errorf("got %+v for a simulated machine, want %d bytes and no installation", d, machine.SimulatedFootprint)
	}
}

func TestWaitingSince(t *testing.T) {
	now := epoch.Add(time.Hour)
	set := func(status metav1.ConditionStatus, reason string, at time.Time) []metav1.Condition {
		return []metav1.Condition{{
			Type: v1alpha1.ConditionMachineRunning, Status: status, Reason: reason, LastTransitionTime: metav1.NewTime(at),
		}}
	}
	for name, c := range map[string]struct {
		conditions []metav1.Condition
		want       time.Time
	}{
		"it has no status":               {nil, now},
		"it waited already":              {set(metav1.ConditionFalse, v1alpha1.ReasonHostFull, epoch), epoch},
		"it waited to be installed":      {set(metav1.ConditionFalse, v1alpha1.ReasonInstallationsLimit, epoch), epoch},
		"it was not started yet":         {set(metav1.ConditionFalse, v1alpha1.ReasonStarting, epoch), epoch},
		"it was off":                     {set(metav1.ConditionFalse, v1alpha1.ReasonStopped, epoch), now},
		"it ran":                         {set(metav1.ConditionTrue, v1alpha1.ReasonRunning, epoch), now},
		"the clock has been set back":    {set(metav1.ConditionFalse, v1alpha1.ReasonHostFull, now.Add(time.Hour)), now},
		"its namespace was at its limit": {set(metav1.ConditionFalse, v1alpha1.ReasonNamespaceLimit, epoch), epoch},
	} {
		t.Run(name, func(t *testing.T) {
			if got := WaitingSince(c.conditions, now); !got.Equal(c.want) {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestWaitingTargetConditions(t *testing.T) {
	target := &v1alpha1.BareMetalTarget{}
	target.Spec.InstallGeneration = 1
	o := TargetObservation{
		Blocker: Blocker{Reason: v1alpha1.ReasonHostFull, Message: "no memory"}, Machine: machine.State{Phase: machine.PhaseNotFound}, Now: epoch,
	}
	out := TargetStatus(target, o)
	if out.Phase != v1alpha1.TargetPending || out.Stalled {
		t.Errorf("got phase %s, stalled: %t; want Pending", out.Phase, out.Stalled)
	}
	for _, c := range TargetConditions(target, o, out) {
		switch c.Type {
		case v1alpha1.ConditionMachineRunning, v1alpha1.ConditionProgressing, v1alpha1.ConditionReady:
			if c.Reason != v1alpha1.ReasonHostFull || c.Message != "no memory" {
				t.Errorf("condition %s: got %s %q, want %s", c.Type, c.Reason, c.Message, v1alpha1.ReasonHostFull)
			}
		}
	}
}
