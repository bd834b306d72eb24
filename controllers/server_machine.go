// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers/internal/task"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/content"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/metrics"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/qemuimg"
	"github.com/pxelab/pxelab/internal/startrecord"
)

// ensureDisk fetches the image and creates the disk, which is an overlay of it.
func (r *ProvisioningServerReconciler) ensureDisk(_ context.Context, scope *serverScope) (*halt, error) {
	s, path := scope.server, plan.ServerDiskPath(scope.paths.Dir, scope.server)
	if scope.state.Phase.Alive() && !restartRequested(s) {
		// The machine has its disk. One that is to be restarted gets its next disk
		// before that.
		return r.fetched(scope, "image", task.Status[artifact.Progress, content.Blob]{Done: true}), nil
	}
	src := artifactSource(s.Spec.Machine.Image.ArtifactSource, s.Spec.Machine.Image.Format)
	size := s.Spec.Machine.DiskSize.Value()
	key := taskKey(s.UID, "disk")
	create := inSlot(r.slots, s.Namespace, s.Name, func(ctx context.Context, report func(artifact.Progress)) (content.Blob, error) {
		return content.Blob{}, r.Host.Content.ServerDisk(ctx, src, path, size, report)
	})
	status := r.fetch.Run(key, plan.DigestOf([]any{src, size}), create)
	if status.Done {
		complete, err := diskComplete(path)
		if err != nil {
			return nil, err
		}
		if !complete { // a file was deleted since the work ended
			r.fetch.Forget(key)
			status = r.fetch.Run(key, plan.DigestOf([]any{src, size}), create)
		}
	}
	return r.fetched(scope, "image", status), nil
}

// diskComplete reports whether a server's disk and the image that it is based on exist.
func diskComplete(path string) (bool, error) {
	base, err := qemuimg.BackingFile(path)
	if err == nil && base != "" {
		_, err = os.Stat(base)
	}
	switch {
	case err == nil, errors.Is(err, qemuimg.ErrDamagedHeader): // QEMU reports a damaged disk
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	}
	return false, fmt.Errorf("checking the server's disk: %w", err)
}

// fetched sets the condition ImageReady from the status of a fetch. A non-nil halt
// waits for its end.
func (r *ProvisioningServerReconciler) fetched(scope *serverScope, name string, status task.Status[artifact.Progress, content.Blob]) *halt {
	const kind = v1alpha1.ConditionImageReady
	s := scope.server
	switch {
	case status.Done && scope.programs.unfetched:
		return nil
	case status.Done:
		setCondition(&s.Status.Conditions, s.Generation,
			conditionTrue(kind, v1alpha1.ReasonAvailable, "image and boot programs are available and verified"))
		return nil
	case status.Err != nil:
		waiting(s, v1alpha1.ServerFailed, conditionFalse(kind, artifactReason(status.Err), name+": "+status.Err.Error()))
		return requeueAfter(max(time.Second, status.RetryAt.Sub(r.Host.Now())))
	case scope.state.Phase.Alive():
		// A manager that has just started looks up content that it has already.
		return scope.keepStatus(0)
	default:
		waiting(s, v1alpha1.ServerPending, conditionFalse(kind, progressReason(status.Progress), name+": "+progressText(status.Progress)))
		return &halt{}
	}
}

// ensureFaultless switches a VM off that cannot do its work and does not recover by
// itself, whatever the steps that fetch content result in. ensureMachine starts it again.
func (r *ProvisioningServerReconciler) ensureFaultless(ctx context.Context, scope *serverScope) (*halt, error) {
	s, now := scope.server, r.Host.Now()
	if v1alpha1.Paused(s) {
		return nil, nil
	}
	seen := r.Host.Sessions.Observe(string(s.UID))
	why, patience := plan.Fault(scope.state, errors.Is(seen.Error, netbootapi.ErrVersion))
	since := r.restarts.faultSince(s.UID, why, scope.state.StartedAt, now)
	if why == "" {
		r.stops.Forget(taskKey(s.UID, "fault"))
		r.restarts.observe(s.UID, scope.state, now)
		return nil, nil
	}
	if now.Sub(since) < patience {
		return nil, nil // the next reconciliation looks again
	}
	r.restarts.ended(s.UID, scope.state.StartedAt, now)
	stopped := r.stop(ctx, scope, "fault", machine.StopOptions{})
	if stopped.Err != nil {
		return nil, fmt.Errorf("stopping the machine, because %s: %w", why, stopped.Err)
	}
	waiting(s, v1alpha1.ServerBooting, plan.FaultCondition(why))
	return &halt{}, nil
}

