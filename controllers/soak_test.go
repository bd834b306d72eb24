// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strconv"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/agent"
)

// Targets come and go in rounds: created, installed, power-cycled, deleted.
// What they cost is given back. "make soak" asks for the full size.
//
// Tables keep the size that they once had: Go's maps do not shrink, and
// client-go has one of the Events of the last twelve minutes, of as many rounds
// as that is. So the full soak has rounds that fill them before what is there is
// noted, and the later ones are no faster, should the machine be less busy by then.
func TestSoak(t *testing.T) {
	targets, rounds, fill := number(t, "SOAK_TARGETS", 20, 2), number(t, "SOAK_ROUNDS", 3, 2), number(t, "SOAK_FILL", 0, 0)
	full := fill > 0
	l := newLab(t)
	// Rounds take as long as the machine needs; one that is stuck is noticed.
	ctx, cancel := context.WithTimeout(context.Background(), limit+time.Duration(targets*(fill+rounds))*2*time.Second+2*forgotten)
	defer cancel()
	l.ctx = ctx
	server := newServer("lab")
	server.Spec.Network.CIDR = "10.88.0.0/21"
	l.create(server, newProfile("debian"))
	l.waitReadyServer("lab")
	guests := l.runGuests()
	defer guests()

	l.soakRound(2) // what is made once is made
	t.Logf("before any: %s", l.footprint())
	began := time.Now()
	l.soakRounds("to fill tables, round", fill, targets, 0)
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
		t.Error(over)
	}
}

// forgotten is after how long client-go has forgotten an Event for sure: it
// keeps it for six minutes, and looks every six.
const forgotten = 13 * time.Minute

// settled waits until what the last rounds needed is forgotten, or nothing is
// over any more.
func (l *lab) settled(u footprint, over func(footprint) []string) footprint {
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
func (l *lab) soakRounds(name string, rounds, targets int, pace time.Duration) {
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
		t.Fatalf("%s=%q is no number of at least %d", name, text, least)
	}
	return n
}

func (l *lab) soakRound(targets int) {
	l.t.Helper()
	for i := range targets {
		target := newTarget(fmt.Sprintf("target-%d", i))
		l.create(target)
	}
	l.waitAll(targets, v1alpha1.TargetReady)
	for _, power := range []v1alpha1.PowerState{v1alpha1.PowerOff, v1alpha1.PowerOn} {
		for i := range targets {
			update(l, l.target(fmt.Sprintf("target-%d", i)), func(t *v1alpha1.BareMetalTarget) { t.Spec.Power = power })
		}
		if power == v1alpha1.PowerOff {
			l.waitAll(targets, v1alpha1.TargetStopped)
		}
	}
	l.waitAll(targets, v1alpha1.TargetReady)
	l.must(l.client.DeleteAllOf(l.ctx, &v1alpha1.BareMetalTarget{}, client.InNamespace(l.ns)))
	l.waitAll(0, "")
	l.waitReadyServer("lab")
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
			l.t.Fatalf("%d of %d are %s\n%s", there, n, phase, l.dump())
		}
		time.Sleep(200*time.Millisecond + time.Duration(n)*2*time.Millisecond) // a large list is work
	}
}

// runGuests lets every machine do at once whatever it is started for, until it
// is told to stop.
func (l *lab) runGuests() (stop func()) {
	n := l.netbootd("lab")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for last := ""; ; {
			config, err := n.WaitConfig(ctx, func(c agent.Config) bool { return c.Digest() != last })
			if err != nil {
				return
			}
			last = config.Digest()
			n.Forget()
			n.change(func(s *agent.State) { s.Machines = goOn(config, s.Machines) })
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// goOn is what is seen of the machines there are, which do all they are to do.
func goOn(config agent.Config, seen map[string]agent.MachineState) map[string]agent.MachineState {
	next, now := make(map[string]agent.MachineState, len(config.Machines)), time.Now().UTC()
	for _, m := range config.Machines {
		s := seen[m.UID]
		if s.Attempt != m.Attempt {
			s = agent.MachineState{Attempt: m.Attempt}
		}
		switch {
		case m.PowerOn == "":
		case m.Boot == agent.BootInstall && s.Install == nil:
			s.DiscoverAt, s.RequestAt, s.ProgramAt, s.ScriptAt, s.KernelAt, s.InitrdAt = now, now, now, now, now, now
			s.ProfileDigest = m.ProfileDigest
			s.Install = &agent.InstallState{StartedAt: now, UpdatedAt: now, Stage: "Done", BytesWritten: 1, BytesTotal: 1, DoneAt: now}
		case m.Boot == agent.BootDisk:
			s.CloudInitAt = now
			s.PhoneHome = &agent.PhoneHome{At: now, Hostname: m.Hostname, HostKeys: []string{"ssh-ed25519 AAAA " + m.Name}}
			s.SSH = agent.SSHState{PowerOn: m.PowerOn, Up: true, CheckedAt: now, UpSince: now}
		}
		next[m.UID] = s
	}
	return next
}

// footprint is what this process and its host directories take.
type footprint struct {
	goroutines, descriptors, files int
	disk                           int64  // bytes in files
	heap                           uint64 // bytes in use
}

func (u footprint) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %.2f MB heap, %d files of %d bytes",
		u.goroutines, u.descriptors, float64(u.heap)/1e6, u.files, u.disk)
}

func (l *lab) footprint() footprint {
	l.t.Helper()
	var u footprint
	for _, dir := range []string{l.data, l.runtime} {
		_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return nil
			}
			if info, err := e.Info(); err == nil {
				u.files++
				u.disk += info.Size()
			}
			return nil
		})
	}
	if open, err := os.ReadDir("/dev/fd"); err == nil {
		u.descriptors = len(open)
	}
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	u.goroutines, u.heap = runtime.NumGoroutine(), m.HeapAlloc
	return u
}

// over says what is more than before, give or take 5 % and a connection that
// comes and goes. Of what a few targets take, 5 % is less than the Events of
// the last minutes, for which only the full soak waits.
func (u footprint) over(before footprint, full bool) []string {
	var out []string
	events := 1e6
	if full {
		events = 0
	}
	for _, c := range []struct {
		what          string
		before, after float64
		slack         float64
	}{
		{"goroutines", float64(before.goroutines), float64(u.goroutines), 4},
		{"descriptors", float64(before.descriptors), float64(u.descriptors), 4},
		{"bytes of heap", float64(before.heap), float64(u.heap), events},
		{"bytes on disk", float64(before.disk), float64(u.disk), 0},
		{"files", float64(before.files), float64(u.files), 0},
	} {
		if c.after > c.before*1.05+c.slack {
			out = append(out, fmt.Sprintf("%s: %.0f, and %.0f before the first round", c.what, c.after, c.before))
		}
	}
	return out
}
