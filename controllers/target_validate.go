// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"strings"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/bootconfig"
	"github.com/pxelab/pxelab/internal/plan"
)

// checkFit checks the target against the host, its profile and its server.
func (r *BareMetalTargetReconciler) checkFit(ctx context.Context, scope *targetScope) (*halt, error) {
	t := scope.target
	limits, accelerator := r.Host.Capacity.limits(t.Spec.Machine.Architecture)
	if err := plan.CheckTargetSize(t, accelerator, limits); err != nil {
		scope.refuse(err)
	}
	if scope.profile != nil {
		t.Status.SSHUser = scope.profile.Spec.SSHUser
	}
	if scope.profile == nil {
		scope.missingProfile()
		return nil, nil
	}
	if scope.server == nil {
		return nil, nil
	}
	if err := plan.CheckRunner(t, scope.network); err != nil {
		scope.refuse(err)
		return nil, nil
	}
	bad := scope.badTemplates
	if err := plan.CheckProfile(t, scope.profile, scope.content); err != nil {
		scope.misfit(err.Reason, "%s", err.Message)
	} else if bad != nil && bad.Reason != v1alpha1.ReasonReferenceNotFound {
		scope.misfit(bad.Reason, "profile %s: %s", scope.profile.Name, bad.Message)
	} else {
		return nil, r.checkTemplates(ctx, scope)
	}
	return nil, nil
}

func (scope *targetScope) missingProfile() {
	const format = "spec.bootProfileRef: there is no BootProfile %s in namespace %s"
	t := scope.target
	if plan.IsInstalled(t) {
		scope.misfit(v1alpha1.ReasonReferenceNotFound, format, t.Spec.BootProfileRef.Name, t.Namespace)
		return
	}
	scope.block(v1alpha1.ReasonReferenceNotFound, format, t.Spec.BootProfileRef.Name, t.Namespace)
}

// checkTemplates validates and renders everything that the target would be served.
// Rendering is a background task: until it has ended, the templates are unchecked. They are
// as well until the server's reconciler has created the keys, which templates can contain.
func (r *BareMetalTargetReconciler) checkTemplates(ctx context.Context, scope *targetScope) error {
	if ok, err := r.readKeys(ctx, scope); err != nil {
		return err
	} else if !ok {
		scope.leaveUnchecked()
		return nil
	}
	refuse := func(problem string) {
		scope.misfit(v1alpha1.ReasonBadTemplate, "profile %s with this target's values: %s", scope.profile.Name, problem)
	}
	in := scope.entryInput()
	machine, placed, err := plan.CheckEntry(scope.network, plan.MAC(string(scope.server.UID), plan.DeviceLab), in)
	if err != nil {
		refuse(err.Error())
		return nil
	}
	if !placed {
		return nil // it has no address
	}
	network := scope.network.NetbootdConfig("")
	problem, checked := r.templates.verdict(scope.target, bootconfig.Input{
		Network: &network, Machine: machine,
		Texts: bootconfig.Texts{
			IPXE: scope.profile.Spec.IPXETemplate, UserData: scope.templates.UserData, NetworkConfig: scope.templates.NetworkConfig,
			SSHKeys: strings.Join(in.SSHKeys, "\n"),
		},
	})
	switch {
	case !checked:
		scope.leaveUnchecked()
	case problem != "":
		refuse(problem)
	}
	return nil
}

// leaveUnchecked records that the templates have not been checked. What an earlier check of
// an installed target found remains.
func (scope *targetScope) leaveUnchecked() {
	scope.unchecked = true
	scope.unfit = plan.KeptUnfit(scope.target)
}

// unserved returns why the server cannot serve an installation of the target yet;
// the zero Blocker if it can.
func (r *BareMetalTargetReconciler) unserved(scope *targetScope) plan.Blocker {
	o := plan.ServingObservation{
		Profile:      scope.profile,
		Content:      scope.content,
		Server:       scope.server,
		Connected:    scope.session.Connected,
		EntryError:   scope.session.Error,
		InForce:      scope.seen != nil && scope.session.InForce && scope.session.Profile == scope.profileDigest(),
		CheckProgram: func() error { return r.checkProgram(scope) },
		Pending:      scope.session.Pending,

		TemplatesPending: scope.unchecked,
	}
	if upload := scope.session.Upload; upload != nil {
		o.UploadError = upload.Error
	}
	return plan.Unserved(scope.target, o)
}

// checkProgram returns an error if the server has no network boot program for the
// target's architecture.
func (r *BareMetalTargetReconciler) checkProgram(scope *targetScope) error {
	arch := scope.target.Spec.Machine.Architecture
	for _, p := range scope.server.Spec.IPXE {
		if p.Architecture == arch {
			return nil // fetched, or the server would not be ready
		}
	}
	_, err := r.Host.Content.Program(string(arch))
	return err
}
