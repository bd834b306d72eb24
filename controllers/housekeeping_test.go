// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/plan"
)

var _ controllers.Artifacts = (*library)(nil)

// Inventory lists what the library has made up. It was used when it was last made.
func (l *library) Inventory() ([]artifact.Stored, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []artifact.Stored
	for digest, path := range l.paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		all = append(all, artifact.Stored{Digest: digest, Bytes: info.Size(), UsedAt: l.used[digest]})
	}
	return all, nil
}

func (l *library) Recorded(src artifact.Source) (string, bool) {
	sum := sha256.Sum256([]byte(nameOf(src)))
	return "sha256:" + hex.EncodeToString(sum[:]), true
}

func (l *library) Remove(_ context.Context, unused []artifact.Stored) (artifact.Removed, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range unused {
		delete(l.paths, s.Digest)
	}
	return artifact.Removed{Files: len(unused)}, nil
}

func (l *library) FreeSpace() (int64, error) { return l.free.Load(), nil }

// stores reports whether the library has the content of a source.
func (l *library) stores(source string) bool {
	digest, _ := l.Recorded(artifact.Source{Path: source})
	_, ok := l.Path(digest)
	return ok
}

// housekeeper is a lab whose manager does its housekeeping often.
func housekeeper(t *testing.T, o controllers.Housekeeping) *lab {
	t.Helper()
	l := up(t)
	o.Interval = 50 * time.Millisecond
	l.housekeeping = o
	l.restart()
	return l
}

// lose deletes an object without its reconciler, as someone who removes finalizers does.
func (l *lab) lose(objects ...client.Object) {
	l.t.Helper()
	l.stopManager()
	for _, o := range objects {
		l.must(l.client.Get(l.ctx, client.ObjectKeyFromObject(o), o))
		update(l, o, func(o client.Object) { o.SetFinalizers(nil) })
		l.must(l.client.Delete(l.ctx, o))
		l.waitGone(o)
	}
	l.start()
}

func (l *lab) waitRemoved(o client.Object) {
	l.t.Helper()
	l.eventually(func() string {
		if state := l.state(o); state.Phase != machine.PhaseNotFound {
			return o.GetName() + "'s machine is " + string(state.Phase)
		}
		if _, err := os.Stat(l.machineDir(o)); err == nil {
			return l.machineDir(o) + " is left"
		}
		return ""
	})
}

func TestMachineWithoutObjectIsRemoved(t *testing.T) {
	l := housekeeper(t, controllers.Housekeeping{OrphanGrace: time.Hour})
	l.create(newTarget("target-1"), newTarget("target-2"))
	lost, kept := l.becomesReady("target-1"), l.becomesReady("target-2")
	l.lose(lost)
	l.waitEvent(lost, v1alpha1.ReasonOrphaned, "it is stopped and its directory is deleted at")
	if state := l.state(lost); state.Phase != machine.PhaseRunning {
		t.Errorf("within the grace period the machine is %s, want it running", state.Phase)
	}
	l.sleep(time.Hour + time.Minute)
	l.waitRemoved(lost)
	l.waitEvent(lost, v1alpha1.ReasonMachineRemoved, "its directory was deleted")
	if names, err := filepath.Glob(filepath.Join(l.data, "retained", "*")); err != nil || len(names) > 0 {
		t.Errorf("got retained disks %v, %v; want none for retention Delete", names, err)
	}
	for _, o := range []client.Object{kept, l.server("lab")} {
		if state := l.state(o); state.Phase != machine.PhaseRunning {
			t.Errorf("the machine of %s is %s, want it running", o.GetName(), state.Phase)
		}
	}
}

