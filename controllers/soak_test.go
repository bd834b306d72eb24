// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers"
	"github.com/pxelab/pxelab/internal/plan"
)

// soak is a lab on a real host, and what was counted in it.
type soak struct {
	*lab
	host *realHost
	// installed counts installations, edits the versions of the profile.
	installed, edits int
}

// Targets come and go in rounds: created, installed, power-cycled, deleted. Each round
// installs another version of the profile, and what only the last one needed is removed
// from the artifact store. What all of that costs is given back: artifacts, machines in
// the runner's memory, processes, descriptors, goroutines, heap and disk space.
// "make soak" asks for the full size, of at least a thousand installations: SOAK_TARGETS
// targets in each of SOAK_ROUNDS rounds, after SOAK_FILL others.
//
// Tables keep the size that they once had: Go's maps do not shrink, and
// client-go has one of the Events of the last twelve minutes, of as many rounds
// as that is. So the full soak has rounds that fill them before what is there is
// noted, and the later ones are no faster, should the machine be less busy by then.
func TestSoak(t *testing.T) {
	targets, rounds, fill := number(t, "SOAK_TARGETS", 20, 2), number(t, "SOAK_ROUNDS", 3, 2), number(t, "SOAK_FILL", 0, 0)
	full := fill > 0
	l := &soak{lab: newLab(t)}
	l.housekeeping = controllers.Housekeeping{Interval: time.Second, ArtifactGrace: plan.ArtifactRecentUse, OrphanGrace: time.Hour}
	l.host = l.useRealHost()
	// Rounds take as long as the machine needs; one that is stuck is noticed.
	ctx, cancel := context.WithTimeout(context.Background(), limit+time.Duration(targets*(fill+rounds))*2*time.Second+2*forgotten)
	defer cancel()
	l.ctx = ctx
	server := l.host.newServer("lab")
	l.create(server, l.host.newProfile("debian"))
	l.waitReadyServer("lab")
	// From now on artifacts are removed as soon as nothing refers to them.
	l.sleep(plan.ArtifactRecentUse + time.Minute)
	guests := l.runGuests("lab", l.host)
	defer guests()

	l.soakRound(2) // what is made once is made
	t.Logf("before any: %s", l.footprint())
	began := time.Now()
	l.soakRounds("to fill tables, round", fill, targets, 0)
	l.installed = 0 // those that count are of the rounds below
	start, pace := l.footprint(), time.Duration(0)
	if full {
		pace = time.Since(began) / time.Duration(fill)
		start = l.settled(start, nil)
	}
	l.heapProfile("start")
	t.Logf("before: %s", start)
	l.soakRounds("round", rounds, targets, pace)
	over := func(u footprint) []string { return u.over(start, full) }
	end := l.settled(l.footprint(), over)
	t.Logf("after: %s", end)
	l.heapProfile("end")
	for _, over := range over(end) {
		t.Error("after all rounds: got " + over)
	}
	if want := targets * rounds; l.installed != want {
		t.Errorf("got %d installations, want %d", l.installed, want)
	}
	t.Logf("%d installations, %d versions of the profile", l.installed, l.edits)
}

// forgotten is after how long client-go has forgotten an Event for sure: it
// keeps it for six minutes, and looks every six.
const forgotten = 13 * time.Minute

// settled waits until what the last rounds needed is forgotten, or nothing is
// over any more.
func (l *soak) settled(u footprint, over func(footprint) []string) footprint {
	l.t.Helper()
	for until := time.Now().Add(forgotten); time.Now().Before(until); {
		if over != nil && len(over(u)) == 0 {
			break
		}
		time.Sleep(time.Second)
		u = l.footprint()
	}
	return u
}

// soakRounds lets each round take as long as the pace at least.
func (l *soak) soakRounds(name string, rounds, targets int, pace time.Duration) {
	l.t.Helper()
	for round := range rounds {
		began := time.Now()
		l.soakRound(targets)
		l.t.Logf("%s %d: %d targets in %s: %s", name, round+1, targets, time.Since(began).Round(time.Second), l.footprint())
		time.Sleep(pace - time.Since(began))
	}
}

// heapProfile writes what the heap holds to a file in SOAK_PROFILES, if that is
// set, where "go tool pprof -base start.pprof end.pprof" compares them.
func (l *lab) heapProfile(name string) {
	l.t.Helper()
	dir := os.Getenv("SOAK_PROFILES")
	if dir == "" {
		return
	}
	l.must(os.MkdirAll(dir, 0o755))
	f, err := os.Create(filepath.Join(dir, name+".pprof"))
	if err == nil {
		err = errors.Join(pprof.Lookup("heap").WriteTo(f, 0), f.Close())
	}
	l.must(err)
}

