// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers/internal/task"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/plan"
)

// restartRequested reports whether the user requested a restart of the server's
// machine.
func restartRequested(s *v1alpha1.ProvisioningServer) bool {
	_, asked := s.Annotations[v1alpha1.RestartAnnotation]
	return asked && !v1alpha1.Paused(s) && s.DeletionTimestamp.IsZero()
}

// ensureUnpaused halts for a paused server whose machine does not run. One that runs is
// observed further; the steps that would act on it do nothing.
func (r *ProvisioningServerReconciler) ensureUnpaused(_ context.Context, scope *serverScope) (*halt, error) {
	s := scope.server
	if !v1alpha1.Paused(s) {
		return nil, nil
	}
	r.stops.Forget(taskKey(s.UID, "restart"))
	if scope.state.Phase.Alive() {
		return nil, nil
	}
	setCondition(&s.Status.Conditions, s.Generation, plan.MachineCondition(scope.state))
	waiting(s, s.Status.Phase, conditionFalse(v1alpha1.ConditionReady, v1alpha1.ReasonPaused,
		"the machine does not run and is not started while the server is paused; remove the annotation to resume"))
	return requeueAfter(resyncInterval), nil
}

// stop powers the server's machine off in the background. The key of the task is its
// purpose; a later process of the same machine is stopped by a new task.
func (r *ProvisioningServerReconciler) stop(ctx context.Context, scope *serverScope, purpose string, o machine.StopOptions) stopStatus {
	log, uid := ctrl.LoggerFrom(ctx), string(scope.server.UID)
	return r.stops.Run(taskKey(scope.server.UID, purpose), scope.state.StartedAt.String(),
		func(ctx context.Context, _ func(struct{})) (machine.StopMethod, error) {
			log.Info("Stopping machine", "purpose", purpose, "shutdownTimeout", o.ACPITimeout)
			method, err := r.Host.Machines.Stop(ctx, uid, o)
			if err == nil {
				log.Info("Stopped machine", "purpose", purpose, "method", method)
			}
			return method, err
		})
}

type stopStatus = task.Status[struct{}, machine.StopMethod]

// ensureRestarted shuts the machine down if a restart was requested; the next step
// starts it. The annotation is removed as soon as the machine is off.
func (r *ProvisioningServerReconciler) ensureRestarted(ctx context.Context, scope *serverScope) (*halt, error) {
	s := scope.server
	if !restartRequested(s) || scope.invalid != nil {
		return nil, nil // it could not be started again
	}
	if scope.state.Phase.Alive() {
		stopped := r.stop(ctx, scope, "restart", machine.StopOptions{ACPITimeout: shutdownTimeout})
		if stopped.Err != nil {
			return nil, fmt.Errorf("stopping the machine to restart it: %w", stopped.Err)
		}
		waiting(s, v1alpha1.ServerBooting, conditionFalse(v1alpha1.ConditionMachineRunning, v1alpha1.ReasonRestarting,
			"the machine is being shut down for a restart"))
		return &halt{}, nil
	}
	r.stops.Forget(taskKey(s.UID, "restart"))
	r.restarts.forget(s.UID)
	// Patch a copy: the response would overwrite the status that is not written yet.
	base, edited := s.DeepCopy(), s.DeepCopy()
	delete(edited.Annotations, v1alpha1.RestartAnnotation)
	switch err := r.Patch(ctx, edited, lockedPatch(base)); {
	case apierrors.IsConflict(err):
		return scope.keepStatus(staleRetry), nil // the Event is for the removal of the annotation
	case err != nil:
		return nil, fmt.Errorf("removing the annotation %s: %w", v1alpha1.RestartAnnotation, err)
	}
	recordEvent(r.Events, s, event{corev1.EventTypeNormal, v1alpha1.ReasonRestarting, "Restart",
		"the machine is off and will be started with the current spec"})
	return scope.keepStatus(staleRetry), nil
}

// removeOthers removes the disks and seeds of a server that an earlier spec
// described.
func removeOthers(dir string, keep ...string) error {
	found, err := filesIn(dir, ".qcow2", ".iso")
	errs := []error{err}
	for _, path := range found {
		if slices.Contains(keep, path) {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("removing unused disks and seeds of the server: %w", err))
		}
	}
	return errors.Join(errs...)
}