func TestMachineWithoutObjectKeepsRetainedDisks(t *testing.T) {
	l := housekeeper(t, controllers.Housekeeping{OrphanGrace: time.Hour})
	retained, unrecorded := newTarget("retained"), newTarget("unrecorded")
	retained.Spec.DiskRetention = v1alpha1.RetentionRetain
	l.create(retained, unrecorded)
	l.create(newTarget("target-1"), newTarget("target-2"))
	var lost []client.Object
	for _, name := range []string{"retained", "unrecorded"} {
		target := l.becomesReady(name)
		writeFile(t, plan.DiskPath(l.machineDir(target), 0), "system of "+name)
		lost = append(lost, target)
	}
	l.waitPhase("target-1", v1alpha1.TargetPXE)
	l.waitPhase("target-2", v1alpha1.TargetPXE)
	l.stopManager()
	// As a version of pxelab that did not record the owner would leave it.
	l.must(os.Remove(filepath.Join(l.machineDir(lost[1]), "owner.json")))
	l.lose(lost...)
	l.waitEvent(lost[0], v1alpha1.ReasonOrphaned, "its disks move to "+filepath.Join(l.data, "retained"))
	l.eventually(func() string { // its kind is not recorded, so that it has no Event
		l.sleep(time.Hour)
		if l.state(lost[1]).Phase != machine.PhaseNotFound {
			return "the machine without a record runs"
		}
		return ""
	})
	for i, o := range lost {
		l.waitRemoved(o)
		name := l.ns + "-" + o.GetName() + "-" + string(o.GetUID())
		disk := plan.DiskPath(filepath.Join(l.data, "retained", name), 0)
		want := "system of " + o.GetName()
		if got := readFile(t, disk, len(want)); got != want {
			t.Errorf("lost machine %d: %s holds %q, want %q", i, disk, got, want)
		}
	}
	l.waitEvent(lost[0], v1alpha1.ReasonMachineRemoved, "its disks are retained in")
}

// gate refuses lists of targets, other than those of watches, while it is closed.
type gate struct {
	closed  atomic.Bool
	refused atomic.Int32
}

func (g *gate) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if g.closed.Load() && strings.HasSuffix(r.URL.Path, "/baremetaltargets") && r.URL.Query().Get("watch") == "" && r.Method == http.MethodGet {
			g.refused.Add(1)
			return nil, fmt.Errorf("the API server is unreachable")
		}
		return next.RoundTrip(r)
	})
}

func (g *gate) refusedAtLeast(n int32) func() string {
	return func() string {
		if g.refused.Load() < n {
			return fmt.Sprintf("%d lists of targets were refused, want %d", g.refused.Load(), n)
		}
		return ""
	}
}

func TestMachinesStayWhileAPIServerCannotBeRead(t *testing.T) {
	l := housekeeper(t, controllers.Housekeeping{OrphanGrace: time.Hour})
	l.create(newTarget("target-1"), newTarget("target-2"))
	lost := l.becomesReady("target-1")
	l.becomesReady("target-2")
	gate := &gate{}
	l.wrap = gate.wrap
	gate.closed.Store(true)
	l.lose(lost)
	for range 3 {
		l.sleep(2 * time.Hour)
		l.eventually(gate.refusedAtLeast(gate.refused.Load() + 2))
	}
	if state := l.state(lost); state.Phase != machine.PhaseRunning {
		t.Errorf("the machine is %s although the API server was never read, want it running", state.Phase)
	}
	gate.closed.Store(false)
	l.waitEvent(lost, v1alpha1.ReasonOrphaned, "has no object")
	if state := l.state(lost); state.Phase != machine.PhaseRunning {
		t.Errorf("the machine is %s, want the grace period to start when it was seen", state.Phase)
	}
	l.sleep(time.Hour + time.Minute)
	l.waitRemoved(lost)
}

func TestMostMachinesWithoutObjectStay(t *testing.T) {
	l := housekeeper(t, controllers.Housekeeping{OrphanGrace: time.Hour})
	l.create(newTarget("target-1"), newTarget("target-2"))
	first, second := l.becomesReady("target-1"), l.becomesReady("target-2")
	l.lose(first, second)
	for _, o := range []client.Object{first, second} {
		l.waitEvent(o, v1alpha1.ReasonOrphaned, "2 of 3 machines have no object")
	}
	l.sleep(3 * time.Hour)
	l.reconciled(l.server("lab"))
	for _, o := range []client.Object{first, second} {
		if state := l.state(o); state.Phase != machine.PhaseRunning {
			t.Errorf("the machine of %s is %s, want it running", o.GetName(), state.Phase)
		}
	}
	// With new targets the two are no longer most of the machines, but their disks
	// stay.
	l.create(newTarget("target-3"), newTarget("target-4"))
	l.waitPhase("target-3", v1alpha1.TargetPXE)
	l.waitPhase("target-4", v1alpha1.TargetPXE)
	l.waitRemoved(first)
	l.waitRemoved(second)
	for _, o := range []client.Object{first, second} {
		disk := plan.DiskPath(filepath.Join(l.data, "retained", l.ns+"-"+o.GetName()+"-"+string(o.GetUID())), 0)
		if _, err := os.Stat(disk); err != nil {
			t.Errorf("the disk of %s is not retained: %v", o.GetName(), err)
		}
	}
}

