// SPDX-License-Identifier: Apache-2.0

package labdown

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
)

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// newCluster has a server and targets that are Ready. patch is called for each write of a
// status.
func newCluster(t *testing.T, targets int, patch func(client.Object) error) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	ready := []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady}}
	objects := []client.Object{&v1alpha1.ProvisioningServer{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "lab", UID: "server"},
		Status:     v1alpha1.ProvisioningServerStatus{Phase: v1alpha1.ServerReady, Conditions: ready},
	}}
	for i := range targets {
		objects = append(objects, &v1alpha1.BareMetalTarget{
			ObjectMeta: metav1.ObjectMeta{Namespace: "b", Name: fmt.Sprint(i), UID: types.UID(fmt.Sprint("target-", i))},
			Status:     v1alpha1.BareMetalTargetStatus{Phase: v1alpha1.TargetReady, Power: v1alpha1.PowerOn, Conditions: ready},
		})
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(objects...).
		WithInterceptorFuncs(interceptor.Funcs{SubResourcePatch: func(
			ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption,
		) error {
			if err := patch(o); err != nil {
				return err
			}
			return c.SubResource(sub).Patch(ctx, o, p, opts...)
		}}).Build()
}

func TestRecord(t *testing.T) {
	const targets = 20
	writes := make(chan string, 10*targets)
	c := newCluster(t, targets, func(o client.Object) error {
		writes <- o.GetName()
		return nil
	})
	options := Options{Reader: c, Writer: c, Now: now, Machines: []machine.State{
		{ID: "server", Phase: machine.PhaseStopped, Exit: &machine.Exit{Reason: machine.ExitGuestShutdown}},
		{ID: "target-0", Phase: machine.PhaseStopped, Exit: &machine.Exit{Reason: machine.ExitStopped}},
		{ID: "target-1", Phase: machine.PhaseUnresponsive},
	}}
	for round, want := range []int{targets, 0} { // the second time as of a second command
		result, err := Record(t.Context(), options)
		if err != nil || result.Stopped != targets || !slices.Equal(result.Running, []string{"BareMetalTarget b/1"}) {
			t.Errorf("round %d: got %+v, error %v, want %d objects, all but one", round, result, err, targets)
		}
		if got := len(writes); got != want {
			t.Errorf("round %d: got %d writes, want %d", round, got, want)
		}
		for len(writes) > 0 {
			<-writes
		}
	}
	server := &v1alpha1.ProvisioningServer{}
	if err := c.Get(t.Context(), types.NamespacedName{Namespace: "a", Name: "lab"}, server); err != nil {
		t.Fatal(err)
	}
	if server.Status.Phase != v1alpha1.ServerStopped {
		t.Errorf("server: got phase %s, want Stopped", server.Status.Phase)
	}
	for name, phase := range map[string]v1alpha1.TargetPhase{"0": v1alpha1.TargetStopped, "1": v1alpha1.TargetReady, "2": v1alpha1.TargetStopped} {
		target := &v1alpha1.BareMetalTarget{}
		if err := c.Get(t.Context(), types.NamespacedName{Namespace: "b", Name: name}, target); err != nil {
			t.Fatal(err)
		}
		ready := meta.FindStatusCondition(target.Status.Conditions, v1alpha1.ConditionReady)
		if target.Status.Phase != phase || ready.Reason == v1alpha1.ReasonLabDown != (phase == v1alpha1.TargetStopped) {
			t.Errorf("target %s: got phase %s, condition %+v, want phase %s", name, target.Status.Phase, ready, phase)
		}
	}
}

// An object that cannot be written does not keep the others from being written.
func TestRecordContinuesAfterError(t *testing.T) {
	c := newCluster(t, 9, func(o client.Object) error {
		if o.GetName() == "3" || o.GetName() == "5" {
			return errors.New("the store is full")
		}
		return nil
	})
	result, err := Record(t.Context(), Options{Reader: c, Writer: c, Now: now})
	if err == nil || !strings.Contains(err.Error(), "writing 2 of 10 statuses") || !strings.Contains(err.Error(), "the store is full") {
		t.Errorf("got error %v, want the count and the cause", err)
	}
	if result.Stopped != 8 {
		t.Errorf("got %d objects recorded, want 8", result.Stopped)
	}
}
