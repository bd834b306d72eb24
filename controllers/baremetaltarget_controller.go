// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/task"
)

// BareMetalTargetReconciler takes targets from their declaration to Ready.
type BareMetalTargetReconciler struct {
	client.Client
	Host   *Host
	Events events.EventRecorder

	waker  *waker
	stops  *task.Group[struct{}, qemu.StopMethod]
	claims claims
	steps  steps
	logs   serialLogs
}

// +kubebuilder:rbac:groups=pxelab.io,resources=baremetaltargets,verbs=list;watch;patch
// +kubebuilder:rbac:groups=pxelab.io,resources=baremetaltargets/status,verbs=patch

// SetupWithManager registers the reconciler. Close it when the manager ended.
func (r *BareMetalTargetReconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.waker = newWaker()
	r.stops = task.NewGroup[struct{}, qemu.StopMethod](task.Options{
		Wake:    func(key string) { r.waker.wake(owner(key)) },
		Backoff: time.Second, MaxBackoff: time.Minute,
	})
	return ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.BareMetalTarget{}, builder.WithPredicates(declared)).
		Watches(&v1alpha1.ProvisioningServer{}, handler.EnqueueRequestsFromMapFunc(r.targetsOf(serverRef))).
		Watches(&v1alpha1.BootProfile{}, handler.EnqueueRequestsFromMapFunc(r.targetsOf(profileRef))).
		WatchesRawSource(r.waker.source()).
		WithOptions(controller.Options{MaxConcurrentReconciles: 4}).
		Complete(r)
}

// Wake looks at the target with this UID again, if it is one.
func (r *BareMetalTargetReconciler) Wake(uid string) { r.waker.wake(uid) }

// Close ends background work and waits for it.
func (r *BareMetalTargetReconciler) Close() { r.stops.Close() }

// Reconcile brings one target forward.
func (r *BareMetalTargetReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	return reconcileObject(ctx, r.Client, r.waker, r, req, &v1alpha1.BareMetalTarget{})
}

func (r *BareMetalTargetReconciler) status(t *v1alpha1.BareMetalTarget) (any, *[]metav1.Condition) {
	return t.Status, &t.Status.Conditions
}

// fail says that a step could not be done.
func (r *BareMetalTargetReconciler) fail(t *v1alpha1.BareMetalTarget, err error) {
	t.Status.Message = clip(err.Error(), maxMessage)
	set(&t.Status.Conditions, t.Generation, no(v1alpha1.ConditionProgressing, plan.FailureReason(err), err.Error()))
}

// release drops what this process holds for a target that is gone.
func (r *BareMetalTargetReconciler) release(uid types.UID) error {
	r.stops.Forget(taskKey(uid, "stop"))
	r.claims.release(uid)
	r.steps.forget(uid)
	r.logs.forget(uid)
	return nil
}

// announce tells of a change of phase.
func (r *BareMetalTargetReconciler) announce(t, base *v1alpha1.BareMetalTarget) {
	announceStall(r.Events, t, base)
	if t.Status.Phase == base.Status.Phase {
		return
	}
	kind := corev1.EventTypeNormal
	if t.Status.Phase == v1alpha1.TargetFailed {
		kind = corev1.EventTypeWarning
	}
	tell(r.Events, t, kind, string(t.Status.Phase), "Reconcile", t.Status.Message)
}

func (r *BareMetalTargetReconciler) bring(ctx context.Context, t *v1alpha1.BareMetalTarget) (ctrl.Result, error) {
	t.Status.ObservedGeneration = t.Generation
	w := &targetWork{target: t, paused: v1alpha1.Paused(t)}
	steps := []func(context.Context, *targetWork) error{
		r.resolve, r.observe, r.ensureClaim, r.checkFit, r.ensureDisks, r.ensurePower, r.ensureInstalled,
	}
	if w.paused {
		steps = []func(context.Context, *targetWork) error{r.resolve, r.observe, r.leaveAlone}
	}
	for _, step := range steps {
		if err := step(ctx, w); err != nil {
			if w.observed {
				r.report(w, err)
			}
			return ctrl.Result{}, err
		}
	}
	return ctrl.Result{RequeueAfter: r.report(w, nil)}, nil
}

func serverRef(t *v1alpha1.BareMetalTarget) string  { return t.Spec.ProvisioningServerRef.Name }
func profileRef(t *v1alpha1.BareMetalTarget) string { return t.Spec.BootProfileRef.Name }

// targetsOf maps an object to the targets that refer to it.
func (r *BareMetalTargetReconciler) targetsOf(ref func(*v1alpha1.BareMetalTarget) string) handler.MapFunc {
	return func(ctx context.Context, o client.Object) []reconcile.Request {
		targets := &v1alpha1.BareMetalTargetList{}
		if err := r.List(ctx, targets, client.InNamespace(o.GetNamespace())); err != nil {
			return nil
		}
		var out []reconcile.Request
		for i := range targets.Items {
			if ref(&targets.Items[i]) == o.GetName() {
				out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&targets.Items[i])})
			}
		}
		return out
	}
}
