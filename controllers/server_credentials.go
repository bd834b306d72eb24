// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/plan"
)

// ensureCredentials renews the TLS credentials of manager and netbootd before they
// expire, without a restart of the machine as long as both accept each other's.
func (r *ProvisioningServerReconciler) ensureCredentials(ctx context.Context, scope *serverScope) (*halt, error) {
	s, now := scope.server, r.Host.Now()
	if v1alpha1.Paused(s) {
		r.stops.Forget(taskKey(s.UID, "credentials"))
		return nil, nil
	}
	seen := r.Host.Sessions.Observe(string(s.UID))
	o := plan.CredentialsObservation{Alive: scope.state.Phase.Alive(), StartedAt: scope.state.StartedAt, Untrusted: seen.Untrusted, Now: now}
	trust := scope.secrets.trust
	var err error
	if o.RenewAt, err = trust.Current.RenewAt(); err != nil {
		return nil, err
	}
	if trust.Next != nil {
		if o.NextRenewAt, err = trust.Next.RenewAt(); err != nil {
			return nil, err
		}
		o.NextInForce = seen.Connected && seen.State.Credentials == trust.Next.Server().Digest()
	}
	step := plan.Credentials(o)
	switch step {
	case plan.CredentialsRestart:
		return r.restartForCredentials(ctx, scope)
	case plan.CredentialsPromote:
		trust = netbootapi.Trust{Current: trust.Next}
	case plan.CredentialsPrepare, plan.CredentialsReplace:
		fresh, err := netbootapi.NewCredentials(now)
		if err != nil {
			return nil, err
		}
		if step == plan.CredentialsPrepare {
			trust.Next = fresh
		} else {
			trust = netbootapi.Trust{Current: fresh}
			// The refusals were of the old ones.
			r.Host.Sessions.Remove(string(s.UID))
		}
	default:
		r.stops.Forget(taskKey(s.UID, "credentials"))
		return nil, nil
	}
	err = r.writeTrust(ctx, s, trust)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return scope.keepStatus(staleRetry), nil
	}
	if err != nil {
		return nil, err
	}
	ctrl.LoggerFrom(ctx).Info("Wrote credentials", "step", step)
	scope.secrets.trust = trust
	return nil, nil
}

// writeTrust writes credentials into the server's Secret. It fails with a conflict if
// the Secret changed since it was read.
func (r *ProvisioningServerReconciler) writeTrust(ctx context.Context, s *v1alpha1.ProvisioningServer, trust netbootapi.Trust) error {
	secret := &corev1.Secret{}
	if err := r.Get(ctx, types.NamespacedName{Namespace: s.Namespace, Name: AgentSecret(s.Name)}, secret); err != nil {
		return fmt.Errorf("reading the credentials: %w", err)
	}
	base := secret.DeepCopy()
	for _, key := range netbootapi.TrustKeys() {
		delete(secret.Data, key)
	}
	maps.Copy(secret.Data, trust.Encode())
	if err := r.Patch(ctx, secret, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("writing the credentials: %w", err)
	}
	return nil
}

// restartForCredentials stops the machine. Once it is off it gets new credentials.
func (r *ProvisioningServerReconciler) restartForCredentials(ctx context.Context, scope *serverScope) (*halt, error) {
	s := scope.server
	waiting(s, v1alpha1.ServerDegraded, conditionFalse(v1alpha1.ConditionAgentConnected, v1alpha1.ReasonUntrusted,
		"netbootd and the manager no longer accept each other's certificates; the machine is being restarted with new ones"))
	status := r.stop(ctx, scope, "credentials", machine.StopOptions{ACPITimeout: shutdownTimeout})
	if status.Err != nil {
		return nil, fmt.Errorf("stopping the machine to renew its credentials: %w", status.Err)
	}
	return &halt{}, nil
}
