// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/storage"
)

// delete stops the machine and removes what was made for it.
func (r *BareMetalTargetReconciler) delete(ctx context.Context, t *v1alpha1.BareMetalTarget) (gone bool, err error) {
	if !controllerutil.ContainsFinalizer(t, v1alpha1.Finalizer) {
		return true, nil // others hold it
	}
	w := &targetWork{target: t}
	t.Status.Phase, t.Status.Progress, t.Status.Message = v1alpha1.TargetDeleting, "", "machine is being stopped"
	if err := r.look(ctx, w); err != nil {
		return false, err
	}
	stopped, err := r.stop(w, "delete", qemu.StopOptions{})
	if err != nil || !stopped {
		return false, err
	}
	server := &v1alpha1.ProvisioningServer{}
	err = r.Get(ctx, types.NamespacedName{Namespace: t.Namespace, Name: t.Spec.ProvisioningServerRef.Name}, server)
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("reading the server: %w", err)
	}
	if err == nil {
		if err := r.Host.Networks.Detach(targetAttachment(t, server, plan.Network{Mode: server.Spec.Network.Mode}, w.paths)); err != nil {
			return false, fmt.Errorf("detaching the target: %w", err)
		}
	}
	if t.Spec.DiskRetention == v1alpha1.RetentionRetain {
		if err := r.retain(t, w.paths.Dir); err != nil {
			return false, err
		}
	}
	if err := errors.Join(r.Host.Machines.Remove(ctx, string(t.UID)), storage.Remove(w.paths.Dir)); err != nil {
		return false, err
	}
	return true, removeFinalizer(ctx, r.Client, t)
}

// retain moves the disks out of the machine's directory and says where they are.
// No record decides whether it does: what is about to be removed is what counts,
// also when the record cannot be read, is lost or was moved already.
func (r *BareMetalTargetReconciler) retain(t *v1alpha1.BareMetalTarget, dir string) error {
	dst := filepath.Join(r.Host.RetainedDir, fmt.Sprintf("%s-%s-%s", t.Namespace, t.Name, t.UID))
	kept, err := storage.Retain(dir, dst, disksOf(t, dir))
	if kept {
		tell(r.Events, t, corev1.EventTypeNormal, "DisksRetained", "Delete", "disks are kept in "+dst)
	}
	return err
}