func TestServerWithoutObjectIsRemoved(t *testing.T) {
	l := housekeeper(t, controllers.Housekeeping{OrphanGrace: time.Hour})
	other := newServer("other")
	other.Spec.Network.CIDR = "10.99.0.0/24"
	l.create(other)
	lost := l.waitReadyServer("other")
	l.lose(lost)
	l.waitEvent(lost, v1alpha1.ReasonOrphaned, "it is stopped and its directory is deleted")
	l.sleep(time.Hour + time.Minute)
	l.waitRemoved(lost)
	l.waitReadyServer("lab")
}

func TestUnusedArtifactsAreRemoved(t *testing.T) {
	l := housekeeper(t, controllers.Housekeeping{ArtifactGrace: 24 * time.Hour})
	l.library.free.Store(math.MaxInt64)
	edit := func(name string) {
		t.Helper()
		profile := l.profile("debian")
		update(l, profile, func(p *v1alpha1.BootProfile) { *p.Spec.Image.Kernel = file(name) })
		l.waitCondition(profile, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady, "")
		l.eventually(func() string {
			if p := l.profile("debian"); p.Status.ObservedGeneration != p.Generation || p.Status.Digest == "" {
				return "the edited profile is not ready"
			}
			return ""
		})
	}
	edit("kernel-2")
	l.sleep(23 * time.Hour)
	edit("kernel-3") // and so is used now
	for _, source := range []string{"debian-kernel", "kernel-2", "kernel-3"} {
		if !l.library.stores(source) {
			t.Errorf("%s was removed within its grace period", source)
		}
	}
	l.sleep(2 * time.Hour)
	l.eventually(func() string {
		if l.library.stores("debian-kernel") || l.library.stores("kernel-2") {
			return "kernels that are not referred to are left"
		}
		return ""
	})
	l.restart()
	edit("kernel-4") // the new manager has looked up every artifact
	l.sleep(48 * time.Hour)
	l.waitReadyServer("lab")
	edit("kernel-5")
	overlay := "overlay for " + string(l.profile("debian").Spec.Architecture)
	for _, source := range []string{"kernel-5", "debian-initrd", "debian.qcow2", "server.qcow2", overlay} {
		if !l.library.stores(source) {
			t.Errorf("%s was removed although it is referred to", source)
		}
	}
}

func TestUnusedArtifactsGoEarlierOnFullDisk(t *testing.T) {
	l := housekeeper(t, controllers.Housekeeping{ArtifactGrace: 24 * time.Hour, ArtifactFloor: 1 << 30})
	l.library.free.Store(2 << 30)
	l.create(newProfile("other"))
	other := l.profile("other")
	l.waitCondition(other, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady, "")
	l.must(l.client.Delete(l.ctx, other))
	l.waitGone(other)
	l.sleep(plan.ArtifactRecentUse + time.Minute)
	l.restart()
	l.reconciled(l.server("lab"))
	if !l.library.stores("other-kernel") {
		t.Error("an artifact was removed within its grace period although the disk has space")
	}
	l.library.free.Store(1 << 20)
	l.eventually(func() string {
		if l.library.stores("other-kernel") || l.library.stores("other-initrd") || l.library.stores("other.qcow2") {
			return "artifacts that are not referred to are left on a full disk"
		}
		return ""
	})
	for _, source := range []string{"debian-kernel", "debian-initrd", "debian.qcow2"} {
		if !l.library.stores(source) {
			t.Errorf("%s was removed although it is referred to", source)
		}
	}
}

