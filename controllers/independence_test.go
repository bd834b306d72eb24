// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// An edit of a profile sends the text that changed: its files stay on the server.
func TestEditedProfileKeepsItsFilesOnTheServer(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	entry := l.waitMachine(target, func(m netbootapi.Machine) bool { return m.ProfileDigest != "" })
	files := entry.Files()
	for i := range 10 {
		want := fmt.Sprintf("#cloud-config\n# edit %d\n", i)
		update(l, l.profile("debian"), func(p *v1alpha1.BootProfile) { p.Spec.UserData = &v1alpha1.TextSource{Inline: want} })
		m := l.waitMachine(target, func(m netbootapi.Machine) bool {
			text, _ := l.netbootd("lab").Text(m.UserDataTemplate.Digest)
			return text == want
		})
		if got := m.Files(); len(got) != len(files) {
			t.Errorf("edit %d: got an entry with %d files, want %d", i, len(got), len(files))
		}
	}
	for _, file := range files {
		if n := l.machines.uploads(file.Digest); n != 1 {
			t.Errorf("%s: got %d uploads, want 1", file.Digest, n)
		}
	}
}

// A target whose entry netbootd refuses reports that itself; the others are installed.
func TestRefusedEntryConcernsItsTargetOnly(t *testing.T) {
	l := up(t)
	l.library.fail("debian-kernel", errors.New("not yet"))
	bad := newTarget("bad")
	l.create(newProfile("other"), bad)
	l.netbootd("lab").RefuseMachine(string(bad.UID), fmt.Errorf("%w: its host name is taken", netbootapi.ErrInvalid))
	l.library.fail("debian-kernel", nil)
	l.waitCondition(bad, v1alpha1.ConditionReady, "False", v1alpha1.ReasonWaitingForServer,
		"server lab did not accept this target: ")
	good := newTarget("good")
	l.create(good)
	l.becomesReady("good")
	if got := l.target("bad").Status.Message; !strings.Contains(got, "its host name is taken") {
		t.Errorf("got message %q, want netbootd's reason", got)
	}
	l.checkStarts(bad, 0)
	l.netbootd("lab").RefuseMachine(string(bad.UID), nil)
	update(l, l.target("bad"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Hostname = "another" })
	l.becomesReady("bad")
}

// statusWrites counts the writes of statuses by kind and name. It is safe for
// concurrent use.
type statusWrites struct {
	mu sync.Mutex
	n  map[string]int
}

// wrap counts what goes through a transport.
func (c *statusWrites) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if parts := strings.Split(r.URL.Path, "/"); r.Method == http.MethodPatch && parts[len(parts)-1] == "status" {
			c.mu.Lock()
			if c.n == nil {
				c.n = map[string]int{}
			}
			c.n[strings.Join(parts[len(parts)-3:len(parts)-1], "/")]++
			c.mu.Unlock()
		}
		return next.RoundTrip(r)
	})
}

// of returns the number of writes of one object; all returns the sum.
func (c *statusWrites) of(object string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[object]
}

func (c *statusWrites) all() (sum int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.n {
		sum += n
	}
	return sum
}

// newCountedLab is up with a manager whose writes are counted.
func newCountedLab(t *testing.T) (*lab, *statusWrites) {
	t.Helper()
	writes := &statusWrites{}
	l := newLab(t)
	l.wrap = writes.wrap
	l.restart()
	l.create(newServer("lab"), newProfile("debian"))
	l.waitReadyServer("lab")
	l.waitCondition(l.profile("debian"), v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady, "")
	return l, writes
}

