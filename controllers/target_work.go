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
	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/session"
	"github.com/pxelab/pxelab/internal/storage"
)

// targetWork is one reconciliation of a target: what its steps learn.
type targetWork struct {
	target  *v1alpha1.BareMetalTarget
	server  *v1alpha1.ProvisioningServer
	profile *v1alpha1.BootProfile
	texts   plan.Texts
	content *plan.Content
	network plan.Network
	paths   qemu.Paths
	record  storage.Record
	state   qemu.State
	session session.Observation
	seen    *agent.MachineState
	blocker plan.Blocker
	// unfit is what is wrong although the target is installed and goes on.
	unfit plan.Blocker
	// stopping says that the machine runs only until it is stopped.
	stopping bool
	// paused says that nothing is done to the machine.
	paused bool
	// observed says that state and record are what is.
	observed bool
	// recheck is when the blocker ends by time alone; 0 for never.
	recheck time.Duration
}

// block says that nothing can be done for the target yet, unless something
// said so before.
func (w *targetWork) block(reason, format string, args ...any) {
	if w.blocker.Reason == "" {
		w.blocker = plan.Blocker{Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
}

// refuse says that the user must change something. Until then nothing is
// begun; what runs goes on, and can be powered off.
func (w *targetWork) refuse(err *plan.InvalidError) {
	if !w.blocker.Terminal {
		w.blocker = plan.Blocker{Reason: err.Reason, Message: err.Message, Terminal: true}
	}
}

// misfit refuses an installation. A target that is installed needs its profile
// no more, so that it is only told.
func (w *targetWork) misfit(reason, format string, args ...any) {
	err := &plan.InvalidError{Reason: reason, Message: fmt.Sprintf(format, args...)}
	if plan.Installed(w.target) {
		w.unfit = plan.Blocker{Reason: err.Reason, Message: err.Message}
		return
	}
	w.refuse(err)
}

// resolve gets the objects that the target refers to.
func (r *BareMetalTargetReconciler) resolve(ctx context.Context, w *targetWork) error {
	t := w.target
	server, profile := &v1alpha1.ProvisioningServer{}, &v1alpha1.BootProfile{}
	err := r.Get(ctx, types.NamespacedName{Namespace: t.Namespace, Name: t.Spec.ProvisioningServerRef.Name}, server)
	switch {
	case client.IgnoreNotFound(err) != nil:
		return fmt.Errorf("reading server %s: %w", t.Spec.ProvisioningServerRef.Name, err)
	case err != nil:
		w.block(v1alpha1.ReasonReferenceNotFound, "spec.provisioningServerRef: there is no ProvisioningServer %s in namespace %s", t.Spec.ProvisioningServerRef.Name, t.Namespace)
	default:
		w.server = server
		if w.network, err = plan.NewNetwork(server.Spec.Network, r.Host.JumboFrames); err != nil {
			w.server = nil
			w.block(v1alpha1.ReasonWaitingForServer, "server %s: %v", server.Name, err)
		}
	}
	err = r.Get(ctx, types.NamespacedName{Namespace: t.Namespace, Name: t.Spec.BootProfileRef.Name}, profile)
	switch {
	case client.IgnoreNotFound(err) != nil:
		return fmt.Errorf("reading profile %s: %w", t.Spec.BootProfileRef.Name, err)
	case err != nil:
		w.profile = nil
		return nil
	}
	w.profile, w.content = profile, contentOf(profile)
	var invalid *plan.InvalidError
	if w.texts, err = resolveTexts(ctx, r.Client, profile); err != nil && !errors.As(err, &invalid) {
		return err
	}
	return nil
}

// observe learns what is.
func (r *BareMetalTargetReconciler) observe(ctx context.Context, w *targetWork) error {
	t := w.target
	if err := r.look(ctx, w); err != nil {
		return err
	}
	record, err := storage.Load(w.paths.Dir)
	if err != nil {
		return err
	}
	w.setRecord(record)
	w.observed = true
	if w.server != nil {
		w.session = r.Host.Sessions.Observe(string(w.server.UID))
		if seen, ok := w.session.State.Machines[string(t.UID)]; ok && seen.Attempt == plan.Attempt(t) {
			w.seen = &seen
		}
	}
	return nil
}

// setRecord takes what is known of the disks into the status. What the status
// says of other disks' system is dropped, whenever that is noticed: the status
// written when they were replaced may have been lost.
func (w *targetWork) setRecord(r storage.Record) {
	w.record = r
	s := &w.target.Status
	attempts := plan.Attempts(w.target, r, w.profileDigest())
	if s.DiskGeneration != r.Generation || (s.Attempts != nil && attempts != nil && s.Attempts.Number != attempts.Number) {
		s.SSHHostKeys, s.Hostname, s.Timeline, s.Install = nil, "", nil, nil
	}
	s.Attempts = attempts
	s.DiskGeneration, s.InstalledGeneration, s.InstalledProfileDigest = r.Generation, r.InstalledGeneration(), r.ProfileDigest
}

// profileDigest is what the profile comes to; "" while it is not ready.
func (w *targetWork) profileDigest() string {
	if w.content == nil {
		return ""
	}
	return w.content.Digest
}