// prune is a pass of the housekeeping over a real store, at a time that is far enough
// ahead for everything that is not referred to.
func prune(t *testing.T, s *artifact.Store, p v1alpha1.BootProfile) {
	t.Helper()
	stored, err := s.Inventory(func(recipe string) bool { return recipe == "stream" })
	if err != nil {
		t.Fatal(err)
	}
	in := plan.PruneInput{Referred: map[string]bool{}, Now: time.Now().Add(25 * time.Hour), Grace: 24 * time.Hour}
	refs := plan.References([]v1alpha1.BootProfile{p}, nil)
	for _, src := range refs.Sources {
		if digest, ok := s.Recorded(artifact.Source{Path: string(src.Path), Checksum: string(src.Checksum), Format: src.Format}); ok {
			in.Referred[digest] = true
		}
	}
	byDigest := map[string]artifact.Stored{}
	for _, a := range stored {
		in.Stored = append(in.Stored, plan.StoredArtifact{Digest: a.Digest, Bytes: a.Bytes, UsedAt: a.UsedAt, From: a.From})
		byDigest[a.Digest] = a
	}
	var unused []artifact.Stored
	for _, a := range plan.UnusedArtifacts(in) {
		unused = append(unused, byDigest[a.Digest])
	}
	if _, err := s.Remove(t.Context(), unused); err != nil {
		t.Fatal(err)
	}
}

// A profile that is edited a thousand times, with a restart of the manager in between,
// leaves in the store what its last version refers to.
func TestThousandProfileVersionsLeaveOne(t *testing.T) {
	const versions, batch = 1000, 50
	o := artifact.Options{Dir: filepath.Join(t.TempDir(), "store"), ImagesDir: t.TempDir()}
	var s *artifact.Store
	var last v1alpha1.BootProfile
	open := func() {
		t.Helper()
		var err error
		if s, err = artifact.Open(o); err != nil {
			t.Fatal(err)
		}
	}
	open()
	// fetch does for one version of the profile what its reconciler does.
	fetch := func(version int) (v1alpha1.BootProfile, []string) {
		name := fmt.Sprint("image-", version)
		sum := sha256.Sum256([]byte(name))
		src := artifact.Source{Path: name, Checksum: "sha256:" + hex.EncodeToString(sum[:])}
		if err := os.WriteFile(filepath.Join(o.ImagesDir, name), []byte(name), 0o600); err != nil {
			t.Error(err)
		}
		image, err := s.Ensure(t.Context(), src, nil)
		if err != nil {
			t.Error(err)
		}
		stream, err := s.Derive(t.Context(), image, "stream", nil, func(_ context.Context, b *artifact.Build) (map[string]string, error) {
			return nil, os.WriteFile(b.Path, []byte("stream of "+name), 0o600)
		})
		if err != nil {
			t.Error(err)
		}
		profile := v1alpha1.BootProfile{Spec: v1alpha1.BootProfileSpec{Image: &v1alpha1.ImageBoot{
			Source: v1alpha1.BootImageSource{Path: v1alpha1.ArtifactPath(src.Path), Checksum: v1alpha1.Checksum(src.Checksum)},
			Kernel: &v1alpha1.ArtifactSource{}, Initrd: &v1alpha1.ArtifactSource{},
		}}}
		return profile, []string{image.Digest, stream.Digest}
	}
	var want []string
	for first := 1; first < versions; first += batch {
		// In any order, which saves waiting for the disk; the last comes last.
		var all sync.WaitGroup
		for version := first; version < first+batch-1; version++ {
			all.Go(func() { fetch(version) })
		}
		all.Wait()
		var profile v1alpha1.BootProfile
		if profile, want = fetch(first + batch - 1); first%(2*batch) == 1 {
			prune(t, s, profile)
		}
		if first == versions/2+1 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			open()
		}
		if t.Failed() {
			t.FailNow()
		}
		last = profile
	}
	prune(t, s, last)
	defer func() { _ = s.Close() }()
	left, err := os.ReadDir(filepath.Join(o.Dir, "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range left {
		got = append(got, "sha256:"+e.Name())
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("content after %d versions (-want +got):\n%s", versions, diff)
	}
	for _, sub := range []string{"verified", "derived", "sources", "partial"} {
		records, err := os.ReadDir(filepath.Join(o.Dir, sub))
		if err != nil || len(records) > len(want) {
			t.Errorf("%s: got %d files, %v; want at most %d", sub, len(records), err, len(want))
		}
	}
	if locks, err := os.ReadDir(filepath.Join(o.Dir, "locks")); err != nil || len(locks) > 0 {
		t.Errorf("locks: got %d files, %v; want none", len(locks), err)
	}
}