// An installer reports several times a second. The status shows it per percent or five
// seconds, and no report wakes the server.
func TestInstallerReportsAreWrittenSparingly(t *testing.T) {
	l, writes := newCountedLab(t)
	l.create(newTarget("target-1"))
	target := l.waitPhase("target-1", v1alpha1.TargetPXE)
	l.installs(target, 1)
	l.waitPhase("target-1", v1alpha1.TargetInstalling)
	server := l.server("lab")
	before, looks, began := writes.of("baremetaltargets/target-1"), l.machines.observations(string(server.UID)), time.Now()
	const reports = 50
	for i := range reports {
		l.sawTarget(target, func(m *netbootapi.MachineState) {
			install := *m.Install
			install.BytesTotal = 1 << 40
			install.BytesWritten = int64(i + 2)
			m.Install = &install
		})
		seen := l.machines.observations(string(target.UID))
		l.eventually(func() string {
			if l.machines.observations(string(target.UID)) == seen {
				return "the report does not wake the target"
			}
			return ""
		})
	}
	most := 2 + int(time.Since(began)/(5*time.Second))
	if got := writes.of("baremetaltargets/target-1") - before; got > most {
		t.Errorf("%d reports of 0%%: got %d writes of the status, want at most %d", reports, got, most)
	}
	// The server looks at its machine every 30 s, and after other events.
	most = 3 + int(time.Since(began)/(5*time.Second))
	if got := l.machines.observations(string(server.UID)) - looks; got > most {
		t.Errorf("%d reports: got %d reconciliations of the server, want at most %d", reports, got, most)
	}
}

// A target that passes several steps of a network boot at once is reconciled for each of
// them; its status is written once, with the last one.
func TestBurstOfStepsIsWrittenOnce(t *testing.T) {
	l, writes := newCountedLab(t)
	l.create(newTarget("target-1"))
	target := l.waitPhase("target-1", v1alpha1.TargetPXE)
	before, began := writes.of("baremetaltargets/target-1"), time.Now()
	for _, step := range []func(*netbootapi.MachineState){
		func(m *netbootapi.MachineState) { m.DiscoverAt = began },
		func(m *netbootapi.MachineState) { m.RequestAt = began },
		func(m *netbootapi.MachineState) { m.ProgramAt = began },
		func(m *netbootapi.MachineState) { m.ScriptAt = began },
		func(m *netbootapi.MachineState) { m.KernelAt, m.InitrdAt = began, began },
	} {
		seen := l.machines.observations(string(target.UID))
		l.sawTarget(target, step)
		l.eventually(func() string {
			if l.machines.observations(string(target.UID)) == seen {
				return "the step does not wake the target"
			}
			return ""
		})
	}
	l.waitTarget("target-1", "the last step", func(bmt *v1alpha1.BareMetalTarget) bool { return bmt.Status.Progress == "starting installer" })
	most := 1 + int(time.Since(began)/(5*time.Second))
	if got := writes.of("baremetaltargets/target-1") - before; got > most {
		t.Errorf("got %d writes of the status, want at most %d", got, most)
	}
	// A phase and its start are written at once.
	l.installs(target, 1)
	after := l.waitPhase("target-1", v1alpha1.TargetInstalling)
	if last := after.Status.Timeline[len(after.Status.Timeline)-1]; last.Phase != v1alpha1.TargetInstalling {
		t.Errorf("got phase %s at the end of the timeline, want %s", last.Phase, v1alpha1.TargetInstalling)
	}
}

