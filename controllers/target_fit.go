// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/netboot"
	"github.com/pxelab/pxelab/internal/plan"
)

// checkFit checks what can only be known from all the objects together.
func (r *BareMetalTargetReconciler) checkFit(_ context.Context, w *targetWork) error {
	t := w.target
	if w.profile != nil {
		t.Status.SSHUser = w.profile.Spec.SSHUser
	}
	if w.record.Generation > t.Spec.InstallGeneration {
		// As after the API's data was restored from an older copy.
		w.refuse(&plan.InvalidError{Reason: v1alpha1.ReasonInvalid, Message: fmt.Sprintf(
			"spec.installGeneration is %d and the disks were made for %d; raise it to %d to keep them", t.Spec.InstallGeneration, w.record.Generation, w.record.Generation)})
	}
	if w.profile == nil {
		w.missingProfile()
		return nil
	}
	if w.server == nil {
		return nil
	}
	switch disk := t.Spec.Machine.Disks[0].Size.Value(); {
	case w.profile.Spec.Architecture != t.Spec.Machine.Architecture:
		w.misfit(v1alpha1.ReasonArchMismatch, "spec.machine.architecture is %s and profile %s is for %s; choose another profile",
			t.Spec.Machine.Architecture, w.profile.Name, w.profile.Spec.Architecture)
	case w.content != nil && w.content.DiskBytes > disk:
		w.misfit(v1alpha1.ReasonImageTooLarge, "spec.machine.disks[0].size is %d bytes and the image of profile %s needs %d; make another target with a larger disk, or choose another profile",
			disk, w.profile.Name, w.content.DiskBytes)
	default:
		if err := checkDocuments(w); err != nil {
			w.misfit(v1alpha1.ReasonBadTemplate, "profile %s with this target's values: %v", w.profile.Name, err)
		}
	}
	return nil
}

func (w *targetWork) missingProfile() {
	const format = "spec.bootProfileRef: there is no BootProfile %s in namespace %s"
	t := w.target
	if plan.Installed(t) {
		w.misfit(v1alpha1.ReasonReferenceNotFound, format, t.Spec.BootProfileRef.Name, t.Namespace)
		return
	}
	w.block(v1alpha1.ReasonReferenceNotFound, format, t.Spec.BootProfileRef.Name, t.Namespace)
}

// checkDocuments checks and renders all that the target would be served.
func checkDocuments(w *targetWork) error {
	labMAC := plan.MAC(string(w.server.UID), plan.DeviceLab)
	d := plan.DocumentTarget{Target: w.target, Profile: w.profile, Content: w.content, Texts: w.texts}
	if err := plan.CheckTarget(w.network, labMAC, d); err != nil {
		return err
	}
	config := plan.Document(plan.DocumentInput{Network: w.network, LabMAC: labMAC, Targets: []plan.DocumentTarget{d}})
	for i := range config.Machines {
		if err := netboot.Check(&config.Network, &config.Machines[i]); err != nil {
			return err
		}
	}
	return nil
}

// unserved is why the server cannot serve an installation of the target yet;
// the zero Blocker when it can.
func (r *BareMetalTargetReconciler) unserved(w *targetWork) plan.Blocker {
	waits := func(reason, format string, args ...any) plan.Blocker {
		return plan.Blocker{Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	switch {
	case w.content == nil:
		message := "profile " + w.target.Spec.BootProfileRef.Name + " is not ready"
		if w.profile != nil && w.profile.Status.Progress != "" {
			message += ": " + w.profile.Status.Progress
		}
		return waits(v1alpha1.ReasonWaitingForProfile, "%s", message)
	case w.server == nil:
		return waits(v1alpha1.ReasonWaitingForServer, "there is no server %s", w.target.Spec.ProvisioningServerRef.Name)
	case v1alpha1.Paused(w.server):
		return waits(v1alpha1.ReasonWaitingForServer, "server %s is paused", w.server.Name)
	case !w.session.Connected:
		return waits(v1alpha1.ReasonWaitingForServer, "server %s is not ready: %s", w.server.Name, w.server.Status.Message)
	case w.session.PushError != nil:
		return waits(v1alpha1.ReasonWaitingForServer, "server %s did not take its configuration: %v", w.server.Name, w.session.PushError)
	case w.seen == nil || w.session.State.ConfigDigest != w.session.WantedDigest:
		b := waits(v1alpha1.ReasonWaitingForServer, "server %s is being told of this target", w.server.Name)
		b.Brief = true
		return b
	}
	if err := r.hasProgram(w); err != nil {
		return waits(v1alpha1.ReasonNoIPXEProgram, "server %s: %v", w.server.Name, err)
	}
	for _, missing := range w.session.State.MissingBlobs {
		for _, blob := range []agent.Blob{w.content.Kernel, w.content.Initrd, w.content.Overlay, w.content.Image} {
			if blob.Digest == missing.Digest {
				return waits(v1alpha1.ReasonWaitingForServer, "server %s gets the profile's content: %s", w.server.Name, w.server.Status.Message)
			}
		}
	}
	return plan.Blocker{}
}

// hasProgram says why the server has no network boot program for the target's
// architecture.
func (r *BareMetalTargetReconciler) hasProgram(w *targetWork) error {
	arch := w.target.Spec.Machine.Architecture
	for _, p := range w.server.Spec.IPXE {
		if p.Architecture == arch {
			return nil // else the server is not ready
		}
	}
	_, err := r.Host.Content.Program(string(arch))
	return err
}
