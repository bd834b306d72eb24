// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// ensureFinalizer adds the finalizer to an object. It precedes every effect outside
// of the API.
func ensureFinalizer(ctx context.Context, c client.Client, o client.Object) error {
	if controllerutil.ContainsFinalizer(o, v1alpha1.Finalizer) {
		return nil
	}
	base := o.DeepCopyObject().(client.Object)
	controllerutil.AddFinalizer(o, v1alpha1.Finalizer)
	if err := c.Patch(ctx, o, lockedPatch(base)); err != nil {
		return fmt.Errorf("adding the finalizer: %w", err)
	}
	return nil
}

// removeFinalizer removes the finalizer, so that the API server can delete the
// object.
func removeFinalizer(ctx context.Context, c client.Client, o client.Object) error {
	base := o.DeepCopyObject().(client.Object)
	if !controllerutil.RemoveFinalizer(o, v1alpha1.Finalizer) {
		return nil
	}
	if err := c.Patch(ctx, o, lockedPatch(base)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("removing the finalizer: %w", err)
	}
	return nil
}

// lockedPatch returns a merge patch that the API server accepts only if base is the
// object's latest version: a list in the patch replaces the whole list, including
// entries that another client added.
func lockedPatch(base client.Object) client.Patch {
	return client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
}

// staleRetry is the delay before an object is read again whose latest version was
// not in the cache yet.
const staleRetry = 200 * time.Millisecond

// patchStatus writes the status of o. written is false without an error if base was
// not the latest version: the start of a phase would be lost if a status computed
// from an older version were written. The caller then retries after staleRetry.
func patchStatus(ctx context.Context, c client.Client, o, base client.Object) (written bool, err error) {
	switch err := c.Status().Patch(ctx, o, lockedPatch(base)); {
	case err == nil:
		return true, nil
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		// An object that is gone is reconciled once more, and then forgotten.
		return false, nil
	default:
		return false, fmt.Errorf("writing the status: %w", err)
	}
}
