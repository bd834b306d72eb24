// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers"
	"github.com/pxelab/pxelab/internal/labnet"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootapi/session"
	"github.com/pxelab/pxelab/internal/netbootd/netbootdtest"
	"github.com/pxelab/pxelab/internal/paths/pathstest"
	"github.com/pxelab/pxelab/internal/plan"
)

// lab is one namespace, one host with a fake runner and fake content, and a
// manager that can be restarted on them.
type lab struct {
	t        *testing.T
	ctx      context.Context
	ns       string
	client   client.Client
	library  *library
	machines *machines
	data     string
	runtime  string
	// slept is how far its clock is ahead, in nanoseconds.
	slept atomic.Int64
	// sessions, if set, replaces the sessions of the managers that start afterwards.
	sessions controllers.Sessions
	// housekeeping is off unless a test sets it before it restarts the manager.
	housekeeping controllers.Housekeeping
	// wrap, unless nil, sees the requests of managers that start.
	wrap func(http.RoundTripper) http.RoundTripper
	// adapt, unless nil, changes the hosts of managers that start.
	adapt func(*controllers.Host)

	set         *controllers.Set
	networks    *labnet.Networks
	stopManager func()
}

// allowedBridge is the bridge to which machines may be attached; it does not exist.
const allowedBridge = "br0"

// newLab starts a manager on an empty namespace.
func newLab(t *testing.T) *lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	t.Cleanup(cancel)
	l := &lab{t: t, ctx: ctx, client: cluster.client, library: newLibrary(t.TempDir()), data: t.TempDir(), runtime: pathstest.Short(t)}
	l.library.now = l.now
	l.machines = newMachines(t, l)
	l.machines.now = l.now
	l.machines.SetClock(l.now)
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	l.must(l.client.Create(ctx, ns))
	l.ns = ns.Name
	l.start()
	t.Cleanup(func() { l.stopManager() })
	return l
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// start runs a manager as the user who has the generated role only.
func (l *lab) start() {
	l.t.Helper()
	skip := true
	access := rest.CopyConfig(cluster.manager)
	if l.wrap != nil {
		access.Wrap(l.wrap)
	}
	mgr, err := ctrl.NewManager(access, ctrl.Options{
		Scheme: cluster.scheme, Logger: logr.Discard(),
		Metrics: metricsserver.Options{BindAddress: "0"},
		// By field, not by DefaultNamespaces: that cache leaves a goroutine behind
		// when a manager is stopped before its handlers saw the first list.
		Cache: cache.Options{
			DefaultFieldSelector: fields.OneTermEqualSelector("metadata.namespace", l.ns),
			ByObject:             controllers.CacheByObject(),
		},
		Controller: config.Controller{SkipNameValidation: &skip},
	})
	l.must(err)
	networks := labnet.New(slog.New(slog.DiscardHandler), allowedBridge)
	l.networks = networks
	hub := session.NewHub(session.Options{
		Log: logr.Discard(), Now: l.now,
		ServerChanged:   func(server string) { l.set.ServerObserved(server) },
		MachinesChanged: func(uids []string) { l.set.TargetsObserved(uids) },
	})
	host := &controllers.Host{
		Machines: l.machines, Networks: networks, Sessions: l.sessionsOr(hub), Content: l.library, Artifacts: l.library,
		Cluster: "test", Housekeeping: l.housekeeping,
		DataDir: l.data, RuntimeDir: l.runtime, RetainedDir: filepath.Join(l.data, "retained"),
		Bridges: []string{allowedBridge}, JumboFrames: true, Now: l.now, CheckTemplates: l.library.checkTemplates, DigestKey: []byte("the key of the tests"),
	}
	if l.adapt != nil {
		l.adapt(host)
	}
	set, err := controllers.Setup(mgr, host)
	l.must(err)
	l.set = set
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	stopped := false
	l.stopManager = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		err := <-ended
		set.Close()
		hub.Close()
		if err := errors.Join(err, networks.Close()); err != nil {
			l.t.Errorf("stopping the manager: got error %v, want none", err)
		}
	}
}

// now is the lab's clock, sleep lets time pass on it.
func (l *lab) now() time.Time { return time.Now().Add(time.Duration(l.slept.Load())) }

func (l *lab) sleep(d time.Duration) { l.slept.Add(int64(d)) }

// restart ends the manager and starts another on the same host.
func (l *lab) restart() {
	l.t.Helper()
	l.stopManager()
	l.start()
}