// Requests of unknown clients that ask again and again write nothing and wake no
// target.
func TestUnknownClientsWakeNoTarget(t *testing.T) {
	l, writes := newCountedLab(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	strangers := func(minute int) {
		l.netbootd("lab").Update(func(s *netbootapi.State) {
			s.Unknown = nil
			for i := range 20 {
				s.Unknown = append(s.Unknown, netbootapi.UnknownClient{
					MAC: fmt.Sprintf("02:00:00:00:00:%02x", i), LastSeen: time.Unix(int64(60*minute), 0).UTC(),
				})
			}
			// The order in which they asked last is another one each time.
			for i := range s.Unknown {
				j := (i*7 + minute) % len(s.Unknown)
				s.Unknown[i], s.Unknown[j] = s.Unknown[j], s.Unknown[i]
			}
		})
	}
	server := l.server("lab")
	strangers(0)
	l.eventually(func() string {
		if len(l.server("lab").Status.UnknownClients) == 0 {
			return "the unknown clients are not reported"
		}
		return ""
	})
	l.reconciled(target, server)
	written, looks := writes.all(), l.machines.observations(string(target.UID))
	for minute := range 100 {
		strangers(minute + 1)
	}
	l.reconciled(server)
	if got := writes.all() - written; got != 0 {
		t.Errorf("100 requests of known strangers: got %d writes of statuses, want none", got)
	}
	if got := l.machines.observations(string(target.UID)) - looks; got > 1 {
		t.Errorf("100 requests of strangers: got %d reconciliations of a target, want none but the periodic one", got)
	}
}

// A server whose spec became invalid keeps its last valid configuration, and its machines
// their network; Valid names the field.
func TestInvalidEditOfServerKeepsItsMachinesRunning(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	server := l.server("lab")
	puts := l.netbootd("lab").ServerPuts()
	plugged := func(o client.Object) {
		t.Helper()
		l.eventually(func() string {
			if _, err := os.Stat(filepath.Join(l.state(o).Paths.Sockets, "sw")); err != nil {
				return fmt.Sprintf("%s is not on its network: %v", o.GetName(), err)
			}
			return ""
		})
	}
	update(l, server, func(s *v1alpha1.ProvisioningServer) {
		s.Spec.Network.DHCP = &v1alpha1.DHCPSpec{RangeStart: "10.88.0.200", RangeEnd: "10.88.0.150"}
	})
	l.waitCondition(server, v1alpha1.ConditionValid, "False", v1alpha1.ReasonInvalid, "spec.network.dhcp: rangeEnd")
	for _, restarted := range []bool{false, true} {
		if restarted {
			l.restart()
		}
		l.reconciled(server, target)
		plugged(server)
		plugged(target)
		if got := l.server("lab").Status; got.Phase != v1alpha1.ServerReady || !strings.Contains(got.Message, "keeps its last valid configuration") {
			t.Errorf("manager restarted %t: got server in phase %s, message %q; want Ready with the last valid configuration",
				restarted, got.Phase, got.Message)
		}
		if got := l.target("target-1").Status.Phase; got != v1alpha1.TargetReady {
			t.Errorf("manager restarted %t: got target in phase %s, want Ready", restarted, got)
		}
	}
	if got := l.netbootd("lab").ServerPuts(); got != puts {
		t.Errorf("got %d configurations, want the %d before the edit", got, puts)
	}
	l.checkStarts(server, 1)
	l.checkStarts(target, 1)
	// What is new has to wait for a valid one.
	second := newTarget("target-2")
	l.create(second)
	l.waitCondition(second, v1alpha1.ConditionReady, "False", v1alpha1.ReasonWaitingForServer, "rangeEnd 10.88.0.150")
	update(l, l.server("lab"), func(s *v1alpha1.ProvisioningServer) { s.Spec.Network.DHCP.RangeEnd = "10.88.0.250" })
	l.waitCondition(server, v1alpha1.ConditionValid, "True", v1alpha1.ReasonValid, "")
	l.becomesReady("target-2")
}

// After an invalid edit of a profile, an installed target keeps what it is served.
func TestInvalidEditOfProfileKeepsWhatIsServed(t *testing.T) {
	l := up(t)
	update(l, l.profile("debian"), func(p *v1alpha1.BootProfile) {
		p.Spec.UserData = &v1alpha1.TextSource{Inline: "#cloud-config\n# good\n"}
	})
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	good := l.waitMachine(target, func(m netbootapi.Machine) bool { return l.text(m.UserDataTemplate) == "#cloud-config\n# good\n" })
	update(l, l.profile("debian"), func(p *v1alpha1.BootProfile) { p.Spec.UserData.Inline = "#cloud-config\n{{ .Unfinished" })
	l.waitCondition(l.profile("debian"), v1alpha1.ConditionValid, "False", v1alpha1.ReasonBadTemplate, "spec.userData")
	l.reconciled(target)
	l.restart()
	l.reconciled(target)
	if m, _ := l.netbootd("lab").Machine(string(target.UID)); m.UserDataTemplate != good.UserDataTemplate || m.Image != good.Image {
		t.Errorf("after an invalid edit: got entry %+v, want that of the last valid profile", m)
	}
	if got := l.target("target-1").Status.Phase; got != v1alpha1.TargetReady {
		t.Errorf("after an invalid edit: got phase %s, want Ready", got)
	}
}

// A server whose boot program cannot be fetched keeps serving with the one that it has,
// also for a manager that has just started.
func TestMissingProgramKeepsServerConnected(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.waitPhase("target-1", v1alpha1.TargetPXE)
	l.installs(target, 370)
	l.waitPhase("target-1", v1alpha1.TargetInstalling)
	l.library.fail("no-such.efi", errors.New("404 Not Found"))
	server := l.server("lab")
	before, _ := l.netbootd("lab").Server()
	update(l, server, func(s *v1alpha1.ProvisioningServer) {
		s.Spec.IPXE = []v1alpha1.IPXEProgram{{Architecture: v1alpha1.ArchitectureX86_64, Source: file("no-such.efi")}}
	})
	l.waitCondition(server, v1alpha1.ConditionImageReady, "False", v1alpha1.ReasonArtifactError, "404 Not Found")
	l.restart()
	l.finishes(target)
	l.waitPhase("target-1", v1alpha1.TargetBooting)
	l.waitCondition(server, v1alpha1.ConditionImageReady, "False", v1alpha1.ReasonArtifactError, "404 Not Found")
	l.eventually(func() string {
		if s := l.server("lab"); s.Status.Phase != v1alpha1.ServerReady || !strings.Contains(s.Status.Message, "404 Not Found") {
			return fmt.Sprintf("the server is %s with message %q", s.Status.Phase, s.Status.Message)
		}
		return ""
	})
	if after, _ := l.netbootd("lab").Server(); len(after.Programs) != len(before.Programs) {
		t.Errorf("got programs %+v, want %+v", after.Programs, before.Programs)
	}
	l.library.fail("no-such.efi", nil)
	l.sleep(10 * time.Minute)
	l.reconciled(server)
	l.waitCondition(server, v1alpha1.ConditionImageReady, "True", v1alpha1.ReasonAvailable, "")
}

// A target that is removed from the API without its finalizer, while the manager runs,
// gives up its address.
func TestLostTargetGivesUpItsAddress(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	lost := l.becomesReady("target-1")
	update(l, lost, func(bmt *v1alpha1.BareMetalTarget) { bmt.Finalizers = nil })
	l.must(l.client.Delete(l.ctx, lost))
	l.waitGone(lost)
	l.create(newTarget("target-2"))
	l.becomesReady("target-2")
	if got, want := l.target("target-2").BootNICStatus().Address(), lost.BootNICStatus().Address(); got != want {
		t.Errorf("got address %s, want that of the lost target, %s", got, want)
	}
}

// A target that is deleted is forgotten by netbootd.
func TestServerForgetsTargetsThatAreGone(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"), newTarget("target-2"))
	target, kept := l.waitPhase("target-1", v1alpha1.TargetPXE), l.waitPhase("target-2", v1alpha1.TargetPXE)
	l.must(l.client.Delete(l.ctx, target))
	l.waitGone(target)
	l.eventually(func() string {
		if _, there := l.netbootd("lab").Machine(string(target.UID)); there {
			return "netbootd still has the deleted target"
		}
		return ""
	})
	if _, there := l.netbootd("lab").Machine(string(kept.UID)); !there {
		t.Error("the other target: got no entry, want it kept")
	}
}

// hostileSet has the numbers of hostile targets that are more than one of a kind.
type hostileSet struct{ large, hung, silent int }

// count returns the number of hostileTargets of the set.
func (s hostileSet) count() int { return 1 + 1 + s.large + s.hung + s.silent + 1 }

// hostileTargets declares targets that use more of everything than others, each for
// another reason, and returns what each reports: the names by a part of its message.
func (l *lab) hostileTargets(set hostileSet) map[string]string {
	l.t.Helper()
	expect := map[string]string{}
	declare := func(name, message string, edit func(*v1alpha1.BootProfile)) *v1alpha1.BareMetalTarget {
		profile, target := newProfile(name), newTarget(name)
		edit(profile)
		target.Spec.BootProfileRef.Name = name
		l.create(profile, target)
		expect[name] = message
		return target
	}
	inline := func(text string) func(*v1alpha1.BootProfile) {
		return func(p *v1alpha1.BootProfile) { p.Spec.UserData = &v1alpha1.TextSource{Inline: text} }
	}
	// Straight-line code: it has one step for the template's limit of steps.
	declare("assignments", "profile assignments with this target's values", inline(
		"#cloud-config\n{{ $x := `"+strings.Repeat("x", 1<<10)+"` }}"+strings.Repeat("{{ $x = printf `%s%s` $x $x }}", 40)+"\n"))
	l.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "latin1", Labels: templateLabel},
		Data: map[string][]byte{"user-data": []byte("#cloud-config\n# caf\xe9\n")}})
	declare("latin1", "not valid UTF-8", func(p *v1alpha1.BootProfile) {
		p.Spec.UserData = &v1alpha1.TextSource{SecretRef: &v1alpha1.SecretKeyReference{Name: "latin1", Key: "user-data"}}
	})
	for i := range set.large {
		name := fmt.Sprintf("large-%d", i)
		declare(name, "", inline("#cloud-config\n# "+name+"\n#"+strings.Repeat("x", 257_000)+"\n"))
	}
	for i := range set.hung {
		l.machines.Hang(string(declare(fmt.Sprintf("hung-%d", i), "", func(*v1alpha1.BootProfile) {}).UID))
	}
	for i := range set.silent {
		declare(fmt.Sprintf("silent-%d", i), "SSH", func(*v1alpha1.BootProfile) {})
	}
	resets := declare("resets", "", func(*v1alpha1.BootProfile) {})
	l.resetting(string(resets.UID))
	return expect
}