// ensureMachine starts the VM if it does not run, and waits until it does.
func (r *ProvisioningServerReconciler) ensureMachine(ctx context.Context, scope *serverScope) (*halt, error) {
	s := scope.server
	backend, err := r.attach(ctx, scope)
	if err != nil {
		return nil, err
	}
	s.Status.Consoles = v1alpha1.Consoles{SerialLog: scope.paths.SerialLog, SerialSocket: scope.paths.Serial, VNCSocket: scope.paths.VNC}
	described := plan.ServerMachine(s, scope.network, scope.paths.Dir, scope.sshKeys(), backend)
	if !scope.state.Phase.Alive() {
		restarts := r.restarts.observe(s.UID, scope.state, r.Host.Now())
		if wait := restarts.Wait(r.Host.Now()); wait > 0 {
			waiting(s, v1alpha1.ServerBooting, restarts.Condition(scope.state))
			return requeueAfter(wait), nil
		}
		if scope.waits.Reason != "" {
			waiting(s, v1alpha1.ServerPending, plan.WaitingCondition(scope.waits))
			return requeueAfter(resyncInterval), nil
		}
		reason := restarts.Reason(scope.state)
		if err := r.start(ctx, scope, described); err != nil {
			return nil, err
		}
		r.Host.Metrics.MachineRestarted(metrics.KindServer, reason)
	}
	if !scope.state.Phase.Alive() || scope.state.Phase == machine.PhaseStarting || scope.state.Problem != "" {
		waiting(s, v1alpha1.ServerBooting, plan.MachineCondition(scope.state))
		return requeueAfter(resyncInterval), nil
	}
	if c := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionMachineRunning); scope.state.Phase == machine.PhaseRunning &&
		c != nil && c.Reason == v1alpha1.ReasonStarting {
		ctrl.LoggerFrom(ctx).Info("Started machine", "accelerator", scope.state.Accelerator)
		recordEvent(r.Events, s, event{corev1.EventTypeNormal, v1alpha1.ReasonRunning, "Start",
			"machine started on " + string(scope.state.Accelerator)})
	}
	started, err := startrecord.Load(scope.paths.Dir)
	if err != nil {
		return nil, err
	}
	upToDate, pending := plan.MachineUpToDate(s, scope.state, described.Digest(), started)
	s.Status.PendingChanges = pending
	setCondition(&s.Status.Conditions, s.Generation, upToDate)
	s.Status.Accelerator = string(scope.state.Accelerator)
	return nil, nil
}

// ensureAdmitted asks for what the machine needs in order to be started. It does not halt:
// images are fetched while the machine waits. It precedes the steps that take long, so
// that targets do not take the memory of a server that is about to be started.
func (r *ProvisioningServerReconciler) ensureAdmitted(ctx context.Context, scope *serverScope) (_ *halt, err error) {
	s := scope.server
	if scope.state.Phase.Alive() {
		return nil, nil
	}
	_, accelerator := r.Host.Capacity.limits(s.Spec.Machine.Architecture)
	d := plan.ServerDemand(s, accelerator)
	d.Since = plan.WaitingSince(s.Status.Conditions, r.Host.Now())
	scope.asked = true
	scope.waits, err = r.Host.Capacity.admit(ctx, d, false)
	return nil, err
}

// account records what the machine uses after the steps: all of it while it runs, and
// what it was admitted for until then. While the machine is being restarted it keeps what
// it had: without their server, targets are of no use.
func (r *ProvisioningServerReconciler) account(scope *serverScope) {
	s, c := scope.server, r.Host.Capacity
	switch {
	case !scope.observed:
	case scope.state.Phase.Alive():
		c.runsOn(s.Spec.Machine.Architecture, scope.state.Accelerator)
		c.count(plan.ServerDemand(s, scope.state.Accelerator), scope.state)
		c.withdraw(string(s.UID)) // it may have waited while an earlier process was found
	case !scope.asked || s.Status.Phase == v1alpha1.ServerFailed:
		c.release(string(s.UID))
	}
}

// start starts the machine, which a later event reports as running.
func (r *ProvisioningServerReconciler) start(ctx context.Context, scope *serverScope, described machine.Machine) (err error) {
	s, dir := scope.server, scope.paths.Dir
	if err := r.writeSeed(scope); err != nil {
		return err
	}
	if err := removeOthers(dir, plan.ServerDiskPath(dir, s), plan.SeedPath(dir, scope.sshKeys())); err != nil {
		return err
	}
	if err := startrecord.Save(dir, startrecord.Record{Digest: described.Digest(), Fields: plan.ServerStart(s)}); err != nil {
		return err
	}
	s.Status.PendingChanges = nil
	if err := r.Host.Machines.Start(ctx, described); err != nil {
		return fmt.Errorf("starting the machine: %w", err)
	}
	ctrl.LoggerFrom(ctx).Info("Starting machine")
	setCondition(&s.Status.Conditions, s.Generation, plan.MachineCondition(machine.State{Phase: machine.PhaseStarting}))
	scope.state, scope.paths, err = r.Host.observe(ctx, string(s.UID))
	return err
}

// forwardedAddress returns the address on the host that is forwarded to a guest port
// of the uplink.
func forwardedAddress(state machine.State, guestPort int) (string, error) {
	for _, f := range state.Forwards[plan.DeviceUplink] {
		if f.GuestPort == guestPort {
			return "127.0.0.1:" + strconv.Itoa(f.HostPort), nil
		}
	}
	return "", fmt.Errorf("no port forward to guest port %d; kill the machine's QEMU process and it will be restarted", guestPort)
}
