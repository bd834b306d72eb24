// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers/internal/task"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/content"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/metrics"
	"github.com/pxelab/pxelab/internal/plan"
)

// resyncInterval is how often an object is reconciled without an event: a safety net
// for missed events. Nothing depends on it.
const resyncInterval = 30 * time.Second

// ProvisioningServerReconciler reconciles servers: it runs their provisioning VMs and
// keeps the configuration of netbootd up to date.
type ProvisioningServerReconciler struct {
	client.Client
	// Live reads from the API server, past the cache.
	Live   client.Reader
	Host   *Host
	Events events.EventRecorder

	watchdog *watchdog
	external *eventSource
	fetch    *task.Group[artifact.Progress, content.Blob]
	slots    workSlots
	stops    *task.Group[struct{}, machine.StopMethod]
	restarts restartHistory
}

// +kubebuilder:rbac:groups=pxelab.io,resources=provisioningservers,verbs=list;watch;patch
// +kubebuilder:rbac:groups=pxelab.io,resources=provisioningservers/status,verbs=patch
// +kubebuilder:rbac:groups=pxelab.io,resources=provisioningservers/finalizers,verbs=update

// SetupWithManager registers the reconciler. The caller must call Close after the
// manager has stopped.
func (r *ProvisioningServerReconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.external = newEventSource()
	wake := func(key string) { r.external.enqueue(ownerOf(key)) }
	r.fetch = task.NewGroup[artifact.Progress, content.Blob](task.Options{
		Wake: wake, Backoff: 5 * time.Second, MaxBackoff: 5 * time.Minute, Longest: longestPause})
	r.stops = task.NewGroup[struct{}, machine.StopMethod](task.Options{Wake: wake, Backoff: time.Second, MaxBackoff: time.Minute})
	return ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.ProvisioningServer{}, builder.WithPredicates(specChanged)).
		Watches(&v1alpha1.BareMetalTarget{}, handler.EnqueueRequestsFromMapFunc(serverOfTarget), builder.WithPredicates(comesOrGoes)).
		WatchesRawSource(r.external.source()).
		WithOptions(controllerOptions(2)).
		Complete(r.watchdog.watch(metrics.KindServer, r))
}

// Wake queues the server with this UID, if it is one.
func (r *ProvisioningServerReconciler) Wake(uid string) { r.external.enqueue(uid) }

// Close cancels background work and waits for it.
func (r *ProvisioningServerReconciler) Close() {
	r.fetch.Close()
	r.stops.Close()
}

// Reconcile reconciles one server.
func (r *ProvisioningServerReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	return reconcileObject(ctx, r, req)
}

func (r *ProvisioningServerReconciler) newObject() *v1alpha1.ProvisioningServer {
	return &v1alpha1.ProvisioningServer{}
}

func (r *ProvisioningServerReconciler) eventSource() *eventSource { return r.external }

func (r *ProvisioningServerReconciler) phaseOf(o *v1alpha1.ProvisioningServer) string {
	return string(o.Status.Phase)
}

func (r *ProvisioningServerReconciler) statusDelay(_, _ *v1alpha1.ProvisioningServer, _ time.Duration) time.Duration {
	return 0
}

func (r *ProvisioningServerReconciler) statusOf(s *v1alpha1.ProvisioningServer) (any, *[]metav1.Condition) {
	return s.Status, &s.Status.Conditions
}

// setFailure records the error that ended a reconciliation.
func (r *ProvisioningServerReconciler) setFailure(s *v1alpha1.ProvisioningServer, err error) {
	s.Status.Message = clip(err.Error(), maxMessage)
	if s.DeletionTimestamp.IsZero() {
		setCondition(&s.Status.Conditions, s.Generation, conditionFalse(v1alpha1.ConditionReady, plan.FailureReason(err), err.Error()))
	}
	if s.Status.Phase == v1alpha1.ServerReady {
		s.Status.Phase = v1alpha1.ServerDegraded
	}
}

func (r *ProvisioningServerReconciler) recordTransition(s, base *v1alpha1.ProvisioningServer) {
	recordReady(r.Events, s, base.Status.Conditions, s.Status.Conditions)
}

// forget drops what this process holds for a server that is gone.
func (r *ProvisioningServerReconciler) forget(uid types.UID) error {
	if uid == "" {
		return nil
	}
	r.fetch.Forget(taskKey(uid, "disk"))
	for arch := range programNames {
		r.fetch.Forget(taskKey(uid, "ipxe-"+string(arch)))
	}
	r.stops.Forget(taskKey(uid, "delete"))
	r.stops.Forget(taskKey(uid, "credentials"))
	r.stops.Forget(taskKey(uid, "restart"))
	r.stops.Forget(taskKey(uid, "fault"))
	r.restarts.forget(uid)
	r.Host.Sessions.Remove(string(uid))
	return errors.Join(r.Host.Capacity.abandon(context.Background(), string(uid)), r.Host.Networks.Remove(string(uid)))
}

// serverScope is the state of one reconciliation of a server, shared by its steps.
type serverScope struct {
	server  *v1alpha1.ProvisioningServer
	network plan.Network
	paths   machine.Paths
	secrets serverSecrets
	state   machine.State
	// observed means that state was read, and asked that the machine was admitted in this
	// reconciliation, or waits to be: waits has why.
	observed, asked bool
	waits           plan.Blocker
	programs        programs
	// invalid is why the spec cannot be applied although the machine runs; nil if it can.
	invalid error
	// holds means that this reconciliation leaves the status that there was.
	holds bool
}

