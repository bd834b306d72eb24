// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"

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
	if w.blocker.Terminal || w.record.Generation == t.Spec.InstallGeneration || t.Spec.Power == v1alpha1.PowerOff {
		return nil
	}
	if w.content == nil && w.record.Generation != 0 {
		// Nothing is wiped before there is something to install.
		w.block(v1alpha1.ReasonWaitingForProfile, "profile %s is not ready; the disk is kept until it is", t.Spec.BootProfileRef.Name)
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
	if err := storage.Prepare(w.paths.Dir, t.Spec.InstallGeneration, disksOf(t, w.paths.Dir), w.paths.Vars); err != nil {
		return err
	}
	w.setRecord(storage.Record{Generation: t.Spec.InstallGeneration})
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
	if done && !w.record.Installed && w.record.Generation == t.Spec.InstallGeneration {
		if err := r.turnToDisk(ctx, w); err != nil {
			return err
		}
		digest := ""
		if w.content != nil {
			digest = w.content.Digest
		}
		record, err := storage.MarkInstalled(w.paths.Dir, digest, r.Host.Now())
		if err != nil {
			return err
		}
		w.setRecord(record)
	} else if plan.Installed(t) {
		if err := r.turnToDisk(ctx, w); err != nil {
			return err
		}
	}
	if w.seen != nil && w.seen.PhoneHome != nil && plan.Installed(t) {
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
