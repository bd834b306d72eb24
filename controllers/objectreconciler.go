// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	ctrlevent "sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// specChanged passes only changes of the spec and of annotations. The status of an
// object is written by its own reconciler, which need not run again because of it.
var specChanged = predicate.Or[client.Object](predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{})

// comesOrGoes passes only the creation of an object and the two steps of its deletion.
var comesOrGoes = predicate.Funcs{UpdateFunc: func(e ctrlevent.UpdateEvent) bool {
	return e.ObjectOld.GetDeletionTimestamp().IsZero() != e.ObjectNew.GetDeletionTimestamp().IsZero()
}}

// serverMatters passes the changes of a server that its targets depend on: not its
// leases, counts and progress, which would wake all of them again and again.
var serverMatters = predicate.Funcs{UpdateFunc: func(e ctrlevent.UpdateEvent) bool {
	before, after := e.ObjectOld.(*v1alpha1.ProvisioningServer), e.ObjectNew.(*v1alpha1.ProvisioningServer)
	return specChanged.Update(e) || before.Status.Phase != after.Status.Phase || before.Status.Network.CIDR != after.Status.Network.CIDR
}}

// profileMatters passes the changes of a profile that its targets depend on: not the
// progress of its artifacts.
var profileMatters = predicate.Funcs{UpdateFunc: func(e ctrlevent.UpdateEvent) bool {
	before, after := e.ObjectOld.(*v1alpha1.BootProfile), e.ObjectNew.(*v1alpha1.BootProfile)
	ready := func(p *v1alpha1.BootProfile) string {
		c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
		if c == nil || c.Status == metav1.ConditionTrue || p.Status.Progress != "" {
			return ""
		}
		return c.Message
	}
	return specChanged.Update(e) || before.Status.Digest != after.Status.Digest ||
		before.Status.ObservedGeneration != after.Status.ObservedGeneration || ready(before) != ready(after)
}}

// reconcileTimeout ends a reconciliation that does not return: a safety net, because
// no step waits for anything but the API server.
const reconcileTimeout = 2 * time.Minute

// longestBackoff is the longest pause before a reconciliation that failed is repeated:
// what a user mends must not go unnoticed for long.
const longestBackoff = 30 * time.Second

// controllerOptions returns what the three controllers have in common.
func controllerOptions(workers int) controller.Options {
	return controller.Options{
		MaxConcurrentReconciles: workers,
		ReconciliationTimeout:   reconcileTimeout,
		RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[ctrl.Request](5*time.Millisecond, longestBackoff),
	}
}

// objectReconciler is what differs between the reconcilers of the three kinds. Its
// methods may change the status of the object that they are given; reconcileObject
// writes it.
type objectReconciler[T client.Object] interface {
	client.Client
	// newObject returns an empty object to read into.
	newObject() T
	// eventSource returns the source of the kind's events from outside of the API.
	eventSource() *eventSource
	// reconcileNormal moves an object towards its desired state.
	reconcileNormal(ctx context.Context, o T) (reconciliation, error)
	// reconcileDelete removes what was created for an object. gone is true once
	// the finalizer is removed; the status is then not written.
	reconcileDelete(ctx context.Context, o T) (gone bool, err error)
	// setFailure records in the status the error that ended a reconciliation.
	setFailure(o T, err error)
	// forget drops what this process holds for an object that is gone; uid may be
	// "".
	forget(uid types.UID) error
	// recordTransition emits the Events for a change of the status.
	recordTransition(o, base T)
	// statusOf returns the object's status and the conditions in it.
	statusOf(o T) (any, *[]metav1.Condition)
	// statusDelay returns how long the write of o's status may wait, 0 if it may not.
	// age is the time since this manager wrote the status of base. The reconciliation
	// after that time computes the status again.
	statusDelay(o, base T, age time.Duration) time.Duration
	// phaseOf returns the object's phase.
	phaseOf(o T) string
}

// reconciliation is the result of reconcileNormal.
type reconciliation struct {
	ctrl.Result
	// unobserved means that the status is still that of an earlier manager, or has
	// nothing but the machine's state. It is set also beside an error.
	unobserved bool
}

// halt ends a reconciliation without an error. With RequeueAfter 0 the next event
// resumes it.
type halt struct{ RequeueAfter time.Duration }

func requeueAfter(d time.Duration) *halt { return &halt{RequeueAfter: d} }

// step advances one part of an object. A non-nil halt ends this reconciliation
// without an error.
type step[S any] func(context.Context, *S) (*halt, error)

// runSteps runs the steps in order until one halts or fails.
func runSteps[S any](ctx context.Context, scope *S, steps []step[S]) (*halt, error) {
	log := ctrl.LoggerFrom(ctx).V(1)
	for _, s := range steps {
		h, err := s(ctx, scope)
		if log.Enabled() {
			log.Info("Ran step", "step", stepName(s), "halted", h != nil, "failed", err != nil)
		}
		if h != nil || err != nil {
			return h, err
		}
	}
	return nil, nil // all steps are done
}

// stepName returns the name of the method that a step is.
func stepName[S any](s step[S]) string {
	name := runtime.FuncForPC(reflect.ValueOf(s).Pointer()).Name()
	return strings.TrimSuffix(name[strings.LastIndexByte(name, '.')+1:], "-fm")
}

