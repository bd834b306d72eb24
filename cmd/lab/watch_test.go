// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
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
			want:   objectState{state: "Downloading", detail: "Downloading image 37%"},
		},
		"ready": {
			status: v1alpha1.BootProfileStatus{Conditions: condition("True", "Ready", "")},
			want:   objectState{state: "Ready", done: true},
		},
		"wrong checksum": {
			status: v1alpha1.BootProfileStatus{Conditions: condition("False", "ChecksumMismatch", "the digest differs")},
			want:   objectState{state: "ChecksumMismatch the digest differs", detail: "ChecksumMismatch", failure: "the digest differs"},
		},
		"unreachable": {
			status: v1alpha1.BootProfileStatus{Conditions: condition("False", "Unreachable", "retrying")},
			want:   objectState{state: "Unreachable retrying", detail: "Unreachable"},
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
