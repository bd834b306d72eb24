// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// phaseOrder is the order of a target's phases.
var phaseOrder = []v1alpha1.TargetPhase{
	v1alpha1.TargetPending, v1alpha1.TargetPXE, v1alpha1.TargetInstalling, v1alpha1.TargetBooting, v1alpha1.TargetReady,
}

func phaseIndex(p v1alpha1.TargetPhase) int { return slices.Index(phaseOrder, p) }

// awaitTarget waits for a state of a target, observed since from, that satisfies
// ok. It fails when the target has failed.
func (x *trial) awaitTarget(
	name, what string, from time.Time, ok func(*v1alpha1.BareMetalTarget) bool,
) (*v1alpha1.BareMetalTarget, time.Time) {
	x.Helper()
	o, at, err := until(x.Context(), x.w, "target/"+name, from, func(o *v1alpha1.BareMetalTarget) (bool, error) {
		if o.Status.Phase == v1alpha1.TargetFailed && o.Status.ObservedGeneration == o.Generation {
			return false, fmt.Errorf("the target failed: %s", o.Status.Message)
		}
		return ok(o), nil
	})
	if err != nil {
		state := "not observed"
		if o != nil {
			state = fmt.Sprintf("phase %s, %s\n%s", o.Status.Phase, o.Status.Message, conditionsText(o))
		}
		x.Fatalf("waiting for %s to become %s: %v; last state: %s", name, what, err, state)
	}
	return o, at
}

// awaitServer is awaitTarget for the server.
func (x *trial) awaitServer(
	what string, from time.Time, ok func(*v1alpha1.ProvisioningServer) bool,
) (*v1alpha1.ProvisioningServer, time.Time) {
	x.Helper()
	o, at, err := until(x.Context(), x.w, "server/"+server, from, func(o *v1alpha1.ProvisioningServer) (bool, error) {
		if o.Status.Phase == v1alpha1.ServerFailed {
			return false, fmt.Errorf("the server failed: %s", o.Status.Message)
		}
		return ok(o), nil
	})
	if err != nil {
		state := "not observed"
		if o != nil {
			state = fmt.Sprintf("phase %s, %s", o.Status.Phase, o.Status.Message)
		}
		x.Fatalf("waiting for the server to become %s: %v; last state: %s", what, err, state)
	}
	return o, at
}

// ensureTarget creates a target of the samples, or a simulated one, if it does not exist.
// The second one of the samples uses the profile with the image from the hostile server if
// that is Ready.
func (x *trial) ensureTarget(name string) {
	x.Helper()
	if o := simulatedTarget(name); o != nil {
		x.ensure(x, o)
		return
	}
	bmt := sample(x.faultLab, x, name, &v1alpha1.BareMetalTarget{})
	p := &v1alpha1.BootProfile{}
	err := x.client.Get(x.Context(), client.ObjectKey{Namespace: "default", Name: overHTTP}, p)
	if client.IgnoreNotFound(err) != nil {
		x.Fatal(err)
	}
	if name == second && meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionReady) {
		bmt.Spec.BootProfileRef.Name = overHTTP
	}
	x.ensure(x, bmt)
}

// ready waits until a target is Ready, and returns at once if it is.
func (x *trial) ready(name string) *v1alpha1.BareMetalTarget {
	x.Helper()
	x.ensureTarget(name)
	o, _ := x.awaitTarget(name, "Ready", time.Time{}, func(o *v1alpha1.BareMetalTarget) bool {
		now := x.target(x, name)
		return now.Status.Phase == v1alpha1.TargetReady && o.ResourceVersion == now.ResourceVersion
	})
	return o
}

// bringTo brings a target into a phase: it waits if the target has not reached it,
// and reinstalls a target that has passed it.
func (x *trial) bringTo(name string, phase v1alpha1.TargetPhase) *v1alpha1.BareMetalTarget {
	x.Helper()
	x.ensureTarget(name)
	now := x.target(x, name)
	if p := phaseIndex(now.Status.Phase); now.Status.Phase != "" && (p < 0 || p > phaseIndex(phase)) {
		x.update(x, name, func(s *v1alpha1.BareMetalTargetSpec) { s.InstallGeneration++ })
		now = x.target(x, name)
	}
	o, _ := x.awaitTarget(name, string(phase), time.Time{}, func(o *v1alpha1.BareMetalTarget) bool {
		return o.Status.Phase == phase && o.Status.DiskGeneration == now.Spec.InstallGeneration && o.UID == now.UID &&
			o.ResourceVersion == x.w.latest("target/"+name).GetResourceVersion()
	})
	return o
}

// evidence is a target's state, for a later check that it was not affected.
type evidence struct {
	target  *v1alpha1.BareMetalTarget
	machine machineRecord
	record  targetdisk.Record
	// netboots counts the starts of iPXE.
	netboots int
}

// machineRecord is a part of the record of a machine.
type machineRecord struct {
	// Process is QEMU or the simulator.
	Process   process.Identity `json:"process"`
	StartedAt time.Time        `json:"startedAt"`
	Resets    int              `json:"resets"`
}