// reconcileObject is the part that the three reconcilers share: it reads the object,
// adds the finalizer before any effect outside of the API, runs reconcileNormal or
// reconcileDelete, and then writes the status once. A paused object is not deleted,
// and reconcileNormal leaves its machine alone.
func reconcileObject[T client.Object](ctx context.Context, r objectReconciler[T], req ctrl.Request) (result ctrl.Result, err error) {
	o := r.newObject()
	if err := r.Get(ctx, req.NamespacedName, o); err != nil {
		if client.IgnoreNotFound(err) != nil {
			return ctrl.Result{}, err
		}
		return ctrl.Result{}, r.forget(r.eventSource().forget(req.NamespacedName))
	}
	if err := r.forget(r.eventSource().track(o.GetUID(), req.NamespacedName)); err != nil {
		return ctrl.Result{}, err
	}
	if o.GetDeletionTimestamp().IsZero() {
		if err := ensureFinalizer(ctx, r, o); err != nil {
			return ctrl.Result{}, err
		}
	}
	base := o.DeepCopyObject().(T)
	gone := true // until a status to write exists
	var normal reconciliation
	defer func() {
		if !gone {
			result, err = finish(ctx, r, change[T]{o, base, !normal.unobserved}, result, err)
		}
		r.eventSource().markReconciled(o.GetUID())
	}()
	if !o.GetDeletionTimestamp().IsZero() && !v1alpha1.Paused(o) {
		if gone, err = r.reconcileDelete(ctx, o); gone {
			return ctrl.Result{}, err
		}
		return ctrl.Result{RequeueAfter: resyncInterval}, err
	}
	normal, err = r.reconcileNormal(ctx, o)
	gone = false
	return normal.Result, err
}

// change is an object before and after a reconciliation.
type change[T client.Object] struct {
	object, base T
	// observed means that the object's status has what was observed.
	observed bool
}

// finish writes the status if it changed, and emits and logs the transition. Once the API
// has a status that was observed, the object counts as observed.
func finish[T client.Object](ctx context.Context, r objectReconciler[T], c change[T], result ctrl.Result, err error) (ctrl.Result, error) {
	o, base := c.object, c.base
	if err != nil {
		r.setFailure(o, err)
	}
	_, conditions := r.statusOf(o)
	setPaused(o, conditions)
	before, _ := r.statusOf(base)
	after, _ := r.statusOf(o)
	written := true
	if !equality.Semantic.DeepEqual(before, after) {
		if d := writeDelay(r, c, err); d > 0 {
			result.RequeueAfter = sooner(result.RequeueAfter, d)
			return result, nil
		}
		var patchErr error
		written, patchErr = patchStatus(ctx, r, o, base)
		err = errors.Join(err, patchErr)
		if written {
			r.eventSource().markWritten(o.GetUID(), newStatusWrite(o, base))
			logTransition(ctx, r, c)
			r.recordTransition(o, base)
		}
		if !written && patchErr == nil {
			result.RequeueAfter = staleRetry
		}
	}
	if written && c.observed {
		r.eventSource().markObserved(o.GetUID())
	}
	if err != nil {
		return ctrl.Result{}, err
	}
	return result, nil
}

// writeDelay returns how long the write of a status that has changed has to wait, 0 if it
// is due. failure is the error that ended the reconciliation; it is written at once, and
// so is the first status that was observed.
func writeDelay[T client.Object](r objectReconciler[T], c change[T], failure error) time.Duration {
	uid := c.object.GetUID()
	last, ok := r.eventSource().lastWrite(uid)
	switch {
	case !ok || failure != nil:
		return 0
	case last.replaced == c.base.GetResourceVersion():
		return staleRetry // the cache does not have that write yet: the API server would refuse another
	case !c.object.GetDeletionTimestamp().IsZero() || !r.eventSource().observedOnce(uid):
		return 0
	}
	return r.statusDelay(c.object, c.base, time.Since(last.at))
}

// sooner returns the shorter of two delays, of which 0 is never.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// logTransition logs a change of the phase.
func logTransition[T client.Object](ctx context.Context, r objectReconciler[T], c change[T]) {
	from, to := r.phaseOf(c.base), r.phaseOf(c.object)
	if from == to {
		return
	}
	reason := ""
	_, conditions := r.statusOf(c.object)
	if ready := meta.FindStatusCondition(*conditions, v1alpha1.ConditionReady); ready != nil {
		reason = ready.Reason
	}
	ctrl.LoggerFrom(ctx).Info("Phase changed", "from", from, "to", to, "reason", reason)
}

// setPaused sets the condition Paused on an object that is paused, and removes it
// from one that is not.
func setPaused(o client.Object, conditions *[]metav1.Condition) {
	if !v1alpha1.Paused(o) {
		meta.RemoveStatusCondition(conditions, v1alpha1.ConditionPaused)
		return
	}
	message := "reconciliation is paused by the annotation " + v1alpha1.PausedAnnotation + "; remove it to resume"
	if !o.GetDeletionTimestamp().IsZero() {
		message += "; the object is deleted after that"
	}
	setCondition(conditions, o.GetGeneration(), conditionTrue(v1alpha1.ConditionPaused, v1alpha1.ReasonPaused, message))
}
