// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"

	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootapi/session"
	"github.com/pxelab/pxelab/internal/plan"
)

// ensureAgent keeps the connection to netbootd and its configuration up to date, and
// reports what it serves.
func (r *ProvisioningServerReconciler) ensureAgent(ctx context.Context, scope *serverScope) (*halt, error) {
	s, uid := scope.server, string(scope.server.UID)
	address, err := forwardedAddress(scope.state, plan.AgentPort)
	if err != nil {
		return nil, err
	}
	if err := r.Host.Sessions.Connect(uid, address, scope.secrets.trust); err != nil {
		return nil, err
	}
	targets, err := r.targets(ctx, s)
	if err != nil {
		return nil, err
	}
	s.Status.Targets = int32(min(len(targets), 1<<20))
	if !v1alpha1.Paused(s) {
		r.configure(ctx, scope, targets)
	}
	seen := r.Host.Sessions.Observe(uid)
	if !seen.Connected && seen.Error == nil && plan.DescribesPowerOn(&s.Status, scope.state) {
		scope.holds = true // connecting for the first time: until that fails
		return nil, nil
	}
	r.setServerStatus(s, plan.ServerStatus(r.serverObservation(scope, seen)))
	s.Status.Endpoints = v1alpha1.Endpoints{
		Agent: address,
		HTTP:  seen.State.Services["http"].Address,
		TFTP:  seen.State.Services["tftp"].Address,
		DHCP:  seen.State.Services["dhcp"].Address,
		DNS:   seen.State.Services["dns"].Address,
		NTP:   seen.State.Services["ntp"].Address,
	}
	setClients(s, targets, seen.State)
	return nil, nil
}

// configure gives netbootd what it serves to all targets, and the list of the targets.
// Each target's reconciler gives it the rest. A server whose spec became invalid keeps
// the configuration that it has.
func (r *ProvisioningServerReconciler) configure(ctx context.Context, scope *serverScope, targets []v1alpha1.BareMetalTarget) {
	uid := string(scope.server.UID)
	before := r.Host.Sessions.Observe(uid).Wanted
	if scope.invalid == nil {
		labMAC := plan.MAC(uid, plan.DeviceLab)
		r.Host.Sessions.PutServer(uid, plan.ServerConfig(scope.network, scope.server.Name, labMAC, scope.programs.list, scope.secrets.tokenKey), scope.programs.paths)
	}
	uids := make([]string, 0, len(targets))
	for i := range targets {
		uids = append(uids, string(targets[i].UID))
	}
	r.Host.Sessions.Retain(uid, uids)
	if wanted := r.Host.Sessions.Observe(uid).Wanted; wanted != before {
		ctrl.LoggerFrom(ctx).Info("Pushing configuration", "digest", wanted)
	}
}

func (r *ProvisioningServerReconciler) setServerStatus(s *v1alpha1.ProvisioningServer, out plan.ServerOutcome) {
	s.Status.Phase = out.Phase
	s.Status.Message = out.Message
	s.Status.PoweredOnAt = out.PoweredOnAt
	for _, c := range out.Conditions {
		setCondition(&s.Status.Conditions, s.Generation, c)
	}
}

// serverObservation returns what a server's status is computed from.
func (r *ProvisioningServerReconciler) serverObservation(scope *serverScope, seen session.Observation) plan.ServerObservation {
	s := scope.server
	o := plan.ServerObservation{
		Machine: scope.state, Connected: seen.Connected, State: seen.State, Pending: seen.Pending, Invalid: scope.invalid,
		WasReady: s.Status.Phase == v1alpha1.ServerReady || s.Status.Phase == v1alpha1.ServerDegraded, Now: r.Host.Now(),
		// Nothing is sent to a paused server, nor to one whose spec is invalid.
		InForce: seen.State.Server == seen.Wanted || v1alpha1.Paused(s) || scope.invalid != nil,
	}
	if seen.Error != nil {
		o.Error, o.Silent = seen.Error.Error(), errors.Is(seen.Error, netbootapi.ErrSilent)
	}
	if seen.RenewError != nil {
		o.RenewError = seen.RenewError.Error()
	}
	if seen.PutError != nil {
		o.ConfigError = seen.PutError.Error()
	}
	if errors.Is(seen.PutError, netbootapi.ErrFenced) {
		o.ConfigError += fmt.Sprintf("; if no other manager runs, the records of the last epoch were lost after the clock had been ahead: "+
			"delete %s, which is created again, and restart the machine: kubectl annotate provisioningserver -n %s %s %s=now",
			plan.ServerDiskPath(scope.paths.Dir, s), s.Namespace, s.Name, v1alpha1.RestartAnnotation)
	}
	if u := seen.Upload; u != nil {
		o.Upload = fmt.Sprintf("sending %d of %d MB", u.Done/1e6, u.Blob.Size/1e6)
		if u.Error != nil {
			o.Upload += "; trying again: " + u.Error.Error()
		}
	}
	return o
}
