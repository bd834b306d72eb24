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
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers/internal/task"
	"github.com/pxelab/pxelab/internal/bootconfig"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/metrics"
	"github.com/pxelab/pxelab/internal/plan"
)

// BareMetalTargetReconciler reconciles targets: it installs their machines and keeps
// them in the desired power state.
type BareMetalTargetReconciler struct {
	client.Client
	Host   *Host
	Events events.EventRecorder

	// serverReconciled reports whether a server was reconciled since the manager started.
	serverReconciled func(types.UID) bool

	watchdog *watchdog
	external *eventSource
	// started is when the manager started.
	started   time.Time
	stops     *task.Group[struct{}, machine.StopMethod]
	templates *templateChecks
	addresses addressAllocations
	steps     stepTimes
	restarts  restartHistory
	logs      serialLogCache
}

// +kubebuilder:rbac:groups=pxelab.io,resources=baremetaltargets,verbs=list;watch;patch
// +kubebuilder:rbac:groups=pxelab.io,resources=baremetaltargets/status,verbs=patch

// SetupWithManager registers the reconciler. The caller must call Close after the
// manager has stopped.
func (r *BareMetalTargetReconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.external = newEventSource()
	r.started = r.Host.Now()
	r.stops = task.NewGroup[struct{}, machine.StopMethod](task.Options{
		Wake:    func(key string) { r.external.enqueue(ownerOf(key)) },
		Backoff: time.Second, MaxBackoff: time.Minute,
	})
	check := r.Host.CheckTemplates
	if check == nil {
		check = bootconfig.Check
	}
	r.templates = newTemplateChecks(check, r.external.enqueue)
	return ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.BareMetalTarget{}, builder.WithPredicates(specChanged)).
		Watches(&v1alpha1.ProvisioningServer{}, handler.EnqueueRequestsFromMapFunc(r.targetsBy(fieldServer)), builder.WithPredicates(serverMatters)).
		Watches(&v1alpha1.BootProfile{}, handler.EnqueueRequestsFromMapFunc(r.targetsBy(fieldProfile)), builder.WithPredicates(profileMatters)).
		WatchesRawSource(r.external.source()).
		WithOptions(controllerOptions(targetWorkers)).
		Complete(r.watchdog.watch(metrics.KindTarget, r))
}

// targetWorkers is how many targets are reconciled at a time. A reconciliation that writes
// waits for the API server's disk, which takes several writes at once.
const targetWorkers = 8

// Wake queues the target with this UID, if it is one.
func (r *BareMetalTargetReconciler) Wake(uid string) { r.external.enqueue(uid) }

// Close cancels background work and waits for it.
func (r *BareMetalTargetReconciler) Close() {
	r.stops.Close()
	r.templates.Close()
}

// Reconcile reconciles one target.
func (r *BareMetalTargetReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	return reconcileObject(ctx, r, req)
}

func (r *BareMetalTargetReconciler) newObject() *v1alpha1.BareMetalTarget {
	return &v1alpha1.BareMetalTarget{}
}

func (r *BareMetalTargetReconciler) eventSource() *eventSource { return r.external }

func (r *BareMetalTargetReconciler) phaseOf(o *v1alpha1.BareMetalTarget) string {
	return string(o.Status.Phase)
}

func (r *BareMetalTargetReconciler) statusOf(t *v1alpha1.BareMetalTarget) (any, *[]metav1.Condition) {
	return t.Status, &t.Status.Conditions
}

func (r *BareMetalTargetReconciler) statusDelay(t, base *v1alpha1.BareMetalTarget, age time.Duration) time.Duration {
	return plan.TargetStatusDelay(&base.Status, &t.Status, age)
}

// setFailure records the error that ended a reconciliation.
func (r *BareMetalTargetReconciler) setFailure(t *v1alpha1.BareMetalTarget, err error) {
	t.Status.Message = clip(err.Error(), maxMessage)
	setCondition(&t.Status.Conditions, t.Generation, conditionFalse(v1alpha1.ConditionProgressing, plan.FailureReason(err), err.Error()))
}

