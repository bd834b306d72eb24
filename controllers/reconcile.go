// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// declared lets only changes of what is declared through, annotations included:
// an object's own status is written by its reconciler, and need not wake it
// again.
var declared = predicate.Or[client.Object](predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{})

// kind is what the reconcilers of the three kinds differ in. Its methods take
// the object to be written to; what they change of its status is patched.
type kind[T client.Object] interface {
	// bring takes an object forward.
	bring(ctx context.Context, o T) (ctrl.Result, error)
	// delete removes what was made for an object. gone is true when nothing is
	// left to say: the finalizer is removed.
	delete(ctx context.Context, o T) (gone bool, err error)
	// fail says what ended bring or delete.
	fail(o T, err error)
	// release drops what this process holds for an object that is gone; uid may
	// be "".
	release(uid types.UID) error
	// announce tells of a change of the status.
	announce(o, base T)
	// status is the object's status, and the conditions in it.
	status(o T) (any, *[]metav1.Condition)
}

// reconcileObject is the frame that the three reconcilers share: finalizer before any
// outside effect, then bring or delete, then one patch of the status. What is
// paused is not deleted, and bring leaves its machine alone. empty is the object
// to read into.
func reconcileObject[T client.Object](ctx context.Context, c client.Client, w *waker, k kind[T], req ctrl.Request, empty T) (ctrl.Result, error) {
	o := empty
	if err := c.Get(ctx, req.NamespacedName, o); err != nil {
		if err = client.IgnoreNotFound(err); err == nil {
			err = k.release(w.forget(req.NamespacedName))
		}
		return ctrl.Result{}, err
	}
	if err := k.release(w.know(o.GetUID(), req.NamespacedName)); err != nil {
		return ctrl.Result{}, err
	}
	deleted := !o.GetDeletionTimestamp().IsZero()
	if !deleted {
		if err := ensureFinalizer(ctx, c, o); err != nil {
			return ctrl.Result{}, err
		}
	}
	base := o.DeepCopyObject().(T)
	result, gone, err := forward(ctx, k, o, deleted)
	if gone {
		return ctrl.Result{}, err
	}
	if err != nil {
		k.fail(o, err)
	}
	before, _ := k.status(base)
	_, conditions := k.status(o)
	setPaused(o, conditions)
	after, _ := k.status(o)
	changed, done, patchErr := patchStatus(ctx, c, o, base, before, after)
	if changed {
		k.announce(o, base)
	}
	if err = errors.Join(err, patchErr); err != nil {
		return ctrl.Result{}, err
	}
	if !done {
		result.RequeueAfter = staleRetry
	}
	return result, nil
}

func forward[T client.Object](ctx context.Context, k kind[T], o T, deleted bool) (result ctrl.Result, gone bool, err error) {
	if deleted && !v1alpha1.Paused(o) {
		gone, err = k.delete(ctx, o)
		return ctrl.Result{RequeueAfter: recheckEvery}, gone, err
	}
	result, err = k.bring(ctx, o)
	return result, false, err
}

// setPaused says that an object is paused, for as long as it is.
func setPaused(o client.Object, conditions *[]metav1.Condition) {
	if !v1alpha1.Paused(o) {
		meta.RemoveStatusCondition(conditions, v1alpha1.ConditionPaused)
		return
	}
	message := "nothing is done while the annotation " + v1alpha1.PausedAnnotation + " is set"
	if !o.GetDeletionTimestamp().IsZero() {
		message += "; the deletion waits as well"
	}
	set(conditions, o.GetGeneration(), yes(v1alpha1.ConditionPaused, v1alpha1.ReasonPaused, message))
}
