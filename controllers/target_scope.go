// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootapi/session"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/startrecord"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// targetScope is the state of one reconciliation of a target, shared by its steps.
type targetScope struct {
	target    *v1alpha1.BareMetalTarget
	server    *v1alpha1.ProvisioningServer
	profile   *v1alpha1.BootProfile
	templates plan.Templates
	// badTemplates is why the templates cannot be read; nil if they can.
	badTemplates *plan.InvalidError
	// unchecked means that the templates have not been rendered with the target's
	// values yet.
	unchecked bool
	content   *plan.Content
	network   plan.Network
	// badNetwork means that the rest of the server's network is invalid: only
	// machines that run are attached to it.
	badNetwork bool
	paths      machine.Paths
	record     targetdisk.Record
	started    startrecord.Record
	state      machine.State
	// keys are those of the server; nil before they are read and while there are none.
	keys    *serverKeys
	session session.Machine
	seen    *netbootapi.MachineState
	blocker plan.Blocker
	// unfit is what does not fit although the target is installed and keeps running.
	unfit plan.Blocker
	// stopping means that the machine is being stopped for a reinstallation.
	stopping bool
	// paused means that the machine must be left alone.
	paused bool
	// observed means that state and record were read.
	observed bool
	// asked means that the machine was admitted in this reconciliation, or waits to be;
	// reinstalling that it was admitted to be stopped and installed.
	asked, reinstalling bool
	// holds means that the status of an earlier manager holds, unobserved that nothing
	// but the machine's state was observed since the manager started.
	holds, unobserved bool
	// restarts is set while the machine waits for its restart.
	restarts plan.Restarts
	// recheck is the time until the blocker ends by itself; 0 is never.
	recheck time.Duration
}

