// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/labnet"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/metrics"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/startrecord"
)

// shutdownTimeout is how long a guest may take to shut down after an ACPI power-down
// request.
const shutdownTimeout = 90 * time.Second

// stop powers the machine off in the background and reports whether it is off; the
// caller calls it again until then. purpose distinguishes consecutive stops.
func (r *BareMetalTargetReconciler) stop(ctx context.Context, scope *targetScope, purpose string, o machine.StopOptions) (bool, error) {
	log := ctrl.LoggerFrom(ctx)
	t := scope.target.DeepCopy() // the target is written to meanwhile
	// A later process of the same machine is stopped by a new task.
	status := r.stops.Run(taskKey(t.UID, "stop"), purpose+scope.state.StartedAt.String(),
		func(ctx context.Context, _ func(struct{})) (machine.StopMethod, error) {
			log.Info("Stopping machine", "purpose", purpose, "shutdownTimeout", o.ACPITimeout)
			method, err := r.Host.Machines.Stop(ctx, string(t.UID), o)
			if err != nil {
				return method, err
			}
			log.Info("Stopped machine", "purpose", purpose, "method", method)
			if o.ACPITimeout > 0 {
				r.recordPowerOff(t, method, o.ACPITimeout)
			}
			return method, nil
		})
	if status.Err != nil {
		return false, fmt.Errorf("stopping the machine: %w", status.Err)
	}
	return status.Done, nil
}

// recordPowerOff emits an Event with the way in which a machine was powered off whose
// guest was requested to shut down first.
func (r *BareMetalTargetReconciler) recordPowerOff(t *v1alpha1.BareMetalTarget, method machine.StopMethod, patience time.Duration) {
	switch method {
	case machine.StoppedByGuest:
		recordEvent(r.Events, t, event{corev1.EventTypeNormal, v1alpha1.ReasonPoweredOff, "Stop", "the guest shut down on request"})
	case machine.StoppedByQuit, machine.StoppedByKill:
		recordEvent(r.Events, t, event{corev1.EventTypeWarning, v1alpha1.ReasonForcedOff, "Stop",
			fmt.Sprintf("the guest did not shut down within %s of the request; the machine was switched off (%s)", patience, method)})
	}
}

