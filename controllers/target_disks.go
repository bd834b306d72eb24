// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/storage"
)

// ensureDisks makes blank disks for a new installation. What runs on the old
// ones is stopped first.
func (r *BareMetalTargetReconciler) ensureDisks(ctx context.Context, w *targetWork) error {
	t := w.target
	t.Status.DiskPath = plan.DiskPath(w.paths.Dir, 0)
	var unserved plan.Blocker
	if plan.Replaces(t, w.record, w.profileDigest()) {
		unserved = r.unserved(w)
	}
	decision := plan.DecideDisks(t, plan.DiskObservation{
		Record: w.record, ProfileDigest: w.profileDigest(), Unserved: unserved, Now: r.Host.Now(),
		Alive:   w.state.Phase.Alive(),
		Refused: w.blocker.Terminal || w.unfit.Reason != "",
		Done:    w.seen != nil && w.seen.Install != nil && !w.seen.Install.DoneAt.IsZero(),
	})
	w.recheck = decision.Recheck
	if b := decision.Blocker; b.Reason != "" {
		w.block(b.Reason, "%s", b.Message)
	}
	if decision.Prepare == (storage.Attempt{}) {
		return nil
	}
	if w.state.Phase.Alive() {
		if stopped, err := r.stop(w, "reinstall", qemu.StopOptions{}); !stopped {
			w.stopping = true
			w.block(v1alpha1.ReasonStarting, "the machine is stopped to be installed anew")
			return err
		}
		if err := r.look(ctx, w); err != nil {
			return err
		}
	}
	record, err := storage.Prepare(w.paths.Dir, decision.Prepare, disksOf(t, w.paths.Dir), w.paths.Vars)
	if err != nil {
		return err
	}
	if w.record.Generation != 0 {
		tell(r.Events, t, corev1.EventTypeNormal, "InstallBegun", "Install", "disks are blank for "+record.Attempt.String())
	}
	w.setRecord(record)
	w.seen = nil // it is of the attempt before
	return nil
}

func disksOf(t *v1alpha1.BareMetalTarget, dir string) []storage.Disk {
	var out []storage.Disk
	for i, d := range t.Spec.Machine.Disks {
		out = append(out, storage.Disk{Path: plan.DiskPath(dir, i), Size: d.Size.Value()})
	}
	return out
}

// ensureInstalled records a finished installation and turns the boot order to
// the disk. netbootd holds the installer's reset back until it is told.
func (r *BareMetalTargetReconciler) ensureInstalled(ctx context.Context, w *targetWork) error {
	t := w.target
	done := w.seen != nil && w.seen.Install != nil && !w.seen.Install.DoneAt.IsZero()
	if done && !w.record.Installed && !w.record.Void {
		if err := r.turnToDisk(ctx, w); err != nil {
			return err
		}
		// What was installed is what netbootd gave, not what the profile is by
		// now.
		record, err := storage.MarkInstalled(w.paths.Dir, w.record.Attempt, w.seen.ProfileDigest, r.Host.Now())
		if err != nil {
			return err
		}
		w.setRecord(record)
	} else if plan.OnDisk(t) {
		if err := r.turnToDisk(ctx, w); err != nil {
			return err
		}
	}
	if w.seen != nil && w.seen.PhoneHome != nil && plan.OnDisk(t) {
		t.Status.SSHHostKeys, t.Status.Hostname = w.seen.PhoneHome.HostKeys, w.seen.PhoneHome.Hostname
	}
	return nil
}

func (r *BareMetalTargetReconciler) turnToDisk(ctx context.Context, w *targetWork) error {
	want := plan.BootOrder(false)
	if !w.state.Phase.Alive() || equality.Semantic.DeepEqual(w.state.BootOrder, want) {
		return nil
	}
	err := r.Host.Machines.SetBootOrder(ctx, string(w.target.UID), want)
	if err != nil && !errors.Is(err, qemu.ErrNotRunning) {
		return fmt.Errorf("turning the boot order to the disk: %w", err)
	}
	return nil
}
