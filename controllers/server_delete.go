// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// reconcileDelete removes a server that no target uses. gone is true once the
// finalizer is removed.
func (r *ProvisioningServerReconciler) reconcileDelete(ctx context.Context, s *v1alpha1.ProvisioningServer) (gone bool, err error) {
	if !controllerutil.ContainsFinalizer(s, v1alpha1.Finalizer) {
		return true, nil // other finalizers remain
	}
	users, err := r.targets(ctx, s)
	if err != nil {
		return false, err
	}
	if len(users) > 0 {
		var names []string
		for i := range users {
			names = append(names, users[i].Name)
		}
		slices.Sort(names)
		return false, r.reconcileUsed(ctx, s, "will be deleted when no target uses it; used by "+strings.Join(names, ", "))
	}
	uid := string(s.UID)
	stopped := r.stop(ctx, &serverScope{server: s}, "delete", machine.StopOptions{})
	if stopped.Err != nil {
		return false, fmt.Errorf("stopping the machine: %w", stopped.Err)
	}
	if !stopped.Done {
		waiting(s, v1alpha1.ServerDeleting,
			conditionFalse(v1alpha1.ConditionMachineRunning, v1alpha1.ReasonDeleting, "the machine is being stopped"))
		return false, nil
	}
	r.Host.Capacity.release(uid)
	// No task may write to the directory while it is removed.
	if !r.fetch.Cancel(taskKey(s.UID, "disk")) {
		return false, nil
	}
	r.Host.Sessions.Remove(uid)
	err = errors.Join(
		r.Host.Networks.Detach(serverAttachment(s, plan.Network{Mode: s.Spec.Network.Mode}, r.Host.paths(uid))),
		r.Host.Networks.Remove(uid),
		r.Host.Machines.Remove(ctx, uid),
		targetdisk.Remove(r.Host.paths(uid).Dir))
	if err != nil {
		return false, err
	}
	ctrl.LoggerFrom(ctx).Info("Removed machine")
	return true, removeFinalizer(ctx, r.Client, s)
}

// reconcileUsed reconciles a server that is deleted once no target uses it.
func (r *ProvisioningServerReconciler) reconcileUsed(ctx context.Context, s *v1alpha1.ProvisioningServer, message string) error {
	r.stops.Forget(taskKey(s.UID, "delete")) // it may have been unused before
	before := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionReady).DeepCopy()
	_, err := r.reconcileNormal(ctx, s)
	// The condition Ready in between must not show as a transition.
	if now := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionReady); now != nil && before != nil {
		*now = *before
	}
	waiting(s, v1alpha1.ServerDeleting, conditionFalse(v1alpha1.ConditionReady, v1alpha1.ReasonInUse, message))
	return err
}

// targets returns the targets that use a server. They share the cache's memory and must
// not be modified.
func (r *ProvisioningServerReconciler) targets(ctx context.Context, s *v1alpha1.ProvisioningServer) ([]v1alpha1.BareMetalTarget, error) {
	return targetsWith(ctx, r, fieldServer, client.ObjectKeyFromObject(s))
}

func serverOfTarget(_ context.Context, o client.Object) []reconcile.Request {
	t := o.(*v1alpha1.BareMetalTarget)
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: t.Namespace, Name: t.Spec.ProvisioningServerRef.Name}}}
}
