// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/access"
)

func TestTargetState(t *testing.T) {
	tests := map[string]struct {
		spec   v1alpha1.BareMetalTargetSpec
		status v1alpha1.BareMetalTargetStatus
		want   objectState
	}{
		"no status": {want: objectState{state: "waiting for the manager", detail: "waiting"}},
		"pending": {
			status: v1alpha1.BareMetalTargetStatus{Phase: "Pending", Message: "waiting for its server", ObservedGeneration: 2},
			want:   objectState{state: "Pending waiting for its server", detail: "Pending"},
		},
		"installing": {
			status: v1alpha1.BareMetalTargetStatus{
				Phase: "Installing", Progress: "37%", Message: "Write: 37%",
				Install: &v1alpha1.InstallProgress{Stage: "Write", Percent: 37}, ObservedGeneration: 2,
			},
			want: objectState{state: "Installing Write 25%", detail: "Installing 37%"},
		},
		"ready": {
			status: v1alpha1.BareMetalTargetStatus{Phase: "Ready", ObservedGeneration: 2},
			want:   objectState{state: "Ready", detail: "Ready", done: true},
		},
		"outdated ready": {
			status: v1alpha1.BareMetalTargetStatus{Phase: "Ready", ObservedGeneration: 1},
			want:   objectState{state: "Ready", detail: "Ready"},
		},
		"failed": {
			status: v1alpha1.BareMetalTargetStatus{Phase: "Failed", Message: "image too large", ObservedGeneration: 2},
			want:   objectState{state: "Failed image too large", detail: "Failed", failure: "image too large"},
		},
		"outdated failed": {
			status: v1alpha1.BareMetalTargetStatus{Phase: "Failed", Message: "image too large", ObservedGeneration: 1},
			want:   objectState{state: "Failed image too large", detail: "Failed"},
		},
		"stalled": {
			status: v1alpha1.BareMetalTargetStatus{Phase: "PXE", Message: "DHCP", ObservedGeneration: 2, Conditions: []metav1.Condition{
				{Type: "Progressing", Status: "False", Reason: "NoRequest", Message: "no offer accepted"},
				{Type: "Ready", Status: "False", Reason: "NetworkBoot", Message: "DHCP"},
			}},
			want: objectState{state: "PXE DHCP", detail: "PXE", waits: "Progressing=False NoRequest: no offer accepted"},
		},
		"not observed": {
			status: v1alpha1.BareMetalTargetStatus{Phase: "Pending", Message: "not observed yet", ObservedGeneration: 2, Conditions: []metav1.Condition{
				{Type: "Progressing", Status: "Unknown", Reason: "NotYetObserved", Message: "not observed yet"},
				{Type: "Ready", Status: "Unknown", Reason: "NotYetObserved", Message: "not observed yet"},
			}},
			want: objectState{
				state: "Pending not observed yet", detail: "Pending", waits: "Ready=Unknown NotYetObserved: not observed yet", unknown: true,
			},
		},
		"the lab was stopped": {
			status: v1alpha1.BareMetalTargetStatus{Phase: "Stopped", Message: "the lab was stopped", ObservedGeneration: 2, Conditions: []metav1.Condition{
				{Type: "Ready", Status: "False", Reason: "LabDown", Message: "the lab was stopped"},
			}},
			want: objectState{
				state: "Stopped the lab was stopped", detail: "Stopped", waits: "Ready=False LabDown: the lab was stopped",
			},
		},
		"off as desired": {
			spec:   v1alpha1.BareMetalTargetSpec{Power: v1alpha1.PowerOff},
			status: v1alpha1.BareMetalTargetStatus{Phase: "Stopped", ObservedGeneration: 2},
			want:   objectState{state: "Stopped", detail: "Stopped", done: true},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			target := &v1alpha1.BareMetalTarget{Spec: tt.spec, Status: tt.status}
			target.Generation = 2
			if got := targetState(target); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestProfileState(t *testing.T) {
	condition := func(status metav1.ConditionStatus, reason, message string) []metav1.Condition {
		return []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: status, Reason: reason, Message: message}}
	}
	tests := map[string]struct {
		status v1alpha1.BootProfileStatus
		want   objectState
	}{
		"no status": {want: objectState{state: "waiting for the manager", detail: "waiting"}},
		"downloading": {
			status: v1alpha1.BootProfileStatus{Conditions: condition("False", "Downloading", "image 37%"), Progress: "image 37%"},
			want: objectState{
				state: "Downloading", detail: "Downloading image 37%", waits: "Ready=False Downloading: image 37%",
			},
		},
		"ready": {
			status: v1alpha1.BootProfileStatus{Conditions: condition("True", "Ready", "")},
			want:   objectState{state: "Ready", done: true},
		},
		"wrong checksum": {
			status: v1alpha1.BootProfileStatus{Conditions: condition("False", "ChecksumMismatch", "the digest differs")},
			want: objectState{
				state: "ChecksumMismatch the digest differs", detail: "ChecksumMismatch", failure: "the digest differs",
				waits: "Ready=False ChecksumMismatch: the digest differs",
			},
		},
		"unreachable": {
			status: v1alpha1.BootProfileStatus{Conditions: condition("False", "Unreachable", "retrying")},
			want: objectState{
				state: "Unreachable retrying", detail: "Unreachable", waits: "Ready=False Unreachable: retrying",
			},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := profileState(&v1alpha1.BootProfile{Status: tt.status}); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestServerState(t *testing.T) {
	server := &v1alpha1.ProvisioningServer{Status: v1alpha1.ProvisioningServerStatus{Phase: v1alpha1.ServerFailed, Message: "no firmware"}}
	if got, want := serverState(server), (objectState{state: "Failed no firmware", detail: "Failed", failure: "no firmware"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	server.Status = v1alpha1.ProvisioningServerStatus{Phase: v1alpha1.ServerReady}
	if got, want := serverState(server), (objectState{state: "Ready", detail: "Ready", done: true}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// watched returns a watch of objects that a cluster has, and the file that it prints to.
func watched(t *testing.T, objects ...client.Object) *watch {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	var wanted []*unstructured.Unstructured
	for _, o := range objects {
		u := &unstructured.Unstructured{}
		u.SetKind(reflect.TypeOf(o).Elem().Name())
		u.SetNamespace(o.GetNamespace())
		u.SetName(o.GetName())
		wanted = append(wanted, u)
	}
	c := &cluster{client: fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()}
	w := newWatch(testLab(t).out, c, wanted)
	w.alive = func() error { return nil }
	return w
}

// readyObjects returns objects whose status was Ready when it was written.
func readyObjects() []client.Object {
	at := metav1.ObjectMeta{Namespace: "default", Name: "a"}
	return []client.Object{
		&v1alpha1.ProvisioningServer{ObjectMeta: at, Status: v1alpha1.ProvisioningServerStatus{Phase: v1alpha1.ServerReady}},
		&v1alpha1.BootProfile{ObjectMeta: at, Status: v1alpha1.BootProfileStatus{
			Conditions: []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady}},
		}},
		&v1alpha1.BareMetalTarget{ObjectMeta: at, Status: v1alpha1.BareMetalTargetStatus{Phase: v1alpha1.TargetReady}},
	}
}

// A status counts once the manager that runs has observed the object.
func TestWatchTrustsObservedStatusOnly(t *testing.T) {
	objects := readyObjects()
	w := watched(t, objects...)
	unobserved := []access.Object{{Kind: "BareMetalTarget", Namespace: "other", Name: "a"}}
	w.unobserved = func(context.Context) ([]access.Object, error) { return unobserved, nil }
	poll := func() bool {
		t.Helper()
		done, err := w.poll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	if !poll() {
		t.Error("all observed: got not done, want done")
	}
	for _, o := range objects {
		kind := reflect.TypeOf(o).Elem().Name()
		unobserved = []access.Object{{Kind: kind, Namespace: "default", Name: "a"}}
		if poll() {
			t.Errorf("%s not observed: got done, want not done", kind)
		}
		if got, want := w.summary(), "  "+kind+" a: not observed yet by the manager"; got != want {
			t.Errorf("%s not observed: got summary %q, want %q", kind, got, want)
		}
	}
	unobserved = nil
	if !poll() {
		t.Error("all observed again: got not done, want done")
	}
	w.unobserved = func(context.Context) ([]access.Object, error) { return nil, access.ErrNoManager }
	if done, err := w.poll(t.Context()); done || !errors.Is(err, access.ErrNoManager) {
		t.Errorf("without a manager: got done %t, error %v, want ErrNoManager", done, err)
	}
}

// What failed under an earlier manager is not a failure of this one.
func TestWatchIgnoresFailureOfEarlierManager(t *testing.T) {
	w := watched(t, &v1alpha1.BareMetalTarget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"},
		Status:     v1alpha1.BareMetalTargetStatus{Phase: v1alpha1.TargetFailed, Message: "image too large"},
	})
	unobserved := []access.Object{{Kind: "BareMetalTarget", Namespace: "default", Name: "a"}}
	w.unobserved = func(context.Context) ([]access.Object, error) { return unobserved, nil }
	w.failing["BareMetalTarget a"] = time.Now().Add(-time.Hour)
	if _, err := w.poll(t.Context()); err != nil {
		t.Errorf("not observed: got error %v, want none", err)
	}
	unobserved = nil
	w.failing["BareMetalTarget a"] = time.Now().Add(-time.Hour)
	var failed *failureError
	if _, err := w.poll(t.Context()); !errors.As(err, &failed) || !strings.Contains(err.Error(), "image too large") {
		t.Errorf("observed: got error %v, want the failure", err)
	}
}

// A wait that ends without success names the objects that are not Ready, and why.
func TestWatchReportsWhatItWaitedFor(t *testing.T) {
	objects := readyObjects()
	objects[2].(*v1alpha1.BareMetalTarget).Status = v1alpha1.BareMetalTargetStatus{
		Phase: v1alpha1.TargetPXE, Message: "DHCP",
		Conditions: []metav1.Condition{{Type: v1alpha1.ConditionProgressing, Status: metav1.ConditionFalse, Reason: "NoRequest", Message: "no offer accepted"}},
	}
	w := watched(t, objects...)
	w.unobserved = func(context.Context) ([]access.Object, error) { return nil, nil }
	ctx, cancel := context.WithCancelCause(t.Context())
	w.alive = func() error { cancel(errors.New("not Ready after 1h0m0s")); return nil }
	err := w.untilReady(ctx)
	want := "not Ready after 1h0m0s; waiting for:\n  BareMetalTarget a: Progressing=False NoRequest: no offer accepted"
	if err == nil || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}
	w.alive = func() error { return errors.New("the manager has exited") }
	if err := w.untilReady(t.Context()); err == nil || !strings.Contains(err.Error(), "the manager has exited; waiting for:\n  BareMetalTarget a") {
		t.Errorf("got error %v, want that the manager has exited, and the target", err)
	}
}

func TestReach(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodHead || r.URL.Path != "/SHA256SUMS" {
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	if err := reach(t.Context(), server.URL+"/SHA256SUMS"); err != nil {
		t.Error(err)
	}
	if err := reach(t.Context(), server.URL+"/other"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("got error %v, want one that contains 404", err)
	}
}

// Each directory of samples contains one server, one profile and two targets.
func TestSamples(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{root: root}
	for _, choice := range []string{samplesUbuntu, samplesDebian} {
		objects, err := readObjects(l.samplesDir(choice))
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[string]int{}
		for _, o := range objects {
			kinds[o.GetKind()]++
		}
		if kinds["ProvisioningServer"] != 1 || kinds["BootProfile"] != 1 || kinds["BareMetalTarget"] != 2 || len(kinds) != 3 {
			t.Errorf("%s: got kinds %v, want 1 ProvisioningServer, 1 BootProfile and 2 BareMetalTargets", choice, kinds)
		}
	}
	simulated := filepath.Join(root, "config", "samples", "simulated")
	objects, err := readObjects(simulated)
	if err != nil || len(objects) != 102 {
		t.Errorf("%s: got %d objects, error %v; want a server, a profile and 100 targets", simulated, len(objects), err)
	}
	generated, err := exec.CommandContext(t.Context(), filepath.Join(simulated, "generate.sh"), "100").Output()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(simulated, "baremetaltargets.yaml"))
	if err != nil || !bytes.Equal(text, generated) {
		t.Errorf("baremetaltargets.yaml, error %v, is not the output of \"generate.sh 100\"; generate it again", err)
	}
	address, err := l.ubuntuAddress()
	if err != nil || !strings.HasSuffix(address, "/SHA256SUMS") {
		t.Errorf("got address %q, error %v, want one that ends in /SHA256SUMS", address, err)
	}
}
