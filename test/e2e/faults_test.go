// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
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

// fault is a failure of a component in one phase of a lab's life.
type fault struct {
	name  string
	phase string
	// run brings the lab into the phase, injects the fault, and checks recovery.
	run func(*trial)
}

// faults are ordered so that each finds the lab as the previous one has left it,
// and several hit the same installation. Each brings the lab into its phase itself
// and can be run alone.
//
// A fault hits a virtual target if the point is what its firmware, kernel, disk or
// cloud-init does, and otherwise a simulated one. The manager and the server run for more
// than ten minutes between the faults before simulatedFaults and those after them, which
// some of these need.
var faults = slices.Concat([]fault{
	{"image server resets, truncates, lies, changes the file", "download", hostileServer},
	{"data directory full", "download", fullWhileDownloading},
	{"two managers on one data directory", "start", secondOnData},
	{"two managers on one cluster", "start", secondOnCluster},

	{"manager killed", "Installing", managerKilled(first, v1alpha1.TargetInstalling)},
	{"L2 switch away for 20 s", "Installing", switchAway},
	{"manager killed", "PXE, Booting, Ready", managerKilled(slow, v1alpha1.TargetPXE, v1alpha1.TargetBooting, v1alpha1.TargetReady)},

	{"target's QEMU killed", "Installing", machineKilled(v1alpha1.TargetInstalling)},
	{"target's QEMU killed", "Booting", machineKilled(v1alpha1.TargetBooting)},
	{"target's QEMU killed", "Ready", machineKilled(v1alpha1.TargetReady)},
	{"5 % loss, 100 ms delay each way", "PXE, Installing", badNetwork},
	{"control plane killed, down for 2 min", "PXE", controlPlaneAway},
}, simulatedFaultRows(), []fault{
	{"simulator killed", "Installing, Ready", simulatorKilled},
	{"netbootd killed", "Installing", netbootdKilled},
	{"netbootd frozen", "Installing", netbootdFrozen},
	{"provisioning QEMU killed", "Installing", serverKilled},

	{"data directory full", "Installing", fullWhileInstalling},
	{"everything killed, PIDs recycled", "Ready", hostCrash},
})

// Environment variables of "make test-faults".
const (
	// envFaultsDir is a directory, with a short path, in which the lab is kept
	// for the next run. Without it the lab is created and removed.
	envFaultsDir = "PXELAB_FAULTS_DIR"
	// envFaultsTable is a file to which the table is written as well.
	envFaultsTable = "PXELAB_FAULTS_TABLE"
	// envFull, if set, starts the remaining lab again after its end.
	envFull = "PXELAB_FAULTS_FULL"
)

// TestFaults injects every fault once into one lab, checks that it recovers without
// intervention, and prints the recovery times. The lab must then pass the steps of
// a lab without faults.
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
		steps := slices.Concat([]step{{"deleting simulated targets leaves nothing behind", deleteSimulated}}, lifecycleSteps)
		if os.Getenv(envFull) != "" {
			steps = slices.Concat([]step{{"simulated targets do not slow down a virtual one", besideSimulated}}, steps, resumeSteps)
		}
		t.Run("afterwards", func(t *testing.T) { f.runSteps(t, steps) })
	}
}

// faultLab is the lab into which the faults are injected.
type faultLab struct {
	*lab
	w *watcher
}

// newFaultLab starts the control plane and the manager, with the Debian samples
// except the second target, which is created when needed, and the simulated targets. It
// does not wait for the objects.
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
	f.ensureSimulated(t)
	return f
}

// The lab's machines: the first target is installed first and kept, faults hit the
// second while the first is Ready.
const (
	first  = "target-1"
	second = "target-2"
	server = "lab"
)

// samples returns the objects of the Debian samples.
func (l *lab) samples(t testing.TB) []*unstructured.Unstructured {
	t.Helper()
	return l.samplesIn(t, "debian", "*.yaml")
}

// samplesIn returns the objects in files of a folder of the samples unstructured: typed
// objects would set zero values where the samples rely on defaults.
func (l *lab) samplesIn(t testing.TB, folder, pattern string) []*unstructured.Unstructured {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(l.root, "config", "samples", folder, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("got no samples, error %v", err)
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
				t.Fatalf("parsing %s: %v", file, err)
			}
			o.SetNamespace("default")
			out = append(out, o)
		}
	}
	return out
}

// sample fills o with the sample of its kind with this name, and returns it.
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
	t.Fatalf("found no %s named %s in the samples", kind, name)
	return o
}

// ensure creates an object if it does not exist.
func (f *faultLab) ensure(t testing.TB, o client.Object) {
	t.Helper()
	if err := f.client.Create(t.Context(), o); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatalf("creating %s: %v", o.GetName(), err)
	}
}

// objects returns the UIDs of the lab's objects, including generated Secrets, by
// kind and name.
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

// trial is one run of a fault.
type trial struct {
	*testing.T
	*faultLab
	faultAt, faultEndAt, recoveredAt time.Time
	failures                         []string
}

// Errorf fails the trial, and keeps the message for the table: its end is often the
// only part of a long log that is shown.
func (x *trial) Errorf(format string, args ...any) {
	x.Helper()
	x.Error(fmt.Sprintf(format, args...))
}

// Error is Errorf.
func (x *trial) Error(args ...any) {
	x.Helper()
	x.failures = append(x.failures, strings.TrimSpace(fmt.Sprintln(args...)))
	x.T.Error(args...)
}

// Fatalf is Errorf, and ends the trial.
func (x *trial) Fatalf(format string, args ...any) {
	x.Helper()
	x.Fatal(fmt.Sprintf(format, args...))
}

// Fatal is Fatalf.
func (x *trial) Fatal(args ...any) {
	x.Helper()
	x.Error(args...)
	x.FailNow()
}

// markFault records the time of the fault.
func (x *trial) markFault() { x.faultAt = time.Now() }

// markFaultEnd records the end of a fault with a duration: recovery is possible from then
// on.
func (x *trial) markFaultEnd() { x.faultEndAt = time.Now() }

// recovered records when the failed component worked again.
func (x *trial) recovered(at time.Time) {
	x.recoveredAt = at
	x.Logf("recovered after %.1f s", x.recoveryTime().Seconds())
}

func (x *trial) recoveryTime() time.Duration {
	if x.faultEndAt.IsZero() {
		return x.recoveredAt.Sub(x.faultAt)
	}
	return x.recoveredAt.Sub(x.faultEndAt)
}

// row is a row of the table.
type row struct {
	fault
	seconds string
	result  string
	// failures are the messages of a failed trial.
	failures []string
}

func (x *trial) row(f fault) row {
	r := row{fault: f, seconds: "-", result: "ok", failures: x.failures}
	if !x.recoveredAt.IsZero() {
		r.seconds = fmt.Sprintf("%.1f", x.recoveryTime().Seconds())
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
	for _, r := range table {
		for _, failure := range r.failures {
			fmt.Fprintf(&b, "\n%s in %s: %s\n", r.name, r.phase, failure)
		}
	}
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