// ensurePower starts or stops the machine as spec.power demands.
func (r *BareMetalTargetReconciler) ensurePower(ctx context.Context, scope *targetScope) (*halt, error) {
	t := scope.target
	t.Status.Consoles = plan.ConsolesOf(t, scope.paths)
	if t.Spec.Power == v1alpha1.PowerOff {
		r.restarts.forget(t.UID)
		if scope.state.Phase.Alive() {
			if _, err := r.stop(ctx, scope, "power", machine.StopOptions{ACPITimeout: shutdownTimeout}); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}
	if scope.server == nil {
		return nil, nil
	}
	if scope.state.Phase.Alive() {
		if scope.stopping {
			return nil, nil
		}
		r.restarts.observe(t.UID, scope.state, r.Host.Now())
		// A shutdown that was requested and then revoked must not happen later.
		r.stops.Forget(taskKey(t.UID, "stop"))
		return nil, r.attach(scope)
	}
	if !plan.IsInstalled(t) {
		if scope.record.Failed() {
			return nil, nil // the next attempt starts it
		}
		if b := r.unserved(scope); b.Reason != "" {
			scope.block(b.Reason, "%s", b.Message)
		}
	}
	if scope.blocker.Reason != "" {
		return nil, nil
	}
	restarts := r.restarts.observe(t.UID, scope.state, r.Host.Now())
	if scope.recheck = restarts.Wait(r.Host.Now()); scope.recheck > 0 {
		scope.restarts = restarts
		scope.block(v1alpha1.ReasonRestartPending, "%s", restarts.Condition(scope.state).Message)
		return nil, nil
	}
	if asked, err := r.serversAsked(ctx); err != nil || !asked {
		scope.recheck = time.Second
		scope.block(v1alpha1.ReasonStarting, "servers are started before targets")
		return nil, err
	}
	demand := plan.TargetDemand
	if !plan.IsInstalled(t) {
		demand = plan.InstallDemand
	}
	why, err := r.admit(ctx, scope, demand)
	if err != nil {
		return nil, err
	}
	if why.Reason != "" {
		scope.block(why.Reason, "%s", why.Message)
		return nil, nil
	}
	reason := restarts.Reason(scope.state)
	if err := r.start(ctx, scope); err != nil {
		return nil, err
	}
	r.Host.Metrics.MachineRestarted(metrics.KindTarget, reason)
	return nil, nil
}

// serversPatience is how long the targets of a manager that has just started wait for
// servers to ask. The reconciliation of one server must not keep all targets of the host
// off if it hangs.
const serversPatience = reconcileTimeout

// serversAsked reports whether all servers have been reconciled since the manager
// started, which ask for their memory first, or have had the time to.
func (r *BareMetalTargetReconciler) serversAsked(ctx context.Context) (bool, error) {
	if r.Host.Capacity.isOpen() {
		return true, nil
	}
	servers := &v1alpha1.ProvisioningServerList{}
	if err := r.List(ctx, servers, client.UnsafeDisableDeepCopy); err != nil {
		return false, fmt.Errorf("listing servers: %w", err)
	}
	for i := range servers.Items {
		if !r.serverReconciled(servers.Items[i].UID) {
			return r.Host.Now().Sub(r.started) >= serversPatience, nil
		}
	}
	r.Host.Capacity.setOpen()
	return true, nil
}

// admit asks for what the machine needs in order to be started, or installed again. The
// zero Blocker admits it.
func (r *BareMetalTargetReconciler) admit(ctx context.Context, scope *targetScope, demand demandFunc) (plan.Blocker, error) {
	t := scope.target
	_, accelerator := r.Host.Capacity.limits(t.Spec.Machine.Architecture)
	d := demand(t, accelerator)
	d.Since = plan.WaitingSince(t.Status.Conditions, r.Host.Now())
	scope.asked = true
	return r.Host.Capacity.admit(ctx, d, scope.state.Phase.Alive())
}

// demandFunc is plan.TargetDemand or plan.InstallDemand.
type demandFunc func(*v1alpha1.BareMetalTarget, machine.Accelerator) plan.Demand

// account records what the machine uses after the steps: all of it while it runs, what
// it was admitted for until it starts, and otherwise nothing.
func (r *BareMetalTargetReconciler) account(scope *targetScope) {
	t, c, uid := scope.target, r.Host.Capacity, string(scope.target.UID)
	if !scope.state.Phase.Alive() {
		if !scope.asked {
			c.release(uid)
		}
		return
	}
	demand := plan.TargetDemand
	if installing(scope.record) || scope.reinstalling {
		demand = plan.InstallDemand
	}
	c.runsOn(t.Spec.Machine.Architecture, scope.state.Accelerator)
	c.count(demand(t, scope.state.Accelerator), scope.state)
	if !scope.asked {
		c.withdraw(uid) // it does not wait to be reinstalled any more
	}
}

// attach connects a machine that runs to its network: the switch of a manager that has
// just started has no ports yet.
func (r *BareMetalTargetReconciler) attach(scope *targetScope) error {
	if scope.target.BootNICStatus().MAC == "" {
		return nil // its address was refused
	}
	if _, err := r.Host.Networks.Attach(targetAttachment(scope.target, scope.server, scope.network, scope.paths)); err != nil {
		return fmt.Errorf("attaching the target to its network: %w", err)
	}
	return nil
}

// leaveAlone is the last step of a paused target: it keeps a running machine on its
// network.
func (r *BareMetalTargetReconciler) leaveAlone(_ context.Context, scope *targetScope) (*halt, error) {
	r.stops.Forget(taskKey(scope.target.UID, "stop"))
	if scope.server == nil || !scope.state.Phase.Alive() {
		return nil, nil
	}
	return nil, r.attach(scope)
}

// start starts the machine. One that cannot be started gives back what it was admitted for,
// so that it does not keep others waiting for as long as its start fails.
func (r *BareMetalTargetReconciler) start(ctx context.Context, scope *targetScope) error {
	t := scope.target
	backend, err := r.Host.Networks.Attach(targetAttachment(t, scope.server, scope.network, scope.paths))
	if err != nil {
		scope.asked = false
		return fmt.Errorf("attaching the target to its network: %w", err)
	}
	m := plan.TargetMachine(t, plan.TargetMachineOptions{
		Network: scope.network,
		MAC:     t.BootNICStatus().MAC,
		Dir:     scope.paths.Dir,
		Lab:     backend,
		Netboot: !plan.IsInstalled(t),

		RootDisk: plan.BootDisk(t, scope.record),
	})
	scope.started = startrecord.Record{Digest: m.Digest(), Fields: plan.TargetStart(t)}
	if err := startrecord.Save(scope.paths.Dir, scope.started); err != nil {
		scope.asked = false
		return err
	}
	if err := r.Host.Machines.Start(ctx, m); err != nil {
		scope.asked = false
		return fmt.Errorf("starting the machine: %w", err)
	}
	ctrl.LoggerFrom(ctx).Info("Starting machine", "netboot", !plan.IsInstalled(t), "attempt", plan.AttemptID(t))
	return r.observeMachine(ctx, scope)
}

// observeMachine reads the state of the machine, again after each effect on it.
func (r *BareMetalTargetReconciler) observeMachine(ctx context.Context, scope *targetScope) (err error) {
	scope.state, scope.paths, err = r.Host.observe(ctx, string(scope.target.UID))
	return err
}

func targetAttachment(t *v1alpha1.BareMetalTarget, s *v1alpha1.ProvisioningServer, n plan.Network, p machine.Paths) labnet.Attachment {
	return labnet.Attachment{
		Network: string(s.UID), Mode: labnet.Mode(n.Mode), MTU: n.MTU, Bridge: n.Bridge,
		Machine: string(t.UID), Sockets: p.Sockets, MAC: t.BootNICStatus().MAC,
		Addresses: addressesOf(t.BootNICStatus().Addresses...), Unchecked: unchecked(n),
	}
}
