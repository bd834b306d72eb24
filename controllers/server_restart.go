// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/qemu"
)

// restartAsked reports whether the user wants the server's machine started anew.
func restartAsked(s *v1alpha1.ProvisioningServer) bool {
	_, asked := s.Annotations[v1alpha1.RestartAnnotation]
	return asked && !v1alpha1.Paused(s) && s.DeletionTimestamp.IsZero()
}

// ensureUnpaused ends the steps of a paused server whose machine does not run.
// One that runs is watched on; the steps that would act leave it alone.
func (r *ProvisioningServerReconciler) ensureUnpaused(_ context.Context, w *serverWork) (bool, time.Duration, error) {
	s := w.server
	if !v1alpha1.Paused(s) {
		return true, 0, nil
	}
	r.stops.Forget(taskKey(s.UID, "restart"))
	if w.state.Phase.Alive() {
		return true, 0, nil
	}
	set(&s.Status.Conditions, s.Generation, plan.MachineCondition(w.state))
	waiting(s, s.Status.Phase, no(v1alpha1.ConditionReady, v1alpha1.ReasonPaused, "the machine does not run, and is not started while the server is paused"))
	return false, recheckEvery, nil
}

// ensureRestarted shuts the machine down when that was asked for; the next step
// starts it. The annotation goes as soon as it is off.
func (r *ProvisioningServerReconciler) ensureRestarted(ctx context.Context, w *serverWork) (bool, time.Duration, error) {
	s := w.server
	if !restartAsked(s) {
		return true, 0, nil
	}
	uid, key := string(s.UID), taskKey(s.UID, "restart")
	if w.state.Phase.Alive() {
		stopped := r.stops.Run(key, w.state.StartedAt.String(), func(ctx context.Context, _ func(struct{})) (qemu.StopMethod, error) {
			return r.Host.Machines.Stop(ctx, uid, qemu.StopOptions{ACPITimeout: shutdownTimeout})
		})
		if stopped.Err != nil {
			return false, 0, fmt.Errorf("stopping the machine to start it anew: %w", stopped.Err)
		}
		waiting(s, v1alpha1.ServerBooting, no(v1alpha1.ConditionMachineRunning, v1alpha1.ReasonRestarting, "the machine is shut down to be started anew"))
		return false, 0, nil
	}
	r.stops.Forget(key)
	// A copy: what is to be said of the server must not be overwritten.
	base, edited := s.DeepCopy(), s.DeepCopy()
	delete(edited.Annotations, v1alpha1.RestartAnnotation)
	if err := r.Patch(ctx, edited, latest(base)); err != nil && !apierrors.IsConflict(err) {
		return false, 0, fmt.Errorf("removing the annotation %s: %w", v1alpha1.RestartAnnotation, err)
	}
	tell(r.Events, s, corev1.EventTypeNormal, v1alpha1.ReasonRestarting, "Restart", "the machine is off and is started as it is declared now")
	return false, staleRetry, nil
}

// upToDate says whether the machine runs as it is declared now.
func upToDate(s *v1alpha1.ProvisioningServer, running, declared string) plan.Condition {
	if running == declared {
		return yes(v1alpha1.ConditionUpToDate, v1alpha1.ReasonUpToDate, "the machine runs as it is declared")
	}
	return no(v1alpha1.ConditionUpToDate, v1alpha1.ReasonRestartNeeded, fmt.Sprintf(
		"the machine (spec.machine, spec.sshAuthorizedKeys) was changed since it was started; it counts when it is started anew: "+
			"kubectl annotate provisioningserver -n %s %s %s=now", s.Namespace, s.Name, v1alpha1.RestartAnnotation))
}

// removeOthers removes the disks and seeds of a server that it had before its
// declaration was changed.
func removeOthers(dir string, keep ...string) error {
	var errs []error
	for _, pattern := range []string{"*.qcow2", "*.iso"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		errs = append(errs, err)
		for _, path := range found {
			if slices.Contains(keep, path) {
				continue
			}
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("removing what the server does not use any more: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}