func number(t *testing.T, name string, otherwise, least int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least {
		t.Fatalf("%s: got %q, want a number of at least %d", name, text, least)
	}
	return n
}

func (l *soak) soakRound(targets int) {
	l.t.Helper()
	l.editProfile()
	for i := range targets {
		target := newTarget(fmt.Sprintf("target-%d", i))
		l.create(target)
	}
	l.waitAll(targets, v1alpha1.TargetReady)
	l.countInstalled()
	for _, power := range []v1alpha1.PowerState{v1alpha1.PowerOff, v1alpha1.PowerOn} {
		for i := range targets {
			update(l.lab, l.target(fmt.Sprintf("target-%d", i)), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Power = power })
		}
		if power == v1alpha1.PowerOff {
			l.waitAll(targets, v1alpha1.TargetStopped)
		}
	}
	l.waitAll(targets, v1alpha1.TargetReady)
	l.checkBoots()
	l.must(l.client.DeleteAllOf(l.ctx, &v1alpha1.BareMetalTarget{}, client.InNamespace(l.ns)))
	l.waitAll(0, "")
	l.waitReadyServer("lab")
}

// editProfile gives the profile another kernel and waits until the former one, which
// nothing refers to, was removed from the store.
func (l *soak) editProfile() {
	l.t.Helper()
	l.edits++
	former := l.profile("debian")
	kernel := l.host.kernel(l.edits)
	update(l.lab, l.profile("debian"), func(p *v1alpha1.BootProfile) { *p.Spec.Image.Kernel = kernel })
	l.eventually(func() string {
		_, stored := l.host.content.Path(string(former.Spec.Image.Kernel.Checksum))
		_, fetched := l.host.content.Path(string(kernel.Checksum))
		if stored || !fetched {
			return fmt.Sprintf("the former kernel is stored: %t, the new one: %t", stored, fetched)
		}
		return ""
	})
}

// countInstalled counts the targets, of which each has been installed once.
func (l *soak) countInstalled() {
	l.t.Helper()
	digest := l.profile("debian").Status.Digest
	for _, bmt := range l.targets() {
		installed := meta.IsStatusConditionTrue(bmt.Status.Conditions, v1alpha1.ConditionInstalled)
		if got := bmt.Status.InstalledProfileDigest; !installed || got != digest {
			l.t.Errorf("%s: got it installed: %t, profile digest %q; want true, %q", bmt.Name, installed, got, digest)
			continue
		}
		l.installed++
	}
}

// checkBoots asserts that each target has booted once from its network and then, after
// its power-off, from its disk.
func (l *soak) checkBoots() {
	l.t.Helper()
	const want = "fake firmware boots lab\r\nfake firmware boots disk0\r\n"
	for _, bmt := range l.targets() {
		got, err := os.ReadFile(l.paths(string(bmt.UID)).SerialLog)
		l.must(err)
		if string(got) != want {
			l.t.Errorf("serial log of %s: got %q, want %q", bmt.Name, got, want)
		}
	}
}

func (l *soak) targets() []v1alpha1.BareMetalTarget {
	l.t.Helper()
	list := &v1alpha1.BareMetalTargetList{}
	l.must(l.client.List(l.ctx, list, client.InNamespace(l.ns)))
	return list.Items
}

// waitAll waits until there are n targets, all in one phase. It has as long as
// they move at all.
func (l *lab) waitAll(n int, phase v1alpha1.TargetPhase) {
	l.t.Helper()
	best, moved := -1, time.Now()
	for {
		list := &v1alpha1.BareMetalTargetList{}
		l.must(l.client.List(l.ctx, list, client.InNamespace(l.ns)))
		there := 0
		for i := range list.Items {
			if list.Items[i].Status.Phase == phase {
				there++
			}
		}
		if there == n && len(list.Items) == n {
			return
		}
		if progress := there - len(list.Items); progress != best {
			best, moved = progress, time.Now()
		}
		if time.Since(moved) > limit {
			l.t.Fatalf("got %d targets in phase %s, want %d\n%s", there, phase, n, l.dump())
		}
		time.Sleep(200*time.Millisecond + time.Duration(n)*2*time.Millisecond) // a large list is work
	}
}