// forget drops what this process holds for a target that is gone.
func (r *BareMetalTargetReconciler) forget(uid types.UID) error {
	r.stops.Forget(taskKey(uid, "stop"))
	r.templates.forget(uid)
	r.addresses.release(uid)
	r.steps.forget(uid)
	r.restarts.forget(uid)
	r.logs.forget(uid)
	if uid == "" {
		return nil
	}
	r.Host.Sessions.Forget(string(uid)) // its finalizer may have been removed by hand
	return r.Host.Capacity.abandon(context.Background(), string(uid))
}

// recordTransition emits Events for a change of the phase and for a stall, and counts the
// phase that has ended.
func (r *BareMetalTargetReconciler) recordTransition(t, base *v1alpha1.BareMetalTarget) {
	recordStall(r.Events, t, base)
	if t.Status.Phase == base.Status.Phase {
		return
	}
	if d, known := plan.PhaseDuration(base.Status.Timeline, t.Status.Timeline, r.Host.Now()); known {
		r.Host.Metrics.PhaseEnded(string(base.Status.Phase), d)
	}
	kind := corev1.EventTypeNormal
	if t.Status.Phase == v1alpha1.TargetFailed {
		kind = corev1.EventTypeWarning
	}
	recordEvent(r.Events, t, event{kind, string(t.Status.Phase), "Reconcile", t.Status.Message})
}

func (r *BareMetalTargetReconciler) reconcileNormal(ctx context.Context, t *v1alpha1.BareMetalTarget) (reconciliation, error) {
	described := t.Status.ObservedGeneration
	t.Status.ObservedGeneration = t.Generation
	scope := &targetScope{target: t, paused: v1alpha1.Paused(t)}
	steps := []step[targetScope]{
		r.resolve, r.observe, r.adoptDisks, r.ensureAddress, r.checkFit, r.ensureDisks, r.recordOwner, r.ensurePower, r.ensureInstalled,
		r.ensureServed,
	}
	if scope.paused {
		steps = []step[targetScope]{r.resolve, r.observe, r.leaveAlone, r.ensureServed}
	}
	stopped, err := runSteps(ctx, scope, steps)
	var recheck time.Duration
	if scope.observed {
		recheck = r.report(ctx, scope, err)
		r.account(scope)
	} else {
		r.distrust(ctx, scope)
	}
	if scope.holds {
		t.Status.ObservedGeneration = described
	}
	if err != nil {
		return reconciliation{unobserved: scope.unobserved}, err
	}
	if stopped != nil {
		recheck = stopped.RequeueAfter
	}
	return reconciliation{ctrl.Result{RequeueAfter: recheck}, scope.unobserved}, nil
}

// distrust replaces the status of an earlier manager that describes a machine that runs,
// because the target could not be observed.
func (r *BareMetalTargetReconciler) distrust(ctx context.Context, scope *targetScope) {
	t := scope.target
	scope.unobserved = true
	if r.external.observedOnce(t.UID) || !plan.DescribesRunningTarget(&t.Status) {
		return
	}
	if err := r.observeMachine(ctx, scope); err != nil {
		return // the error that ended the steps is reported
	}
	t.Status = plan.UnobservedTarget(t.Status, scope.state, r.Host.Now())
}

// targetsBy returns a function that maps an object to the targets whose indexed field
// names it.
func (r *BareMetalTargetReconciler) targetsBy(field string) handler.MapFunc {
	return func(ctx context.Context, o client.Object) []reconcile.Request {
		targets, err := targetsWith(ctx, r, field, client.ObjectKeyFromObject(o))
		if err != nil {
			ctrl.LoggerFrom(ctx).Error(err, "Finding targets for an event", "object", o.GetName())
			return nil
		}
		names := map[string]bool{}
		for i := range targets {
			names[targets[i].Name] = true
		}
		return requestsFor(o.GetNamespace(), names)
	}
}
