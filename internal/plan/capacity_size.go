// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
)

// The memory that a host keeps for itself: an eighth, within these bounds.
const (
	leastReserve = 512 << 20
	mostReserve  = 4 << 30
)

// MemoryBudget returns the default budget of all machines for a host, or a control
// group, with this much memory. Both are in bytes; the budget is a multiple of 1 MiB.
func MemoryBudget(memory int64) int64 {
	reserve := min(max(memory/8, leastReserve), mostReserve)
	return max(memory-reserve, memory/2) >> 20 << 20
}

// DefaultInstallations returns how many targets are installed at a time by default on a
// host with this many processors. An emulated target keeps one busy, but waits for the
// network and its disk as well.
func DefaultInstallations(processors int) int { return max(8, 4*processors) }

// TargetDemand returns what the machine of a target needs on an accelerator, "" for one
// that is not known, if it is not installed.
func TargetDemand(t *v1alpha1.BareMetalTarget, a machine.Accelerator) Demand {
	d := Demand{
		UID: string(t.UID), Kind: KindTarget, Namespace: t.Namespace, Name: t.Name, CreatedAt: t.CreationTimestamp.Time,
		Memory: machine.Footprint(mebibytes(t.Spec.Machine.Memory), a),
	}
	if t.Spec.Machine.Runner == v1alpha1.RunnerSimulated {
		d.Memory = machine.SimulatedFootprint
	}
	return d
}

// InstallDemand is TargetDemand for a machine that is installed. The installation of a
// simulated machine keeps no processor busy and does not count.
func InstallDemand(t *v1alpha1.BareMetalTarget, a machine.Accelerator) Demand {
	d := TargetDemand(t, a)
	d.Installing = t.Spec.Machine.Runner != v1alpha1.RunnerSimulated
	return d
}

// ServerDemand returns what the machine of a server needs on an accelerator, "" for one
// that is not known.
func ServerDemand(s *v1alpha1.ProvisioningServer, a machine.Accelerator) Demand {
	return Demand{
		UID: string(s.UID), Kind: KindServer, Namespace: s.Namespace, Name: s.Name, CreatedAt: s.CreationTimestamp.Time,
		Memory: machine.Footprint(mebibytes(s.Spec.Machine.Memory), a),
	}
}

// IsWaiting reports whether a reason is that of a machine that waits for capacity.
func IsWaiting(reason string) bool {
	return slices.Contains([]string{v1alpha1.ReasonHostFull, v1alpha1.ReasonInstallationsLimit, v1alpha1.ReasonNamespaceLimit}, reason)
}

// WaitingSince returns since when an object waits that asks for capacity now: since it
// does not run, unless it was powered off or has ended. Its place survives restarts of the
// manager, and a server that is away for a moment, because its conditions record it.
func WaitingSince(conditions []metav1.Condition, now time.Time) time.Time {
	c := meta.FindStatusCondition(conditions, v1alpha1.ConditionMachineRunning)
	if c == nil || c.Status != metav1.ConditionFalse || c.LastTransitionTime.After(now) {
		return now
	}
	if c.Reason != v1alpha1.ReasonStarting && !IsWaiting(c.Reason) {
		return now
	}
	return c.LastTransitionTime.Time
}

// WaitingCondition returns the condition MachineRunning of a machine that waits for
// capacity.
func WaitingCondition(b Blocker) Condition {
	return condition(v1alpha1.ConditionMachineRunning, false, b.Reason, b.Message)
}

// maxDisk is the largest disk of a target in bytes, 64 TiB; common file systems allow
// less.
const maxDisk = 64 << 40

// CheckTargetSize checks whether a target's machine can run within limits if it is
// alone, on an accelerator, "" for one that is not known. The result is nil if it can.
func CheckTargetSize(t *v1alpha1.BareMetalTarget, a machine.Accelerator, l Limits) *InvalidError {
	for i, d := range t.Spec.Machine.Disks {
		if d.Size.Value() > maxDisk {
			return invalid(v1alpha1.ReasonExceedsCapacity, "spec.machine.disks[%d].size is %s, and the largest disk is %s; create another target with a smaller one",
				i, d.Size.String(), Bytes(maxDisk))
		}
	}
	return checkMemory(TargetDemand(t, least(a)), t.Spec.Machine.Memory, l)
}

// CheckServerSize checks whether a server's machine can run within limits if it is
// alone, on an accelerator, "" for one that is not known. The result is nil if it can.
func CheckServerSize(s *v1alpha1.ProvisioningServer, a machine.Accelerator, l Limits) *InvalidError {
	return checkMemory(ServerDemand(s, least(a)), s.Spec.Machine.Memory, l)
}

// least returns the accelerator that takes least memory if none is known: what does not
// fit with that one never does.
func least(a machine.Accelerator) machine.Accelerator { return cmp.Or(a, machine.KVM) }

func checkMemory(d Demand, declared resource.Quantity, l Limits) *InvalidError {
	memory := declared.String()
	switch {
	case mebibytes(declared) > machine.MaxMemoryMiB:
		return invalid(v1alpha1.ReasonExceedsCapacity, "spec.machine.memory is %s, and the largest memory is %s; reduce it",
			memory, Bytes(machine.MaxMemoryMiB<<20))
	case l.Memory > 0 && d.Memory > l.Memory:
		return invalid(v1alpha1.ReasonExceedsCapacity, "a machine with spec.machine.memory %s takes %s of the host's memory, and all machines together have %s; "+
			"reduce it, or raise the manager's --memory-budget", memory, Bytes(d.Memory), Bytes(l.Memory))
	case l.NamespaceMemory > 0 && d.Memory > l.NamespaceMemory:
		return invalid(v1alpha1.ReasonExceedsCapacity, "a machine with spec.machine.memory %s takes %s of the host's memory, and the machines of a namespace have %s; "+
			"reduce it, or raise the manager's --namespace-max-memory", memory, Bytes(d.Memory), Bytes(l.NamespaceMemory))
	default:
		return nil
	}
}

// DiskTooLarge returns the error of a target whose disk exceeds the largest file of the
// host's file system; cause has the path and the size.
func DiskTooLarge(cause error) *InvalidError {
	return invalid(v1alpha1.ReasonExceedsCapacity, "spec.machine.disks: %v; create another target with a smaller disk, "+
		"or move the data directory to a file system with larger files", cause)
}
