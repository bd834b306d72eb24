// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/ownership"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// reconcileDelete stops the machine and removes its files and its port.
func (r *BareMetalTargetReconciler) reconcileDelete(ctx context.Context, t *v1alpha1.BareMetalTarget) (gone bool, err error) {
	if !controllerutil.ContainsFinalizer(t, v1alpha1.Finalizer) {
		return true, nil // other finalizers remain
	}
	scope := &targetScope{target: t}
	t.Status.Phase = v1alpha1.TargetDeleting
	t.Status.Progress = ""
	t.Status.Message = "the machine is being stopped"
	if err := r.observeMachine(ctx, scope); err != nil {
		return false, err
	}
	stopped, err := r.stop(ctx, scope, "delete", machine.StopOptions{})
	if err != nil || !stopped {
		return false, err
	}
	r.Host.Capacity.release(string(t.UID))
	server := &v1alpha1.ProvisioningServer{}
	err = r.Get(ctx, types.NamespacedName{Namespace: t.Namespace, Name: t.Spec.ProvisioningServerRef.Name}, server)
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("reading the server: %w", err)
	}
	network := plan.Network{Mode: server.Spec.Network.Mode}
	if err == nil {
		r.Host.Sessions.DeleteMachine(string(server.UID), string(t.UID))
	} else {
		network.Mode = v1alpha1.NetworkUserspace // whose switch may have left a socket
	}
	if err := r.Host.Networks.Detach(targetAttachment(t, server, network, scope.paths)); err != nil {
		return false, fmt.Errorf("detaching the target: %w", err)
	}
	if t.Spec.DiskRetention == v1alpha1.RetentionRetain {
		if err := r.retain(ctx, t, scope.paths.Dir); err != nil {
			return false, err
		}
	}
	if err := errors.Join(r.Host.Machines.Remove(ctx, string(t.UID)), targetdisk.Remove(scope.paths.Dir)); err != nil {
		return false, err
	}
	ctrl.LoggerFrom(ctx).Info("Removed machine")
	return true, removeFinalizer(ctx, r.Client, t)
}

// retain moves the disks out of the machine's directory and emits an Event with their
// new place. It does not consult the record of the disks, which may be unreadable, lost
// or moved already.
func (r *BareMetalTargetReconciler) retain(ctx context.Context, t *v1alpha1.BareMetalTarget, dir string) error {
	dst := filepath.Join(r.Host.RetainedDir, fmt.Sprintf("%s-%s-%s", t.Namespace, t.Name, t.UID))
	kept, err := targetdisk.Retain(dir, dst, disksOf(t, dir), ownership.MachineRecordName)
	if kept {
		ctrl.LoggerFrom(ctx).Info("Retained disks", "directory", dst)
		recordEvent(r.Events, t, event{corev1.EventTypeNormal, v1alpha1.ReasonDisksRetained, "Delete", "disks are retained in " + dst})
	}
	return err
}