// keepStatus returns a halt that leaves the status that there was.
func (scope *serverScope) keepStatus(d time.Duration) *halt {
	scope.holds = true
	return requeueAfter(d)
}

// reconcileNormal runs the steps until the first that is not done. Every step but the
// first records its result in a condition.
func (r *ProvisioningServerReconciler) reconcileNormal(ctx context.Context, s *v1alpha1.ProvisioningServer) (reconciliation, error) {
	described := s.Status.ObservedGeneration
	if s.DeletionTimestamp.IsZero() {
		s.Status.ObservedGeneration = s.Generation
	}
	scope := &serverScope{server: s}
	stopped, err := runSteps(ctx, scope, []step[serverScope]{
		r.observe, r.ensureValid, r.ensureUnpaused, r.ensureAdmitted, r.recordOwner, r.ensureFaultless, r.ensurePrograms, r.ensureDisk,
		r.ensureSecrets, r.ensureCredentials, r.ensureRestarted, r.ensureMachine, r.ensureAgent,
	})
	r.account(scope)
	if err != nil {
		return reconciliation{}, err
	}
	if scope.holds {
		s.Status.ObservedGeneration = described
	}
	recheck := resyncInterval
	if stopped != nil {
		recheck = stopped.RequeueAfter
	}
	return reconciliation{ctrl.Result{RequeueAfter: recheck}, scope.holds}, nil
}

// waiting records in Ready, phase and message the condition that the server waits
// for.
func waiting(s *v1alpha1.ProvisioningServer, phase v1alpha1.ServerPhase, c plan.Condition) {
	setCondition(&s.Status.Conditions, s.Generation, c)
	s.Status.Phase, s.Status.Message = phase, c.Message
	c.Type = v1alpha1.ConditionReady
	setCondition(&s.Status.Conditions, s.Generation, c)
}

// observe reads the state of the machine.
func (r *ProvisioningServerReconciler) observe(ctx context.Context, scope *serverScope) (_ *halt, err error) {
	if scope.state, scope.paths, err = r.Host.observe(ctx, string(scope.server.UID)); err != nil {
		return nil, err
	}
	scope.observed = true
	s := scope.server
	if !r.external.observedOnce(s.UID) && plan.IsServerStale(&s.Status, scope.state) {
		s.Status = plan.UnobservedServer(s.Status, scope.state, r.Host.Now())
	}
	if !scope.state.Phase.Alive() {
		s.Status.PoweredOnAt = nil
	}
	return nil, nil
}

// ensureValid checks the part of the spec that the schema cannot. A machine that runs
// keeps running with its last valid configuration.
func (r *ProvisioningServerReconciler) ensureValid(ctx context.Context, scope *serverScope) (*halt, error) {
	spec := scope.server.Spec.Network
	if v1alpha1.Paused(scope.server) {
		spec = plan.NetworkInForce(scope.server) // netbootd is not given a wider one
	}
	network, err := plan.NewNetwork(spec, r.Host.JumboFrames)
	if err == nil {
		err = plan.CheckBridge(network, r.Host.Bridges)
	}
	if err == nil {
		err = r.checkServer(ctx, scope.server, network)
	}
	if limits, accelerator := r.Host.Capacity.limits(scope.server.Spec.Machine.Architecture); err == nil && !scope.state.Phase.Alive() {
		if exceeds := plan.CheckServerSize(scope.server, accelerator, limits); exceeds != nil {
			err = exceeds
		}
	}
	var invalid *plan.InvalidError
	if err != nil && !errors.As(err, &invalid) {
		return nil, err
	}
	setCondition(&scope.server.Status.Conditions, scope.server.Generation, plan.ValidCondition(err))
	if err != nil {
		fixed, fixedErr := plan.FixedNetwork(plan.NetworkInForce(scope.server), r.Host.JumboFrames)
		if fixedErr != nil || !scope.state.Phase.Alive() {
			waiting(scope.server, v1alpha1.ServerFailed, plan.ValidCondition(err))
			return requeueAfter(resyncInterval), nil // a conflicting server may be deleted
		}
		network, scope.invalid = fixed, err
	} else {
		r.acceptNetwork(ctx, scope.server, network)
	}
	scope.network = network
	scope.server.Status.Address = network.Server.String()
	return nil, nil
}

// acceptNetwork puts a valid network in force.
func (r *ProvisioningServerReconciler) acceptNetwork(ctx context.Context, s *v1alpha1.ProvisioningServer, n plan.Network) {
	before, after := s.Status.Network.CIDR, n.Prefix.String()
	if before == after {
		return
	}
	s.Status.Network.CIDR = after
	if before == "" {
		return
	}
	ctrl.LoggerFrom(ctx).Info("Widened network", "from", before, "to", after)
	recordEvent(r.Events, s, event{corev1.EventTypeNormal, v1alpha1.ReasonNetworkWidened, "Widen",
		fmt.Sprintf("the lab network is now %s, not %s; no machine is restarted, and installed systems keep the former prefix", after, before)})
}

// checkServer checks a server against the other servers of the cluster.
func (r *ProvisioningServerReconciler) checkServer(ctx context.Context, s *v1alpha1.ProvisioningServer, n plan.Network) error {
	servers := &v1alpha1.ProvisioningServerList{}
	if err := r.List(ctx, servers); err != nil {
		return fmt.Errorf("listing servers: %w", err)
	}
	return plan.CheckServer(s, n, servers.Items)
}
