// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/metrics"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// ensureDisks creates blank disks for a new installation. A machine that runs on the
// old ones is stopped first.
func (r *BareMetalTargetReconciler) ensureDisks(ctx context.Context, scope *targetScope) (*halt, error) {
	t := scope.target
	t.Status.DiskPath = plan.DiskPath(scope.paths.Dir, 0)
	t.Status.RootDisk = t.Spec.Machine.Disks[plan.BootDisk(t, scope.record)].Name
	if plan.AwaitsAdoption(t, scope.record) {
		return nil, nil
	}
	var unserved plan.Blocker
	if plan.NeedsReinstall(t, scope.record, scope.profileDigest()) {
		var err error
		if unserved, err = r.unready(ctx, scope); err != nil {
			return nil, err
		}
	}
	disks, missing := disksOf(t, scope.paths.Dir), ""
	if scope.record.Generation != 0 && !scope.record.Void {
		var err error
		if missing, err = targetdisk.Missing(disks); err != nil {
			return nil, err
		}
	}
	decision := plan.DecideDisks(t, plan.DiskObservation{
		Missing: missing, Record: scope.record, ProfileDigest: scope.profileDigest(), Unserved: unserved, Now: r.Host.Now(),
		Alive:   scope.state.Phase.Alive(),
		Refused: scope.blocker.Terminal || scope.unfit.Reason != "",
		Done:    scope.seen != nil && scope.seen.Install != nil && !scope.seen.Install.DoneAt.IsZero(),
	})
	scope.recheck = decision.Recheck
	if b := decision.Blocker; b.Terminal {
		scope.refuse(&plan.InvalidError{Reason: b.Reason, Message: b.Message})
	} else if b.Reason != "" {
		scope.block(b.Reason, "%s", b.Message)
	}
	if decision.Prepare == (targetdisk.Attempt{}) {
		return nil, nil
	}
	if scope.state.Phase.Alive() {
		if stopped, err := r.stop(ctx, scope, "reinstall", machine.StopOptions{}); !stopped {
			scope.stopping = true
			scope.block(v1alpha1.ReasonStarting, "the machine is being stopped for a reinstallation")
			return nil, err
		}
		if err := r.observeMachine(ctx, scope); err != nil {
			return nil, err
		}
	}
	record, err := targetdisk.Prepare(scope.paths.Dir, decision.Prepare, disks, scope.paths.Vars)
	if errors.Is(err, syscall.EFBIG) {
		scope.refuse(plan.DiskTooLarge(err))
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ctrl.LoggerFrom(ctx).Info("Prepared disks", "attempt", record.Attempt.String(), "replacedGeneration", scope.record.Generation,
		"cleaning", t.Spec.Cleaning)
	if scope.record.Generation != 0 {
		what := "blank disks were created for "
		if t.Spec.Cleaning != "" {
			what = "the disks are kept, with spec.cleaning " + string(t.Spec.Cleaning) + ", for "
		}
		recordEvent(r.Events, t, event{corev1.EventTypeNormal, v1alpha1.ReasonInstallStarted, "Install", what + record.Attempt.String()})
	}
	scope.setRecord(record)
	scope.seen = nil // of the previous attempt
	return nil, nil
}

// unready returns why the target cannot be installed again yet; the zero Blocker if it
// can. A machine that runs is not stopped before there is room for its installation.
func (r *BareMetalTargetReconciler) unready(ctx context.Context, scope *targetScope) (plan.Blocker, error) {
	why := r.unserved(scope)
	wanted := scope.target.Spec.Power != v1alpha1.PowerOff && !scope.blocker.Terminal && scope.unfit.Reason == ""
	if why.Reason != "" || !wanted || !scope.state.Phase.Alive() || !plan.ReinstallWanted(scope.target, scope.record) {
		return why, nil
	}
	why, err := r.admit(ctx, scope, plan.InstallDemand)
	scope.reinstalling = err == nil && why.Reason == ""
	return why, err
}

func disksOf(t *v1alpha1.BareMetalTarget, dir string) []targetdisk.Disk {
	var out []targetdisk.Disk
	for i, d := range t.Spec.Machine.Disks {
		out = append(out, targetdisk.Disk{Path: plan.DiskPath(dir, i), Size: d.Size.Value(), Keep: t.Spec.Cleaning != ""})
	}
	return out
}

// ensureInstalled records a finished installation and puts the disk first in the boot
// order. netbootd delays the installer's reset until that is confirmed.
func (r *BareMetalTargetReconciler) ensureInstalled(ctx context.Context, scope *targetScope) (*halt, error) {
	t := scope.target
	done := scope.seen != nil && scope.seen.Install != nil && !scope.seen.Install.DoneAt.IsZero()
	if done && !scope.record.Installed && !scope.record.Void {
		written := targetdisk.Record{Installed: true, RootDisk: scope.seen.RootDiskName}
		if set, err := r.bootFromDisk(ctx, scope, written); err != nil || !set {
			return nil, err
		}
		// Profile and network are those that netbootd served, which may have been
		// edited since.
		record, err := targetdisk.MarkInstalled(scope.paths.Dir, scope.record.Attempt, targetdisk.Installed{
			At: r.Host.Now(), ProfileDigest: scope.seen.ProfileDigest, Network: scope.seen.Network,
			RootDisk: written.RootDisk, Warnings: scope.seen.Install.Warnings,
			Declared: (*targetdisk.Declaration)(scope.seen.Declared),
		})
		if err != nil {
			return nil, err
		}
		r.Host.Metrics.AttemptEnded(metrics.AttemptSucceeded, v1alpha1.ReasonInstalled)
		ctrl.LoggerFrom(ctx).Info("Recorded installation", "attempt", record.Attempt.String(), "profileDigest", record.ProfileDigest)
		scope.setRecord(record)
		if len(record.Warnings) > 0 {
			recordEvent(r.Events, t, event{corev1.EventTypeWarning, v1alpha1.ReasonInstalledWithWarnings, "Install",
				clip(strings.Join(record.Warnings, "; "), maxMessage)})
		}
	} else if plan.HasInstallation(t) {
		if _, err := r.bootFromDisk(ctx, scope, scope.record); err != nil {
			return nil, err
		}
	}
	return nil, r.recordPhoneHome(scope)
}

// recordPhoneHome records what the installed system has reported, with the disks: they may
// outlive the target.
func (r *BareMetalTargetReconciler) recordPhoneHome(scope *targetScope) error {
	t := scope.target
	if scope.seen == nil || scope.seen.PhoneHome == nil || !plan.HasInstallation(t) {
		return nil
	}
	system := targetdisk.System{Hostname: scope.seen.PhoneHome.Hostname, HostKeys: scope.seen.PhoneHome.HostKeys}
	t.Status.SSHHostKeys, t.Status.Hostname = system.HostKeys, system.Hostname
	if old := scope.record.System; old != nil && equality.Semantic.DeepEqual(*old, system) {
		return nil
	}
	record, err := targetdisk.MarkPhonedHome(scope.paths.Dir, scope.record.Attempt, system)
	if err != nil {
		return err
	}
	scope.record = record
	return nil
}

// bootFromDisk puts the disk that holds the system first in the boot order and reports
// whether that is so. If not, an event of the machine follows.
func (r *BareMetalTargetReconciler) bootFromDisk(ctx context.Context, scope *targetScope, record targetdisk.Record) (set bool, err error) {
	want := plan.TargetBootOrder(plan.BootDisk(scope.target, record), false)
	ordered := func() bool {
		// The next start of a machine that does not run sets its order.
		return !scope.state.Phase.Alive() || equality.Semantic.DeepEqual(scope.state.BootOrder, want)
	}
	if ordered() {
		return true, nil
	}
	err = r.Host.Machines.SetBootOrder(ctx, string(scope.target.UID), want)
	if errors.Is(err, machine.ErrNotRunning) {
		return false, nil // it is being started, or has just ended
	}
	if err != nil {
		return false, fmt.Errorf("setting the boot order to the disk: %w", err)
	}
	ctrl.LoggerFrom(ctx).Info("Setting boot order", "devices", want)
	if err := r.observeMachine(ctx, scope); err != nil {
		return false, err
	}
	return ordered(), nil
}