// eventually waits until ok returns "". Any other result is what it still waits for.
func (l *lab) eventually(ok func() string) {
	l.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		missing := ok()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("after %s: %s\n%s", limit, missing, l.dump())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// dump is every object of the namespace, for a failure's message.
func (l *lab) dump() string {
	var out strings.Builder
	for _, list := range []client.ObjectList{
		&v1alpha1.ProvisioningServerList{}, &v1alpha1.BootProfileList{}, &v1alpha1.BareMetalTargetList{},
	} {
		if err := l.client.List(context.Background(), list, client.InNamespace(l.ns)); err != nil {
			return err.Error()
		}
		items, err := meta.ExtractList(list)
		if err != nil {
			return err.Error()
		}
		for _, item := range items {
			item.(client.Object).SetManagedFields(nil)
			raw, err := yaml.Marshal(item)
			if err != nil {
				return err.Error()
			}
			out.WriteString("---\n" + string(raw))
		}
	}
	return out.String()
}

func (l *lab) key(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: l.ns, Name: name}
}

func (l *lab) target(name string) *v1alpha1.BareMetalTarget {
	l.t.Helper()
	o := &v1alpha1.BareMetalTarget{}
	l.must(l.client.Get(l.ctx, l.key(name), o))
	return o
}

func (l *lab) server(name string) *v1alpha1.ProvisioningServer {
	l.t.Helper()
	o := &v1alpha1.ProvisioningServer{}
	l.must(l.client.Get(l.ctx, l.key(name), o))
	return o
}

func (l *lab) profile(name string) *v1alpha1.BootProfile {
	l.t.Helper()
	o := &v1alpha1.BootProfile{}
	l.must(l.client.Get(l.ctx, l.key(name), o))
	return o
}

// waitTarget waits for a target that satisfies ok.
func (l *lab) waitTarget(name, what string, ok func(*v1alpha1.BareMetalTarget) bool) *v1alpha1.BareMetalTarget {
	l.t.Helper()
	var t *v1alpha1.BareMetalTarget
	l.eventually(func() string {
		if t = l.target(name); ok(t) {
			return ""
		}
		return name + " is not " + what
	})
	return t
}

func (l *lab) waitPhase(name string, phase v1alpha1.TargetPhase) *v1alpha1.BareMetalTarget {
	l.t.Helper()
	return l.waitTarget(name, string(phase), func(bmt *v1alpha1.BareMetalTarget) bool { return bmt.Status.Phase == phase })
}

// wait for a condition of an object; its message contains text.
func (l *lab) waitCondition(o client.Object, kind string, status metav1.ConditionStatus, reason, text string) {
	l.t.Helper()
	l.eventually(func() string {
		if err := l.client.Get(l.ctx, client.ObjectKeyFromObject(o), o); err != nil {
			return err.Error()
		}
		c := meta.FindStatusCondition(conditionsOf(o), kind)
		if c != nil && c.Status == status && c.Reason == reason && strings.Contains(c.Message, text) {
			return ""
		}
		return o.GetName() + " lacks " + kind + "=" + string(status) + " " + reason + " with " + text
	})
}

func conditionsOf(o client.Object) []metav1.Condition {
	switch o := o.(type) {
	case *v1alpha1.BareMetalTarget:
		return o.Status.Conditions
	case *v1alpha1.BootProfile:
		return o.Status.Conditions
	case *v1alpha1.ProvisioningServer:
		return o.Status.Conditions
	}
	return nil
}

func (l *lab) waitReadyServer(name string) *v1alpha1.ProvisioningServer {
	l.t.Helper()
	l.eventually(func() string {
		s := l.server(name)
		if s.Status.Phase != v1alpha1.ServerReady || !meta.IsStatusConditionTrue(s.Status.Conditions, v1alpha1.ConditionContentReady) {
			return "server " + name + " is not Ready"
		}
		return ""
	})
	return l.server(name)
}

func (l *lab) waitGone(o client.Object) {
	l.t.Helper()
	l.eventually(func() string {
		if err := l.client.Get(l.ctx, client.ObjectKeyFromObject(o), o); apierrors.IsNotFound(err) {
			return ""
		}
		return o.GetName() + " is still there"
	})
}

// update changes an object as a user does.
func update[T client.Object](l *lab, o T, edit func(T)) {
	l.t.Helper()
	base := o.DeepCopyObject().(client.Object)
	edit(o)
	l.must(l.client.Patch(l.ctx, o, client.MergeFrom(base)))
}

