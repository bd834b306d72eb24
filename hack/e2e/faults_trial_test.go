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
	"github.com/pxelab/pxelab/internal/storage"
)

// way is the order of a target's phases.
var way = []v1alpha1.TargetPhase{v1alpha1.TargetPending, v1alpha1.TargetPXE, v1alpha1.TargetInstalling, v1alpha1.TargetBooting, v1alpha1.TargetReady}

func place(p v1alpha1.TargetPhase) int { return slices.Index(way, p) }

// awaitTarget waits for a state of a target seen since from that is as wanted.
// A target that fails ends the test.
func (x *trial) awaitTarget(name, what string, from time.Time, ok func(*v1alpha1.BareMetalTarget) bool) (*v1alpha1.BareMetalTarget, time.Time) {
	x.Helper()
	o, at, err := until(x.Context(), x.w, "target/"+name, from, func(o *v1alpha1.BareMetalTarget) (bool, error) {
		if o.Status.Phase == v1alpha1.TargetFailed && o.Status.ObservedGeneration == o.Generation {
			return false, fmt.Errorf("it failed: %s", o.Status.Message)
		}
		return ok(o), nil
	})
	if err != nil {
		state := "never seen"
		if o != nil {
			state = fmt.Sprintf("phase %s, %s\n%s", o.Status.Phase, o.Status.Message, conditionsText(o))
		}
		x.Fatalf("%s was to become %s: %v; last %s", name, what, err, state)
	}
	return o, at
}

// awaitServer is awaitTarget for the server.
func (x *trial) awaitServer(what string, from time.Time, ok func(*v1alpha1.ProvisioningServer) bool) (*v1alpha1.ProvisioningServer, time.Time) {
	x.Helper()
	o, at, err := until(x.Context(), x.w, "server/"+server, from, func(o *v1alpha1.ProvisioningServer) (bool, error) {
		if o.Status.Phase == v1alpha1.ServerFailed {
			return false, fmt.Errorf("it failed: %s", o.Status.Message)
		}
		return ok(o), nil
	})
	if err != nil {
		state := "never seen"
		if o != nil {
			state = fmt.Sprintf("phase %s, %s", o.Status.Phase, o.Status.Message)
		}
		x.Fatalf("the server was to become %s: %v; last %s", what, err, state)
	}
	return o, at
}

// declare makes a target of the samples that is not there. The second one is
// of the profile whose image came from the hostile server, once that is Ready.
func (x *trial) declare(name string) {
	x.Helper()
	t := sample(x.faultLab, x, name, &v1alpha1.BareMetalTarget{})
	p := &v1alpha1.BootProfile{}
	err := x.client.Get(x.Context(), client.ObjectKey{Namespace: "default", Name: overHTTP}, p)
	if client.IgnoreNotFound(err) != nil {
		x.Fatal(err)
	}
	if name == second && meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionReady) {
		t.Spec.BootProfileRef.Name = overHTTP
	}
	x.ensure(x, t)
}

// ready waits until a target is Ready, at once if it is.
func (x *trial) ready(name string) *v1alpha1.BareMetalTarget {
	x.Helper()
	x.declare(name)
	o, _ := x.awaitTarget(name, "Ready", time.Time{}, func(o *v1alpha1.BareMetalTarget) bool {
		now := x.target(x, name)
		return now.Status.Phase == v1alpha1.TargetReady && o.ResourceVersion == now.ResourceVersion
	})
	return o
}

// bring brings a target into a phase: it waits for one that is before it on
// its way, and has one that is beyond it installed anew.
func (x *trial) bring(name string, phase v1alpha1.TargetPhase) *v1alpha1.BareMetalTarget {
	x.Helper()
	x.declare(name)
	now := x.target(x, name)
	if p := place(now.Status.Phase); now.Status.Phase != "" && (p < 0 || p > place(phase)) {
		x.update(x, name, func(s *v1alpha1.BareMetalTargetSpec) { s.InstallGeneration++ })
		now = x.target(x, name)
	}
	o, _ := x.awaitTarget(name, string(phase), time.Time{}, func(o *v1alpha1.BareMetalTarget) bool {
		return o.Status.Phase == phase && o.Status.DiskGeneration == now.Spec.InstallGeneration && o.UID == now.UID &&
			o.ResourceVersion == x.w.latest("target/"+name).GetResourceVersion()
	})
	return o
}

// evidence is what shows afterwards whether a target was touched.
type evidence struct {
	target  *v1alpha1.BareMetalTarget
	process process.Identity
	record  storage.Record
	// netboots counts how often iPXE ran, resets how often the guest reset.
	netboots, resets int
}

// machineDir is a machine's directory as this host sees it.
func (x *trial) machineDir(uid string) string { return filepath.Join(x.view, x.data, "machines", uid) }

// machineOf reads what the manager remembers of a machine.
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
	if e.record, err = storage.Load(x.machineDir(string(e.target.UID))); err != nil {
		x.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(x.view, e.target.Status.Consoles.SerialLog))
	if err != nil {
		x.Fatal(err)
	}
	e.netboots = strings.Count(string(raw), "iPXE initialising devices")
	return e
}

