// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// fault is one thing that dies or goes wrong, at one point of a lab's life.
type fault struct {
	name  string
	phase string
	// run brings the lab to that point, does it, and checks what must hold.
	run func(*trial)
}

// faults in an order in which one finds the lab as the one before has left it,
// so that several strike one and the same installation. Each brings the lab to
// where it needs it by itself and can be run alone.
var faults = []fault{
	{"image server resets, truncates, lies, changes the file", "download", hostileServer},
	{"data directory full", "download", fullWhileDownloading},
	{"two managers on one data directory", "start", secondOnData},
	{"two managers on one cluster", "start", secondOnCluster},

	{"manager killed", "PXE", managerKilled(v1alpha1.TargetPXE)},
	{"manager killed", "Installing", managerKilled(v1alpha1.TargetInstalling)},
	{"L2 switch away for 20 s", "Installing", switchAway},
	{"manager killed", "Booting", managerKilled(v1alpha1.TargetBooting)},
	{"manager killed", "Ready", managerKilled(v1alpha1.TargetReady)},

	{"target's QEMU killed", "PXE", machineKilled(v1alpha1.TargetPXE)},
	{"target's QEMU killed", "Installing", machineKilled(v1alpha1.TargetInstalling)},
	{"target's QEMU killed", "Booting", machineKilled(v1alpha1.TargetBooting)},
	{"target's QEMU killed", "Ready", machineKilled(v1alpha1.TargetReady)},

	{"control plane killed, down for 2 min", "PXE", controlPlaneAway},
	{"netbootd killed", "Installing", netbootdKilled},
	{"netbootd frozen", "Installing", netbootdFrozen},
	{"provisioning QEMU killed", "Installing", serverKilled},

	{"5 % loss, 100 ms delay each way", "PXE, Installing", badNetwork},
	{"data directory full", "Installing", fullWhileInstalling},
	{"everything killed, PIDs recycled", "Ready", hostCrash},
}

// The environment of "make test-faults".
const (
	// envFaultsDir keeps a lab in a directory of its own, with a short path, for
	// the next run. Without it the lab is made and removed.
	envFaultsDir = "PXELAB_FAULTS_DIR"
	// envFaultsTable is a file that the table is written to as well.
	envFaultsTable = "PXELAB_FAULTS_TABLE"
)

// TestFaults lets everything die once, in one lab, and checks that what was
// declared comes back by itself. It prints what it took. What is left in the
// end is a lab that does all that one without faults does.
func TestFaults(t *testing.T) {
	f := newFaultLab(t)
	var table []row
	for _, one := range faults {
		t.Run(one.name+" in "+one.phase, func(t *testing.T) {
			x := &trial{T: t, faultLab: f}
			defer func() { table = append(table, x.row(one)) }()
			one.run(x)
		})
	}
	report(t, table)
	if !t.Failed() && os.Getenv(envFaultsDir) == "" {
		t.Run("afterwards", func(t *testing.T) { f.walk(t, atWork) })
	}
}

// faultLab is the lab that the faults strike.
type faultLab struct {
	*lab
	w *watcher
}

// newFaultLab brings the control plane and the manager up, with the Debian
// samples but for the second target, which is made when it is needed. Nothing
// is waited for.
func newFaultLab(t *testing.T) *faultLab {
	t.Helper()
	f := &faultLab{}
	if dir := os.Getenv(envFaultsDir); dir != "" {
		f.lab = labIn(t, dir)
	} else {
		f.lab = newLab(t)
	}
	f.faulty = true
	f.up(t, "--samples=none")
	f.w = f.watch(t)
	for _, o := range f.samples(t) {
		if o.GetName() != second {
			f.ensure(t, o)
		}
	}
	return f
}

// The lab's machines: first is installed first and stays, second is struck
// while first is Ready.
const (
	first  = "target-1"
	second = "target-2"
	server = "lab"
)

// samples are the objects of the Debian samples, as they are written: a typed
// object would declare zeroes where the sample leaves a field to its default.
func (f *faultLab) samples(t testing.TB) []*unstructured.Unstructured {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(f.root, "config", "samples", "debian", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	var out []*unstructured.Unstructured
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for document := range strings.SplitSeq(string(text), "\n---\n") {
			o := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(document), o); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			o.SetNamespace("default")
			out = append(out, o)
		}
	}
	return out
}

// sample is the sample with this name, of o's kind, which it fills.
func sample[T client.Object](f *faultLab, t testing.TB, name string, o T) T {
	t.Helper()
	kind := reflect.TypeOf(o).Elem().Name()
	for _, s := range f.samples(t) {
		if s.GetKind() != kind || s.GetName() != name {
			continue
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(s.Object, o); err != nil {
			t.Fatal(err)
		}
		return o
	}
	t.Fatalf("no %s of the samples is called %s", kind, name)
	return o
}

// ensure makes an object that is not there.
func (f *faultLab) ensure(t testing.TB, o client.Object) {
	t.Helper()
	if err := f.client.Create(t.Context(), o); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatalf("creating %s: %v", o.GetName(), err)
	}
}

// objects are the UIDs of everything that was declared or made for it, by kind
// and name.
func (f *faultLab) objects(t testing.TB) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, list := range []client.ObjectList{
		&v1alpha1.ProvisioningServerList{}, &v1alpha1.BootProfileList{}, &v1alpha1.BareMetalTargetList{}, &corev1.SecretList{},
	} {
		if err := f.client.List(t.Context(), list, client.InNamespace("default")); err != nil {
			t.Fatal(err)
		}
		err := eachItem(list, func(o client.Object) { out[fmt.Sprintf("%T %s", o, o.GetName())] = string(o.GetUID()) })
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// trial is one fault at work.
type trial struct {
	*testing.T
	*faultLab
	struck, over, back time.Time
}

// strike notes when the fault happened.
func (x *trial) strike() { x.struck = time.Now() }

// ended notes the end of a fault that lasts: from then on it can be recovered
// from.
func (x *trial) ended() { x.over = time.Now() }

// recovered notes when what had died worked again.
func (x *trial) recovered(at time.Time) {
	x.back = at
	x.Logf("recovered after %.1f s", x.took().Seconds())
}

func (x *trial) took() time.Duration {
	if x.over.IsZero() {
		return x.back.Sub(x.struck)
	}
	return x.back.Sub(x.over)
}

// row is one line of the table.
type row struct {
	fault
	seconds string
	result  string
}

func (x *trial) row(f fault) row {
	r := row{fault: f, seconds: "-", result: "ok"}
	if !x.back.IsZero() {
		r.seconds = fmt.Sprintf("%.1f", x.took().Seconds())
	}
	if x.Failed() {
		r.result = "FAILED"
	}
	return r
}

func report(t *testing.T, table []row) {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FAULT\tPHASE\tRECOVERED AFTER s\tRESULT")
	for _, r := range table {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.name, r.phase, r.seconds, r.result)
	}
	_ = w.Flush()
	fmt.Printf("\n%s\n", b.String())
	if path := os.Getenv(envFaultsTable); path != "" {
		if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
			t.Error(err)
		}
	}
}

func eachItem(list client.ObjectList, visit func(client.Object)) error {
	return meta.EachListItem(list, func(o runtime.Object) error {
		visit(o.(client.Object))
		return nil
	})
}
