// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/qemu"
)

// ensureCredentials renews what manager and netbootd trust each other by, before
// it ends, without restarting the machine as long as they can talk.
func (r *ProvisioningServerReconciler) ensureCredentials(ctx context.Context, w *serverWork) (bool, time.Duration, error) {
	s, now := w.server, r.Host.Now()
	if v1alpha1.Paused(s) {
		r.stops.Forget(taskKey(s.UID, "credentials"))
		return true, 0, nil
	}
	seen := r.Host.Sessions.Observe(string(s.UID))
	o := plan.CredentialsObservation{Alive: w.state.Phase.Alive(), StartedAt: w.state.StartedAt, Untrusted: seen.Untrusted, Now: now}
	trust := w.secrets.trust
	var err error
	if o.RenewAt, err = trust.Current.RenewAt(); err != nil {
		return false, 0, err
	}
	if trust.Next != nil {
		if o.NextRenewAt, err = trust.Next.RenewAt(); err != nil {
			return false, 0, err
		}
		o.NextInForce = seen.Connected && seen.State.Credentials == trust.Next.Server().Digest()
	}
	switch step := plan.Credentials(o); step {
	case plan.CredentialsRestart:
		return r.restartForCredentials(w)
	case plan.CredentialsPromote:
		trust = agent.Trust{Current: trust.Next}
	case plan.CredentialsPrepare, plan.CredentialsReplace:
		fresh, err := agent.NewCredentials(now)
		if err != nil {
			return false, 0, err
		}
		if step == plan.CredentialsPrepare {
			trust.Next = fresh
		} else {
			trust = agent.Trust{Current: fresh}
			// What was refused were the old ones.
			r.Host.Sessions.Remove(string(s.UID))
		}
	default:
		r.stops.Forget(taskKey(s.UID, "credentials"))
		return true, 0, nil
	}
	err = r.writeTrust(ctx, s, trust)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return false, staleRetry, nil
	}
	if err != nil {
		return false, 0, err
	}
	w.secrets.trust = trust
	return true, 0, nil
}

// writeTrust writes credentials into the server's Secret, unless the Secret is
// another than the one that they follow from.
func (r *ProvisioningServerReconciler) writeTrust(ctx context.Context, s *v1alpha1.ProvisioningServer, trust agent.Trust) error {
	secret := &corev1.Secret{}
	if err := r.Get(ctx, types.NamespacedName{Namespace: s.Namespace, Name: AgentSecret(s.Name)}, secret); err != nil {
		return fmt.Errorf("reading the credentials: %w", err)
	}
	base := secret.DeepCopy()
	for _, key := range agent.TrustKeys() {
		delete(secret.Data, key)
	}
	maps.Copy(secret.Data, trust.Encode())
	if err := r.Patch(ctx, secret, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("writing the credentials: %w", err)
	}
	return nil
}

// restartForCredentials stops the machine. Once it is off it gets new ones.
func (r *ProvisioningServerReconciler) restartForCredentials(w *serverWork) (bool, time.Duration, error) {
	s, uid := w.server, string(w.server.UID)
	waiting(s, v1alpha1.ServerDegraded, no(v1alpha1.ConditionAgentConnected, v1alpha1.ReasonUntrusted,
		"netbootd and the manager do not accept each other's certificates any more; the machine is started anew with new ones"))
	status := r.stops.Run(taskKey(s.UID, "credentials"), w.state.StartedAt.String(), func(ctx context.Context, _ func(struct{})) (qemu.StopMethod, error) {
		return r.Host.Machines.Stop(ctx, uid, qemu.StopOptions{ACPITimeout: shutdownTimeout})
	})
	if status.Err != nil {
		return false, 0, fmt.Errorf("stopping the machine to renew its credentials: %w", status.Err)
	}
	return false, 0, nil
}