// sameMachine checks that the target's process is the one it was, alive. It
// needs no API.
func (x *trial) sameMachine(before evidence) {
	x.Helper()
	now, _ := x.machineOf(string(before.target.UID))
	if now != before.process || !process.Alive(now) {
		x.Errorf("the process of %s was %+v and is %+v, alive: %t", before.target.Name, before.process, now, process.Alive(now))
	}
}

// sameInstallation checks that nothing was begun anew: the attempt, the disks
// and what was known of the target are the same.
func (x *trial) sameInstallation(before evidence) {
	x.Helper()
	name := before.target.Name
	after := x.evidence(name)
	// In PXE the firmware may not have begun the boot that is meant.
	most := before.netboots
	if before.target.Status.Phase == v1alpha1.TargetPXE {
		most++
		if after.target.Status.Phase == v1alpha1.TargetInstalling && after.resets != before.resets {
			x.Errorf("%s was reset", name)
		}
	}
	if after.netboots > most {
		x.Errorf("%s booted from the network again: %d times, was %d", name, after.netboots, before.netboots)
	}
	if before.record.Installed && after.record != before.record {
		x.Errorf("the disks' record of %s was %+v and is %+v", name, before.record, after.record)
	}
	if after.record.Generation != before.record.Generation {
		x.Errorf("the disks of %s were made for installation %d and now for %d", name, before.record.Generation, after.record.Generation)
	}
	x.sameNames(before, after)
	had, has := phasesOf(before.target), phasesOf(after.target)
	if !slices.Equal(had, has[:min(len(had), len(has))]) {
		x.Errorf("the timeline of %s was %v and is %v", name, had, has)
	}
}

// sameNames checks what others know the target by.
func (x *trial) sameNames(before, after evidence) {
	x.Helper()
	b, a := before.target.Status, after.target.Status
	if b.MACAddress != a.MACAddress || b.Address != a.Address {
		x.Errorf("%s had %s %s and has %s %s", before.target.Name, b.MACAddress, b.Address, a.MACAddress, a.Address)
	}
	if len(b.SSHHostKeys) > 0 && !slices.Equal(b.SSHHostKeys, a.SSHHostKeys) {
		x.Errorf("the SSH host keys of %s were %v and are %v", before.target.Name, b.SSHHostKeys, a.SSHHostKeys)
	}
}

func phasesOf(t *v1alpha1.BareMetalTarget) []v1alpha1.TargetPhase {
	var out []v1alpha1.TargetPhase
	for _, r := range t.Status.Timeline {
		out = append(out, r.Phase)
	}
	return out
}

// bystander is a Ready target that a fault must not touch.
type bystander struct {
	evidence
	from time.Time
	boot string
}

// bystander takes note of the first target if it is Ready; nil if it is not.
func (x *trial) bystander() *bystander {
	x.Helper()
	if x.target(x, first).Status.Phase != v1alpha1.TargetReady {
		return nil
	}
	return &bystander{evidence: x.evidence(first), from: time.Now(), boot: x.bootID(first)}
}

// untouched checks that the bystander was Ready all the time and that nothing
// happened to it.
func (x *trial) untouched(b *bystander) {
	x.Helper()
	if b == nil {
		return
	}
	states, _ := x.w.since("target/"+first, b.from)
	for _, m := range states {
		if p := m.obj.(*v1alpha1.BareMetalTarget).Status.Phase; p != v1alpha1.TargetReady {
			x.Errorf("%s, which was Ready, became %s", first, p)
		}
	}
	x.sameMachine(b.evidence)
	x.sameInstallation(b.evidence)
	if now := x.bootID(first); now != b.boot {
		x.Errorf("%s was booted anew", first)
	}
}

// bootID names the present boot of a guest.
func (x *trial) bootID(name string) string {
	x.Helper()
	return x.ssh(x, name, "cat /proc/sys/kernel/random/boot_id")
}

// leaveMark writes a file to a target's disk, through to the disk.
func (x *trial) leaveMark(name string) string {
	x.Helper()
	mark := fmt.Sprintf("mark-%d", time.Now().UnixNano())
	x.ssh(x, name, "echo "+mark+" | sudo tee /root/mark >/dev/null && sudo sync")
	return mark
}

func (x *trial) findMark(name, mark string) {
	x.Helper()
	if got := x.ssh(x, name, "sudo cat /root/mark"); got != mark {
		x.Errorf("the file on the disk of %s says %q, want %q", name, got, mark)
	}
}

// leases are the addresses that the server has given, by MAC.
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

// sameLeases checks that every lease that was given still is.
func (x *trial) sameLeases(before map[string]string) {
	x.Helper()
	after := x.leases()
	for mac, address := range before {
		if after[mac] != address {
			x.Errorf("the leases changed (-before +after):\n%s", cmp.Diff(before, after))
			return
		}
	}
}

// sameObjects checks that no object was lost, or made anew.
func (x *trial) sameObjects(before map[string]string) {
	x.Helper()
	if diff := cmp.Diff(before, x.objects(x)); diff != "" {
		x.Errorf("the objects changed (-before +after):\n%s", diff)
	}
}
