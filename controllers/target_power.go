// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/labnet"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/qemu"
)

// shutdownTimeout is how long a guest may take to obey its power button.
const shutdownTimeout = 90 * time.Second

// stop powers the machine off in the background. It is asked again until it
// says true. purpose tells one stop from the next.
func (r *BareMetalTargetReconciler) stop(w *targetWork, purpose string, o qemu.StopOptions) (bool, error) {
	t := w.target.DeepCopy() // it is written to while the stop goes on
	// A later process of the same machine is another thing to stop.
	status := r.stops.Run(taskKey(t.UID, "stop"), purpose+w.state.StartedAt.String(),
		func(ctx context.Context, _ func(struct{})) (qemu.StopMethod, error) {
			method, err := r.Host.Machines.Stop(ctx, string(t.UID), o)
			if err == nil && o.ACPITimeout > 0 {
				r.tellPoweredOff(t, method, o.ACPITimeout)
			}
			return method, err
		})
	if status.Err != nil {
		return false, fmt.Errorf("stopping the machine: %w", status.Err)
	}
	return status.Done, nil
}

// tellPoweredOff says which way a machine went whose guest was asked first.
func (r *BareMetalTargetReconciler) tellPoweredOff(t *v1alpha1.BareMetalTarget, method qemu.StopMethod, patience time.Duration) {
	switch method {
	case qemu.StoppedByGuest:
		tell(r.Events, t, corev1.EventTypeNormal, v1alpha1.ReasonPoweredOff, "Stop", "the guest obeyed its power button")
	case qemu.StoppedByQuit, qemu.StoppedByKill:
		tell(r.Events, t, corev1.EventTypeWarning, v1alpha1.ReasonForcedOff, "Stop",
			fmt.Sprintf("the guest did not obey its power button within %s; the machine was switched off (%s)", patience, method))
	}
}

// ensurePower makes the machine run, or not, as declared.
func (r *BareMetalTargetReconciler) ensurePower(ctx context.Context, w *targetWork) error {
	t := w.target
	t.Status.Consoles = v1alpha1.Consoles{SerialLog: w.paths.SerialLog, SerialSocket: w.paths.Serial, VNCSocket: w.paths.VNC}
	if t.Spec.Power == v1alpha1.PowerOff {
		if w.state.Phase.Alive() {
			if _, err := r.stop(w, "power", qemu.StopOptions{ACPITimeout: shutdownTimeout}); err != nil {
				return err
			}
		}
		return nil
	}
	if w.server == nil {
		return nil
	}
	if w.state.Phase.Alive() {
		if w.stopping {
			return nil
		}
		// A shutdown that was asked for and has been called off must not come
		// later.
		r.stops.Forget(taskKey(t.UID, "stop"))
		return r.plug(w)
	}
	if !plan.Installed(t) {
		if w.record.Failed() {
			return nil // until the next attempt
		}
		if b := r.unserved(w); b.Reason != "" {
			w.block(b.Reason, "%s", b.Message)
		}
	}
	if w.blocker.Reason != "" {
		return nil
	}
	if w.recheck = restartPause(w.state, r.Host.Now()); w.recheck > 0 {
		w.block(v1alpha1.ReasonExited, "%s; it is started again in a few seconds", plan.MachineCondition(w.state).Message)
		return nil
	}
	return r.start(ctx, w)
}

// plug sees to it that a machine that runs is on its network: the switch of a
// manager that has just started has no ports yet.
func (r *BareMetalTargetReconciler) plug(w *targetWork) error {
	if w.target.Status.MACAddress == "" {
		return nil // its claim was refused
	}
	if _, err := r.Host.Networks.Attach(targetAttachment(w.target, w.server, w.network, w.paths)); err != nil {
		return fmt.Errorf("attaching the target to its network: %w", err)
	}
	return nil
}

// leaveAlone is all that is done for a target that is paused.
func (r *BareMetalTargetReconciler) leaveAlone(_ context.Context, w *targetWork) error {
	r.stops.Forget(taskKey(w.target.UID, "stop"))
	if w.server == nil || !w.state.Phase.Alive() {
		return nil
	}
	return r.plug(w)
}

func (r *BareMetalTargetReconciler) start(ctx context.Context, w *targetWork) error {
	t := w.target
	backend, err := r.Host.Networks.Attach(targetAttachment(t, w.server, w.network, w.paths))
	if err != nil {
		return fmt.Errorf("attaching the target to its network: %w", err)
	}
	m := plan.TargetMachine(t, w.network, t.Status.MACAddress, w.paths.Dir, backend, !plan.Installed(t))
	if err := r.Host.Machines.Start(ctx, m); err != nil {
		return fmt.Errorf("starting the machine: %w", err)
	}
	return r.look(ctx, w)
}

// look observes the machine anew, after something was done to it.
func (r *BareMetalTargetReconciler) look(ctx context.Context, w *targetWork) (err error) {
	w.state, w.paths, err = r.Host.look(ctx, string(w.target.UID))
	return err
}

func targetAttachment(t *v1alpha1.BareMetalTarget, s *v1alpha1.ProvisioningServer, n plan.Network, p qemu.Paths) labnet.Attachment {
	return labnet.Attachment{
		Network: string(s.UID), Mode: labnet.Mode(n.Mode), MTU: n.MTU, Bridge: n.Bridge,
		Machine: string(t.UID), Sockets: p.Sockets, MAC: t.Status.MACAddress,
	}
}