// resetting resets a machine every second, until the end of the test.
func (l *lab) resetting(uid string) {
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_ = l.machines.Reset(l.ctx, uid) // an error: it does not run at the moment
			case <-done:
				return
			}
		}
	})
	l.t.Cleanup(func() {
		close(done)
		running.Wait()
	})
}

// healthyTargets declares n targets and returns how long all of them take to be Ready.
func (l *lab) healthyTargets(round string, n int) time.Duration {
	l.t.Helper()
	began := time.Now()
	labels := map[string]string{"round": round}
	for i := range n {
		target := newTarget(fmt.Sprintf("%s-%d", round, i))
		target.Labels = labels
		l.create(target)
	}
	l.eventually(func() string {
		list := &v1alpha1.BareMetalTargetList{}
		l.must(l.client.List(l.ctx, list, client.InNamespace(l.ns), client.MatchingLabels(labels)))
		ready := 0
		for i := range list.Items {
			if list.Items[i].Status.Phase == v1alpha1.TargetReady {
				ready++
			}
		}
		if ready < n {
			return fmt.Sprintf("%d of %d targets of %s are Ready", ready, n, round)
		}
		return ""
	})
	return time.Since(began)
}

// Targets that are hostile, large or slow delay no others, and each reports its own
// reason. LOAD=full has as many as a lab would notice.
func TestHostileTargetsDelayNoOthers(t *testing.T) {
	set, healthy := hostileSet{large: 8, hung: 2, silent: 4}, 10
	if fullLoad() {
		set, healthy = hostileSet{large: 40, hung: 5, silent: 16}, 20
	}
	l := newLab(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*limit)
	defer cancel()
	l.ctx = ctx
	server := newServer("lab")
	server.Spec.Network.CIDR = "10.88.0.0/22"
	l.create(server, newProfile("debian"))
	l.waitReadyServer("lab")
	guests := l.runGuests("lab", l.machines.Fake)
	defer guests()
	const most = 1.5
	// What else the host does makes a round slower, never faster: the fastest counts.
	rounds := func(name string, n int, enough time.Duration) (fastest time.Duration) {
		for i := 0; i < n && (i == 0 || fastest > enough); i++ {
			took := l.healthyTargets(fmt.Sprintf("%s-%d", name, i), healthy)
			if fastest == 0 || took < fastest {
				fastest = took
			}
		}
		return fastest
	}
	// The API and this test work more with more objects: there are as many without the
	// hostile ones.
	l.healthyTargets("calm", set.count())
	alone := rounds("alone", 3, 0)
	l.must(l.client.DeleteAllOf(l.ctx, &v1alpha1.BareMetalTarget{}, client.InNamespace(l.ns)))
	l.waitAll(0, "")
	expect := l.hostileTargets(set)
	if len(expect) != set.count() {
		t.Errorf("got %d hostile targets, want %d", len(expect), set.count())
	}
	meanwhile := rounds("meanwhile", 1, 0)
	for name, message := range expect {
		if message == "" {
			continue // it is served like others
		}
		l.waitTarget(name, "reported with its own reason: "+message, func(bmt *v1alpha1.BareMetalTarget) bool {
			return strings.Contains(bmt.Status.Message, message)
		})
	}
	for i := range set.large {
		l.waitPhase(fmt.Sprintf("large-%d", i), v1alpha1.TargetReady)
	}
	for i := range set.hung {
		l.waitCondition(l.target(fmt.Sprintf("hung-%d", i)), v1alpha1.ConditionMachineRunning, "False", v1alpha1.ReasonUnresponsive, "")
	}
	beside := rounds("beside", 10, time.Duration(most*float64(alone)))
	// While the hostile ones are read and rendered, processors are what is short.
	t.Logf("%d healthy targets are Ready after %s alone, %s beside %d hostile ones (ratio %.2f), %s while these are created",
		healthy, alone, beside, set.count(), beside.Seconds()/alone.Seconds(), meanwhile)
	if beside.Seconds() > most*alone.Seconds() {
		t.Errorf("%d healthy targets: got %s beside hostile ones, want at most %.1f times the %s without", healthy, beside, most, alone)
	}
}