// machineDir returns a machine's directory as seen from this host.
func (x *trial) machineDir(uid string) string { return filepath.Join(x.view, x.data, "machines", uid) }

// machineOf reads the record of a virtual or simulated machine.
func (x *trial) machineOf(uid string) machineRecord {
	x.Helper()
	raw, err := os.ReadFile(filepath.Join(x.machineDir(uid), "qemu.json"))
	if errors.Is(err, os.ErrNotExist) {
		raw, err = os.ReadFile(filepath.Join(x.machineDir(uid), "simulator.json"))
	}
	var r machineRecord
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		x.Fatal(err)
	}
	return r
}

func (x *trial) evidence(name string) evidence {
	x.Helper()
	e := evidence{target: x.target(x, name)}
	e.machine = x.machineOf(string(e.target.UID))
	var err error
	if e.record, err = targetdisk.Load(x.machineDir(string(e.target.UID))); err != nil {
		x.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(x.view, e.target.Status.Consoles.SerialLog))
	if err != nil {
		x.Fatal(err)
	}
	e.netboots = strings.Count(string(raw), "iPXE initialising devices")
	return e
}

// sameMachine checks that the target's process is the same and alive, and that the
// machine was not powered on again. It does not need the API.
func (x *trial) sameMachine(before evidence) {
	x.Helper()
	was, now := before.machine, x.machineOf(string(before.target.UID))
	if now.Process != was.Process || !now.StartedAt.Equal(was.StartedAt) || !process.Alive(now.Process) {
		x.Errorf("machine of %s: got %+[3]v, alive %[4]t, want %+[2]v alive", before.target.Name, was, now, process.Alive(now.Process))
	}
}

// sameInstallation checks that nothing was started from scratch: the attempt, the
// disks and the target's history are the same.
func (x *trial) sameInstallation(before evidence) {
	x.Helper()
	name := before.target.Name
	after := x.evidence(name)
	// In PXE the firmware may not have started its network boot yet.
	most := before.netboots
	if before.target.Status.Phase == v1alpha1.TargetPXE {
		most++
		if after.target.Status.Phase == v1alpha1.TargetInstalling && after.machine.Resets != before.machine.Resets {
			x.Errorf("%s: got a reset, want none", name)
		}
	}
	if after.netboots > most {
		x.Errorf("%s: got %d network boots, want %d as before", name, after.netboots, before.netboots)
	}
	if before.record.Installed && !reflect.DeepEqual(after.record, before.record) {
		x.Errorf("disk record of %s: got %+[3]v, want %+[2]v", name, before.record, after.record)
	}
	if after.record.Generation != before.record.Generation {
		x.Errorf("disks of %s: got installation generation %[3]d, want %[2]d", name, before.record.Generation, after.record.Generation)
	}
	x.sameNames(before, after)
	had, has := phasesOf(before.target), phasesOf(after.target)
	if !slices.Equal(had, has[:min(len(had), len(has))]) {
		x.Errorf("timeline of %s: got %[3]v, want it to start with %[2]v", name, had, has)
	}
}

// sameNames checks the identifiers of a target: addresses and host keys.
func (x *trial) sameNames(before, after evidence) {
	x.Helper()
	b, a := before.target.Status, after.target.Status
	if diff := cmp.Diff(b.NICs, a.NICs); diff != "" {
		x.Errorf("NICs of %s (-want as before +got):\n%s", before.target.Name, diff)
	}
	if len(b.SSHHostKeys) > 0 && !slices.Equal(b.SSHHostKeys, a.SSHHostKeys) {
		x.Errorf("SSH host keys of %s: got %[3]v, want %[2]v as before", before.target.Name, b.SSHHostKeys, a.SSHHostKeys)
	}
}

func phasesOf(bmt *v1alpha1.BareMetalTarget) []v1alpha1.TargetPhase {
	var out []v1alpha1.TargetPhase
	for _, r := range bmt.Status.Timeline {
		out = append(out, r.Phase)
	}
	return out
}

// leases returns the server's leases, by MAC address, except those of simulated faults: a
// machine that hangs does not renew its lease.
func (x *trial) leases() map[string]string {
	x.Helper()
	o := &v1alpha1.ProvisioningServer{}
	if err := x.client.Get(x.Context(), client.ObjectKey{Namespace: "default", Name: server}, o); err != nil {
		x.Fatal(err)
	}
	out := map[string]string{}
	for _, l := range o.Status.Leases {
		out[l.MACAddress] = l.Address
	}
	for _, t := range x.simulatedTargetsOf(x) {
		if faultOf(t.Name) != "" {
			delete(out, t.BootNICStatus().MAC)
		}
	}
	return out
}

// sameLeases checks that every lease still exists.
func (x *trial) sameLeases(before map[string]string) {
	x.Helper()
	after := x.leases()
	for mac, address := range before {
		if after[mac] != address {
			x.Errorf("leases (-want +got):\n%s", cmp.Diff(before, after))
			return
		}
	}
}

// sameObjects checks that no object was deleted or recreated.
func (x *trial) sameObjects(before map[string]string) {
	x.Helper()
	if diff := cmp.Diff(before, x.objects(x)); diff != "" {
		x.Errorf("objects (-want +got):\n%s", diff)
	}
}
