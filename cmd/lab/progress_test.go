// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/access"
)

// TestWatchCountsManyTargets prints the states of many targets as counts, and the server's
// by itself.
func TestWatchCountsManyTargets(t *testing.T) {
	const count = manyObjects + 2
	objects := []client.Object{readyObjects()[0]}
	for i := range count {
		o := &v1alpha1.BareMetalTarget{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("many-", i)},
			Status:     v1alpha1.BareMetalTargetStatus{Phase: v1alpha1.TargetReady},
		}
		if i == 0 {
			o.Status.Phase, o.Status.Message = v1alpha1.TargetPXE, "DHCP"
		}
		objects = append(objects, o)
	}
	w := watched(t, objects...)
	w.unobserved = func(context.Context) ([]access.Object, error) { return nil, nil }
	lines := func() []string {
		t.Helper()
		text, err := os.ReadFile(w.out.out.Name())
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for line := range strings.Lines(string(text)) {
			_, line, _ = strings.Cut(line, "] ")
			out = append(out, strings.Join(strings.Fields(line), " "))
		}
		return out
	}
	check := func(wantDone bool, want ...string) {
		t.Helper()
		done, err := w.poll(t.Context())
		if done != wantDone || err != nil {
			t.Errorf("got done %t, error %v; want %t", done, err, wantDone)
		}
		if got := lines(); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("got lines %q, want %q", got, want)
		}
	}
	first := []string{"ProvisioningServer a Ready", "12 BareMetalTargets: 1 PXE, 11 Ready"}
	check(false, first...)
	if got, want := w.summary(), "  BareMetalTarget many-0: PXE DHCP"; got != want {
		t.Errorf("got summary %q, want %q", got, want)
	}
	set := func(i int, phase v1alpha1.TargetPhase) {
		t.Helper()
		o := objects[1+i].(*v1alpha1.BareMetalTarget).DeepCopy()
		if err := w.cluster.client.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			t.Fatal(err)
		}
		o.Status.Phase = phase
		if err := w.cluster.client.Update(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	set(1, v1alpha1.TargetBooting)
	check(false, first...) // too soon
	w.countedAt = time.Now().Add(-countInterval)
	second := append(first, "12 BareMetalTargets: 1 Booting, 1 PXE, 10 Ready")
	check(false, second...)
	set(0, v1alpha1.TargetReady)
	set(1, v1alpha1.TargetReady)
	check(true, append(second, "12 BareMetalTargets: 12 Ready")...)
}

func TestWaitLimit(t *testing.T) {
	target := &unstructured.Unstructured{}
	target.SetKind(targetKind)
	server := &unstructured.Unstructured{}
	server.SetKind("ProvisioningServer")
	if got, want := waitLimit([]*unstructured.Unstructured{server, target, target}), time.Hour+2*time.Minute; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestShortened(t *testing.T) {
	names := strings.Fields(strings.Repeat("a ", manyObjects))
	if shown, more := shortened(names); len(shown) != manyObjects || more != "" {
		t.Errorf("got %q, %q; want all and nothing more", shown, more)
	}
	if shown, more := shortened(append(names, "b", "c")); len(shown) != manyObjects || more != "  and 2 more\n" {
		t.Errorf("got %q, %q; want %d, and that there are 2 more", shown, more, manyObjects)
	}
}

// TestVirtualTargets are those to which a user can log in.
func TestVirtualTargets(t *testing.T) {
	var objects []*unstructured.Unstructured
	for name, runner := range map[string]string{"b": "QEMU", "a": "", "c": string(v1alpha1.RunnerSimulated)} {
		o := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"machine": map[string]any{}}}}
		o.SetKind(targetKind)
		o.SetName(name)
		if runner != "" {
			if err := unstructured.SetNestedField(o.Object, runner, "spec", "machine", "runner"); err != nil {
				t.Fatal(err)
			}
		}
		objects = append(objects, o)
	}
	w := newWatch(nil, nil, objects)
	if got := strings.Join(w.virtual(), " "); got != "a b" {
		t.Errorf("got virtual targets %q, want a and b", got)
	}
	if got := strings.Join(w.targets(), " "); got != "a b c" {
		t.Errorf("got targets %q, want all", got)
	}
}