// reconciled waits until the objects have been reconciled several times.
func (l *lab) reconciled(objects ...client.Object) {
	l.t.Helper()
	for _, o := range objects {
		uid := string(o.GetUID())
		want := l.machines.observations(uid) + 5
		l.eventually(func() string {
			l.set.ServerObserved(uid)
			l.set.TargetsObserved([]string{uid})
			if l.machines.observations(uid) < want {
				return o.GetName() + " is not reconciled"
			}
			return ""
		})
	}
}

// netbootd returns the netbootd of a server's running VM.
func (l *lab) netbootd(server string) *netbootdtest.Server {
	l.t.Helper()
	var n *netbootdtest.Server
	uid := string(l.server(server).UID)
	l.eventually(func() string {
		if n = l.machines.netbootd(uid); n == nil {
			return "the VM of " + server + " does not run"
		}
		return ""
	})
	return n
}

// waitMachine waits until the target's entry in netbootd is ok.
func (l *lab) waitMachine(bmt *v1alpha1.BareMetalTarget, ok func(netbootapi.Machine) bool) netbootapi.Machine {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.ctx, limit)
	defer cancel()
	found, err := l.netbootd(bmt.Spec.ProvisioningServerRef.Name).WaitMachine(ctx, string(bmt.UID), ok)
	if err != nil {
		l.t.Fatalf("%v\n%s", err, l.dump())
	}
	return found
}

// text returns a text that was uploaded to the lab's netbootd.
func (l *lab) text(blob netbootapi.Blob) string {
	l.t.Helper()
	text, ok := l.netbootd("lab").Text(blob.Digest)
	if !ok && blob != (netbootapi.Blob{}) {
		l.t.Errorf("got no text %v in netbootd, want one", blob)
	}
	return text
}

// templateLabel is that of Secrets to which profiles may refer.
var templateLabel = map[string]string{v1alpha1.SecretLabel: v1alpha1.SecretTemplate}

func (l *lab) state(o client.Object) machine.State {
	l.t.Helper()
	state, err := l.machines.Fake.Observe(l.ctx, string(o.GetUID()))
	l.must(err)
	return state
}

// checkStarts asserts how often the machine of o was started.
func (l *lab) checkStarts(o client.Object, want int) {
	l.t.Helper()
	if got := l.machines.starts(string(o.GetUID())); got != want {
		l.t.Errorf("machine of %s: got %d starts, want %d", o.GetName(), got, want)
	}
}

// checkAlive asserts whether the machine of o runs.
func (l *lab) checkAlive(o client.Object, want bool) {
	l.t.Helper()
	if phase := l.state(o).Phase; phase.Alive() != want {
		l.t.Errorf("machine of %s: got phase %s, want it alive: %t", o.GetName(), phase, want)
	}
}

// paths are the files of a machine that is started now.
func (l *lab) paths(uid string) machine.Paths { return machine.NewPaths(l.data, l.runtime, uid) }

func (l *lab) machineDir(o client.Object) string { return l.paths(string(o.GetUID())).Dir }

// The ways of a target, as its guest and netbootd show them.

func (l *lab) sawTarget(bmt *v1alpha1.BareMetalTarget, edit func(*netbootapi.MachineState)) {
	l.t.Helper()
	l.netbootd(bmt.Spec.ProvisioningServerRef.Name).UpdateMachine(string(bmt.UID), edit)
}

// installs lets the installer fetch its plan and report.
func (l *lab) installs(bmt *v1alpha1.BareMetalTarget, written int64) {
	l.t.Helper()
	now := time.Now().UTC()
	told := l.waitMachine(bmt, func(m netbootapi.Machine) bool { return m.Boot == netbootapi.BootInstall })
	config, _ := l.netbootd(bmt.Spec.ProvisioningServerRef.Name).Server()
	l.sawTarget(bmt, func(m *netbootapi.MachineState) {
		if m.ProfileDigest == "" {
			m.ProfileDigest = told.ProfileDigest
			m.Declared = told.Declared
			m.RootDiskName = told.RootDiskName
			m.Network = config.Network.Address.Masked().String()
		}
		m.DiscoverAt = now
		m.RequestAt = now
		m.ProgramAt = now
		m.ScriptAt = now
		m.KernelAt = now
		m.InitrdAt = now
		m.Install = &netbootapi.InstallState{StartedAt: now, UpdatedAt: now, Stage: "Write", BytesWritten: written, BytesTotal: 1000}
	})
}

// finishes lets the installer report that it is done, and waits for the
// manager's word that the boot order is turned, as the real one does.
func (l *lab) finishes(bmt *v1alpha1.BareMetalTarget) {
	l.t.Helper()
	l.sawTarget(bmt, func(m *netbootapi.MachineState) {
		install := *m.Install
		install.Stage = "Done"
		install.BytesWritten = install.BytesTotal
		install.DoneAt = time.Now().UTC()
		m.Install = &install
	})
	l.waitMachine(bmt, func(m netbootapi.Machine) bool { return m.Boot == netbootapi.BootDisk && m.BootConfirmed == m.Attempt })
}

