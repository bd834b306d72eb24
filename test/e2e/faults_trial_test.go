// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
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

// ensureTarget creates a target of the samples if it does not exist. The second one uses
// the profile with the image from the hostile server if that is Ready.
func (x *trial) ensureTarget(name string) {
	x.Helper()
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
	process process.Identity
	record  targetdisk.Record
	// netboots counts the starts of iPXE, resets the guest's resets.
	netboots, resets int
}

// machineDir returns a machine's directory as seen from this host.
func (x *trial) machineDir(uid string) string { return filepath.Join(x.view, x.data, "machines", uid) }

// machineOf reads the manager's record of a machine.
func (x *trial) machineOf(uid string) (id process.Identity, resets int) {
	x.Helper()
	var r struct {
		Process process.Identity `json:"process"`
		Resets  int              `json:"resets"`
	}
	raw, err := os.ReadFile(filepath.Join(x.machineDir(uid), "qemu.json"))
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		x.Fatal(err)
	}
	return r.Process, r.Resets
}

func (x *trial) evidence(name string) evidence {
	x.Helper()
	e := evidence{target: x.target(x, name)}
	e.process, e.resets = x.machineOf(string(e.target.UID))
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

// sameMachine checks that the target's process is the same and alive. It does not
// need the API.
func (x *trial) sameMachine(before evidence) {
	x.Helper()
	now, _ := x.machineOf(string(before.target.UID))
	if now != before.process || !process.Alive(now) {
		x.Errorf("process of %s: got %+[3]v, alive %[4]t, want %+[2]v alive", before.target.Name, before.process, now, process.Alive(now))
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
		if after.target.Status.Phase == v1alpha1.TargetInstalling && after.resets != before.resets {
			x.Errorf("%s: got a reset, want none", name)
		}
	}
	if after.netboots > most {
		x.Errorf("%s: got %d network boots, want %d as before", name, after.netboots, before.netboots)
	}
	if before.record.Installed && after.record != before.record {
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

// bystander is a Ready target that a fault must not affect.
type bystander struct {
	evidence
	from time.Time
	boot string
}

// bystander returns the state of the first target if it is Ready, or nil.
func (x *trial) bystander() *bystander {
	x.Helper()
	if x.target(x, first).Status.Phase != v1alpha1.TargetReady {
		return nil
	}
	return &bystander{evidence: x.evidence(first), from: time.Now(), boot: x.bootID(first)}
}

// untouched checks that the bystander has stayed Ready, with the same process,
// installation and boot.
func (x *trial) untouched(b *bystander) {
	x.Helper()
	if b == nil {
		return
	}
	states, _ := x.w.since("target/"+first, b.from)
	for _, m := range states {
		if p := m.obj.(*v1alpha1.BareMetalTarget).Status.Phase; p != v1alpha1.TargetReady {
			x.Errorf("%s: got phase %s, want it Ready all the time", first, p)
		}
	}
	x.sameMachine(b.evidence)
	x.sameInstallation(b.evidence)
	if now := x.bootID(first); now != b.boot {
		x.Errorf("%s: got another boot ID, want no reboot", first)
	}
}

// bootID returns the ID of a guest's current boot.
func (x *trial) bootID(name string) string {
	x.Helper()
	return x.ssh(x, name, "cat /proc/sys/kernel/random/boot_id")
}

// leaveMark writes a file to a target's disk and syncs it.
func (x *trial) leaveMark(name string) string {
	x.Helper()
	mark := fmt.Sprintf("mark-%d", time.Now().UnixNano())
	x.ssh(x, name, "echo "+mark+" | sudo tee /root/mark >/dev/null && sudo sync")
	return mark
}

func (x *trial) findMark(name, mark string) {
	x.Helper()
	if got := x.ssh(x, name, "sudo cat /root/mark"); got != mark {
		x.Errorf("file on the disk of %s: got %q, want %q", name, got, mark)
	}
}

// leases returns the server's leases, by MAC address.
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