// A machine that is on its way to the installer still gets it while an edit of its
// profile is checked or fetched, and while the target is paused.
func TestEditDoesNotEndNetworkBoot(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.waitPhase("target-1", v1alpha1.TargetPXE)
	before := l.waitMachine(target, func(m netbootapi.Machine) bool { return m.PowerOn != "" && m.Boot == netbootapi.BootInstall })
	check := func(during string) {
		t.Helper()
		l.reconciled(target)
		if m, _ := l.netbootd("lab").Machine(string(target.UID)); m.Boot != netbootapi.BootInstall || m.Image != before.Image {
			t.Errorf("%s: got boot %s of image %+v, want %s of %+v", during, m.Boot, m.Image, netbootapi.BootInstall, before.Image)
		}
	}
	checked := l.library.hold(templatesOf(target.Name))
	defer checked()
	update(l, l.profile("debian"), func(p *v1alpha1.BootProfile) {
		p.Spec.UserData = &v1alpha1.TextSource{Inline: "#cloud-config\n# edited\n"}
	})
	l.eventually(func() string {
		if p := l.profile("debian"); p.Status.ObservedGeneration != p.Generation {
			return "the profile is not reconciled"
		}
		return ""
	})
	check("templates are checked")
	checked()
	fetched := l.library.hold("newer.qcow2")
	defer fetched()
	update(l, l.profile("debian"), func(p *v1alpha1.BootProfile) { p.Spec.Image.Source.Path = "newer.qcow2" })
	l.waitCondition(l.profile("debian"), v1alpha1.ConditionReady, "False", v1alpha1.ReasonDownloading, "")
	check("image is fetched")
	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) {
		bmt.Annotations = map[string]string{v1alpha1.PausedAnnotation: ""}
	})
	l.waitCondition(target, v1alpha1.ConditionPaused, "True", v1alpha1.ReasonPaused, "")
	check("target is paused")
}
