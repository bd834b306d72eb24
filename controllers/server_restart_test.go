// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers/internal/task"
	"github.com/pxelab/pxelab/internal/machine"
)

// conflicting is a client whose first patches fail with a conflict, as those of an
// object do that was read before another client wrote it.
type conflicting struct {
	client.Client
	conflicts int
}

func (c *conflicting) Patch(_ context.Context, o client.Object, _ client.Patch, _ ...client.PatchOption) error {
	if c.conflicts == 0 {
		return nil
	}
	c.conflicts--
	return apierrors.NewConflict(schema.GroupResource{Resource: "provisioningservers"}, o.GetName(), nil)
}

func TestServerRestartIsRecordedOnce(t *testing.T) {
	for name, conflicts := range map[string]int{"at_once": 0, "after_conflicts": 2} {
		t.Run(name, func(t *testing.T) {
			recorder := events.NewFakeRecorder(10)
			r := &ProvisioningServerReconciler{
				Client: &conflicting{conflicts: conflicts}, Events: recorder,
				stops: task.NewGroup[struct{}, machine.StopMethod](task.Options{}),
			}
			defer r.stops.Close()
			for i := range conflicts + 1 {
				if n := len(recorder.Events); n != 0 {
					t.Errorf("after %d conflicts: got %d Events, want 0", i, n)
				}
				// The object as it is read again: the annotation is still set.
				scope := &serverScope{
					server: &v1alpha1.ProvisioningServer{ObjectMeta: metav1.ObjectMeta{
						Name: "lab", ResourceVersion: "1", Annotations: map[string]string{v1alpha1.RestartAnnotation: "now"},
					}},
					state: machine.State{Phase: machine.PhaseStopped},
				}
				stopped, err := r.ensureRestarted(t.Context(), scope)
				if err != nil || stopped == nil || stopped.RequeueAfter != staleRetry {
					t.Fatalf("got %+v, %v; want another reconciliation after %v", stopped, err, staleRetry)
				}
			}
			if n := len(recorder.Events); n != 1 {
				t.Errorf("got %d Events, want 1", n)
			}
		})
	}
}