// block records why the target has to wait, unless an earlier reason is recorded.
func (scope *targetScope) block(reason, format string, args ...any) {
	if scope.blocker.Reason == "" {
		scope.blocker = plan.Blocker{Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
}

// refuse records that the user must change something. Until then nothing is started; a
// machine that runs keeps running and can be powered off.
func (scope *targetScope) refuse(err *plan.InvalidError) {
	if !scope.blocker.Terminal {
		scope.blocker = plan.Blocker{Reason: err.Reason, Message: err.Message, Terminal: true}
	}
}

// misfit refuses an installation. A target that is installed no longer needs its
// profile, so the problem is only recorded.
func (scope *targetScope) misfit(reason, format string, args ...any) {
	err := &plan.InvalidError{Reason: reason, Message: fmt.Sprintf(format, args...)}
	if plan.IsInstalled(scope.target) {
		scope.unfit = plan.Blocker{Reason: err.Reason, Message: err.Message}
		return
	}
	scope.refuse(err)
}

// resolve reads the objects to which the target refers.
func (r *BareMetalTargetReconciler) resolve(ctx context.Context, scope *targetScope) (*halt, error) {
	t := scope.target
	server, profile := &v1alpha1.ProvisioningServer{}, &v1alpha1.BootProfile{}
	err := r.Get(ctx, types.NamespacedName{Namespace: t.Namespace, Name: t.Spec.ProvisioningServerRef.Name}, server)
	switch {
	case client.IgnoreNotFound(err) != nil:
		return nil, fmt.Errorf("reading server %s: %w", t.Spec.ProvisioningServerRef.Name, err)
	case err != nil:
		scope.block(v1alpha1.ReasonReferenceNotFound, "spec.provisioningServerRef: there is no ProvisioningServer %s in namespace %s",
			t.Spec.ProvisioningServerRef.Name, t.Namespace)
	default:
		if err := r.resolveNetwork(scope, server); err != nil {
			scope.block(v1alpha1.ReasonWaitingForServer, "server %s: %v", server.Name, err)
		}
	}
	err = r.Get(ctx, types.NamespacedName{Namespace: t.Namespace, Name: t.Spec.BootProfileRef.Name}, profile)
	switch {
	case client.IgnoreNotFound(err) != nil:
		return nil, fmt.Errorf("reading profile %s: %w", t.Spec.BootProfileRef.Name, err)
	case err != nil:
		scope.profile = nil
		return nil, nil
	}
	scope.profile = profile
	scope.templates, err = resolveTemplates(ctx, r.Client, profile)
	if err != nil && !errors.As(err, &scope.badTemplates) {
		return nil, err
	}
	if scope.badTemplates == nil {
		scope.content = plan.ProfileContent(r.Host.DigestKey, profile, scope.templates)
	}
	return nil, nil
}

// resolveNetwork sets the server and its network. A machine that runs stays attached
// while the server's spec is invalid; the error blocks what needs a valid one.
func (r *BareMetalTargetReconciler) resolveNetwork(scope *targetScope, server *v1alpha1.ProvisioningServer) error {
	spec := plan.NetworkInForce(server)
	network, invalid := plan.NewNetwork(spec, r.Host.JumboFrames)
	if invalid != nil {
		var err error
		if network, err = plan.FixedNetwork(spec, r.Host.JumboFrames); err != nil {
			return err
		}
	}
	scope.server, scope.network, scope.badNetwork = server, network, invalid != nil
	return invalid
}

// observe reads the state of the machine, the record of its disks, and the state that
// netbootd reported.
func (r *BareMetalTargetReconciler) observe(ctx context.Context, scope *targetScope) (*halt, error) {
	t := scope.target
	if err := r.observeMachine(ctx, scope); err != nil {
		return nil, err
	}
	if !r.external.observedOnce(t.UID) && plan.IsTargetStale(&t.Status, scope.state) {
		t.Status = plan.UnobservedTarget(t.Status, scope.state, r.Host.Now())
	}
	record, err := targetdisk.Load(scope.paths.Dir)
	if err != nil {
		if !scope.state.Phase.Alive() {
			r.Host.Capacity.release(string(t.UID)) // it is not started before its record can be read
		}
		return nil, err
	}
	if scope.started, err = startrecord.Load(scope.paths.Dir); err != nil {
		return nil, err
	}
	scope.setRecord(record)
	scope.observed = true
	if scope.server != nil {
		scope.session = r.Host.Sessions.ObserveMachine(string(scope.server.UID), string(t.UID))
		if seen := scope.session.State; seen != nil && seen.Attempt == plan.AttemptID(t) {
			scope.seen = seen
		}
	}
	return nil, nil
}

// setRecord copies the record of the disks into the status. It drops status that
// describes the system of other disks, whenever the difference is noticed: the status
// written when the disks were replaced may have been lost.
func (scope *targetScope) setRecord(r targetdisk.Record) {
	scope.record = r
	s := &scope.target.Status
	last := plan.LastAttempt(scope.target)
	if last != r.ID || s.DiskGeneration != r.Generation {
		s.SSHHostKeys = nil
		s.Hostname = ""
		s.Timeline = nil
		s.Install = nil
	}
	// The ID is kept when the record is lost, so that no later attempt has it too.
	if id := max(last, r.ID); s.Install == nil && id > 0 {
		s.Install = &v1alpha1.InstallProgress{ID: id}
	}
	s.Adoption = plan.AdoptionStatus(r)
	if r.System != nil && len(s.SSHHostKeys) == 0 { // the status was lost, or the disks were adopted
		s.SSHHostKeys, s.Hostname = r.System.HostKeys, r.System.Hostname
	}
	s.Attempts = plan.AttemptsStatus(scope.target, r, scope.profileDigest())
	s.HighestInstallGeneration = max(s.HighestInstallGeneration, r.Generation)
	s.DiskGeneration = r.Generation
	s.InstalledGeneration = r.InstalledGeneration()
	s.InstalledProfileDigest = r.ProfileDigest
}

// profileDigest identifies what the profile resolves to; "" while it is not ready.
func (scope *targetScope) profileDigest() string {
	if scope.content == nil {
		return ""
	}
	return scope.content.Digest
}