// boots lets the installed system come up.
func (l *lab) boots(bmt *v1alpha1.BareMetalTarget) {
	l.t.Helper()
	on := plan.PowerOnID(l.state(bmt).StartedAt)
	l.waitMachine(bmt, func(m netbootapi.Machine) bool { return m.PowerOn == on })
	now := time.Now().UTC()
	l.sawTarget(bmt, func(m *netbootapi.MachineState) {
		m.CloudInitAt = now
		m.PhoneHome = &netbootapi.PhoneHome{At: now, Hostname: bmt.Name, HostKeys: []string{"ssh-ed25519 AAAA " + bmt.Name}}
		m.SSH = netbootapi.SSHState{PowerOn: on, Up: true, CheckedAt: now, UpSince: now}
	})
}

// answers lets SSH of an installed machine answer after a power-on.
func (l *lab) answers(bmt *v1alpha1.BareMetalTarget) {
	l.t.Helper()
	on := plan.PowerOnID(l.state(bmt).StartedAt)
	l.waitMachine(bmt, func(m netbootapi.Machine) bool { return m.PowerOn == on })
	l.sawTarget(bmt, func(m *netbootapi.MachineState) {
		m.SSH = netbootapi.SSHState{PowerOn: on, Up: true, CheckedAt: time.Now().UTC()}
	})
}

// becomesReady takes a target from PXE to Ready.
func (l *lab) becomesReady(name string) *v1alpha1.BareMetalTarget {
	l.t.Helper()
	bmt := l.waitPhase(name, v1alpha1.TargetPXE)
	l.installs(bmt, 370)
	l.waitPhase(name, v1alpha1.TargetInstalling)
	l.finishes(bmt)
	l.waitPhase(name, v1alpha1.TargetBooting)
	l.boots(bmt)
	return l.waitPhase(name, v1alpha1.TargetReady)
}

// Objects as a user declares them.

func (l *lab) create(objects ...client.Object) {
	l.t.Helper()
	for _, o := range objects {
		o.SetNamespace(l.ns)
		l.must(l.client.Create(l.ctx, o))
	}
}

func file(name string) v1alpha1.ArtifactSource {
	return v1alpha1.ArtifactSource{Path: v1alpha1.ArtifactPath(name), Checksum: v1alpha1.Checksum("sha256:" + strings.Repeat("0", 64))}
}

func newServer(name string) *v1alpha1.ProvisioningServer {
	return &v1alpha1.ProvisioningServer{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.ProvisioningServerSpec{
			Machine: v1alpha1.ServerMachine{
				Machine:  v1alpha1.Machine{Memory: resource.MustParse("1Gi")},
				DiskSize: resource.MustParse("16Gi"),
				Image:    v1alpha1.ImageSource{ArtifactSource: file("server.qcow2")},
			},
		},
	}
}

func newProfile(name string) *v1alpha1.BootProfile {
	image, kernel, initrd := file(name+".qcow2"), file(name+"-kernel"), file(name+"-initrd")
	return &v1alpha1.BootProfile{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.BootProfileSpec{
			Image: &v1alpha1.ImageBoot{
				Source: v1alpha1.BootImageSource{Path: image.Path, Checksum: image.Checksum}, Kernel: &kernel, Initrd: &initrd,
			},
		},
	}
}

func newTarget(name string) *v1alpha1.BareMetalTarget {
	return &v1alpha1.BareMetalTarget{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.BareMetalTargetSpec{
			ProvisioningServerRef: v1alpha1.LocalObjectReference{Name: "lab"},
			BootProfileRef:        v1alpha1.LocalObjectReference{Name: "debian"},
			Machine: v1alpha1.TargetMachine{
				Machine: v1alpha1.Machine{Memory: resource.MustParse("1Gi")},
				Disks:   []v1alpha1.Disk{{Name: "disk0", Size: resource.MustParse("2Gi")}},
				NICs:    []v1alpha1.NIC{{Name: "lab"}},
			},
		},
	}
}

// up is a lab with a Ready server and a Ready profile.
func up(t *testing.T) *lab {
	t.Helper()
	l := newLab(t)
	l.create(newServer("lab"), newProfile("debian"))
	l.waitReadyServer("lab")
	l.waitCondition(l.profile("debian"), v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady, "")
	return l
}
