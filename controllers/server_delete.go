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
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/storage"
)

// delete ends a server that no target uses any more. gone is true when nothing
// is left to say.
func (r *ProvisioningServerReconciler) delete(ctx context.Context, s *v1alpha1.ProvisioningServer) (gone bool, err error) {
	if !controllerutil.ContainsFinalizer(s, v1alpha1.Finalizer) {
		return true, nil // others hold it
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
		return false, r.reconcileUsed(ctx, s, "is deleted when no target uses it any more: "+strings.Join(names, ", "))
	}
	uid := string(s.UID)
	stopped := r.stops.Run(taskKey(s.UID, "delete"), "", func(ctx context.Context, _ func(struct{})) (qemu.StopMethod, error) {
		return r.Host.Machines.Stop(ctx, uid, qemu.StopOptions{})
	})
	if stopped.Err != nil {
		return false, fmt.Errorf("stopping the machine: %w", stopped.Err)
	}
	if !stopped.Done {
		waiting(s, v1alpha1.ServerDeleting, no(v1alpha1.ConditionMachineRunning, v1alpha1.ReasonDeleting, "machine is being stopped"))
		return false, nil
	}
	// Nothing may write to the directory that is removed.
	if !r.fetch.Cancel(taskKey(s.UID, "disk")) {
		return false, nil
	}
	r.Host.Sessions.Remove(uid)
	err = errors.Join(
		r.Host.Networks.Detach(serverAttachment(s, plan.Network{Mode: s.Spec.Network.Mode}, r.Host.paths(uid))),
		r.Host.Networks.Remove(uid),
		r.Host.Machines.Remove(ctx, uid),
		storage.Remove(r.Host.paths(uid).Dir))
	if err != nil {
		return false, err
	}
	return true, removeFinalizer(ctx, r.Client, s)
}

// reconcileUsed keeps a server at work that is deleted once it is not used any
// more.
func (r *ProvisioningServerReconciler) reconcileUsed(ctx context.Context, s *v1alpha1.ProvisioningServer, message string) error {
	r.stops.Forget(taskKey(s.UID, "delete")) // it may have been unused for a moment
	before := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionReady).DeepCopy()
	_, err := r.bring(ctx, s)
	// What was said of Ready in between never was.
	if now := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionReady); now != nil && before != nil {
		*now = *before
	}
	waiting(s, v1alpha1.ServerDeleting, no(v1alpha1.ConditionReady, v1alpha1.ReasonInUse, message))
	return err
}

// targets that use a server, to be read only.
func (r *ProvisioningServerReconciler) targets(ctx context.Context, s *v1alpha1.ProvisioningServer) ([]v1alpha1.BareMetalTarget, error) {
	list := &v1alpha1.BareMetalTargetList{}
	if err := r.List(ctx, list, client.InNamespace(s.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing targets: %w", err)
	}
	return slices.DeleteFunc(list.Items, func(t v1alpha1.BareMetalTarget) bool {
		return t.Spec.ProvisioningServerRef.Name != s.Name
	}), nil
}

func serverOfTarget(_ context.Context, o client.Object) []reconcile.Request {
	t := o.(*v1alpha1.BareMetalTarget)
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: t.Namespace, Name: t.Spec.ProvisioningServerRef.Name}}}
}

// serversOfProfile are the servers of the targets that use a profile.
func (r *ProvisioningServerReconciler) serversOfProfile(ctx context.Context, o client.Object) []reconcile.Request {
	targets := &v1alpha1.BareMetalTargetList{}
	if err := r.List(ctx, targets, client.InNamespace(o.GetNamespace())); err != nil {
		return nil
	}
	var out []reconcile.Request
	for i := range targets.Items {
		if targets.Items[i].Spec.BootProfileRef.Name == o.GetName() {
			out = append(out, serverOfTarget(ctx, &targets.Items[i])...)
		}
	}
	return out
}
