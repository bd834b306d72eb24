// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/labnet"
	"github.com/pxelab/pxelab/internal/netboot"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/session"
	"github.com/pxelab/pxelab/internal/storage"
	"github.com/pxelab/pxelab/internal/task"
)

// shutdownTimeout is how long a guest may take to obey its power button.
const shutdownTimeout = 90 * time.Second

// BareMetalTargetReconciler takes targets from their declaration to Ready.
type BareMetalTargetReconciler struct {
	client.Client
	Host   *Host
	Events events.EventRecorder

	waker  *waker
	stops  *task.Group[struct{}, qemu.StopMethod]
	claims claims
	steps  steps
}

// +kubebuilder:rbac:groups=pxelab.io,resources=baremetaltargets,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=pxelab.io,resources=baremetaltargets/status,verbs=patch

// SetupWithManager registers the reconciler. Close it when the manager ended.
func (r *BareMetalTargetReconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.waker = newWaker()
	r.stops = task.NewGroup[struct{}, qemu.StopMethod](task.Options{
		Wake:    func(key string) { r.waker.wake(owner(key)) },
		Backoff: time.Second, MaxBackoff: time.Minute,
	})
	return ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.BareMetalTarget{}, builder.WithPredicates(declared)).
		Watches(&v1alpha1.ProvisioningServer{}, handler.EnqueueRequestsFromMapFunc(r.targetsOf(serverRef))).
		Watches(&v1alpha1.BootProfile{}, handler.EnqueueRequestsFromMapFunc(r.targetsOf(profileRef))).
		WatchesRawSource(r.waker.source()).
		WithOptions(controller.Options{MaxConcurrentReconciles: 4}).
		Complete(r)
}

// Wake looks at the target with this UID again, if it is one.
func (r *BareMetalTargetReconciler) Wake(uid string) { r.waker.wake(uid) }

// Close ends background work and waits for it.
func (r *BareMetalTargetReconciler) Close() { r.stops.Close() }

// Reconcile brings one target forward.
func (r *BareMetalTargetReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	target := &v1alpha1.BareMetalTarget{}
	if err := r.Get(ctx, req.NamespacedName, target); err != nil {
		if apierrors.IsNotFound(err) {
			r.release(r.waker.forget(req.NamespacedName))
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	r.release(r.waker.know(target.UID, req.NamespacedName))
	base := target.DeepCopy()
	var result ctrl.Result
	var err error
	if target.DeletionTimestamp.IsZero() {
		if err := ensureFinalizer(ctx, r.Client, target); err != nil {
			return ctrl.Result{}, err
		}
		base = target.DeepCopy()
		target.Status.ObservedGeneration = target.Generation
		result, err = r.reconcile(ctx, target)
	} else {
		var gone bool
		if gone, err = r.delete(ctx, target); gone {
			return ctrl.Result{}, err
		}
		result.RequeueAfter = recheckEvery
		if err != nil {
			fail(target, err)
		}
	}
	changed, done, patchErr := patchStatus(ctx, r.Client, target, base, base.Status, target.Status)
	if changed {
		r.announce(target, base)
	}
	if err = errors.Join(err, patchErr); err != nil {
		return ctrl.Result{}, err
	}
	if !done {
		result.RequeueAfter = staleRetry
	}
	return result, nil
}

// fail says that a step could not be done, where there is nothing else to say.
func fail(t *v1alpha1.BareMetalTarget, err error) {
	t.Status.Message = clip(err.Error(), maxMessage)
	set(&t.Status.Conditions, t.Generation, no(v1alpha1.ConditionProgressing, v1alpha1.ReasonFailed, err.Error()))
}

// release drops what this process holds for a target that is gone.
func (r *BareMetalTargetReconciler) release(uid types.UID) {
	r.stops.Forget(taskKey(uid, "stop"))
	r.claims.release(uid)
	r.steps.forget(uid)
}

// announce tells of a change of phase.
func (r *BareMetalTargetReconciler) announce(t, base *v1alpha1.BareMetalTarget) {
	if t.Status.Phase == base.Status.Phase {
		return
	}
	kind := corev1.EventTypeNormal
	if t.Status.Phase == v1alpha1.TargetFailed {
		kind = corev1.EventTypeWarning
	}
	tell(r.Events, t, kind, string(t.Status.Phase), "Reconcile", t.Status.Message)
}

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
	// observed says that state and record are what is.
	observed bool
	// recheck is when the blocker ends by time alone; 0 for never.
	recheck time.Duration
}

func (r *BareMetalTargetReconciler) reconcile(ctx context.Context, t *v1alpha1.BareMetalTarget) (ctrl.Result, error) {
	w := &targetWork{target: t, paths: r.Host.paths(string(t.UID))}
	for _, step := range []func(context.Context, *targetWork) error{
		r.resolve, r.observe, r.ensureClaim, r.checkFit, r.ensureDisks, r.ensurePower, r.ensureInstalled,
	} {
		if err := step(ctx, w); err != nil {
			if w.observed {
				r.report(w, err)
			} else {
				fail(t, err)
			}
			return ctrl.Result{}, err
		}
	}
	return ctrl.Result{RequeueAfter: r.report(w, nil)}, nil
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
	var err error
	if w.state, err = r.Host.Machines.Observe(ctx, string(t.UID)); err != nil {
		return fmt.Errorf("observing the machine: %w", err)
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

// ensureClaim gives the target its MAC and address.
func (r *BareMetalTargetReconciler) ensureClaim(ctx context.Context, w *targetWork) error {
	if w.server == nil {
		return nil
	}
	list := &v1alpha1.BareMetalTargetList{}
	if err := r.List(ctx, list, client.InNamespace(w.target.Namespace)); err != nil {
		return fmt.Errorf("listing targets: %w", err)
	}
	claim, err := r.claims.allocate(w.network, w.server, w.target, list.Items)
	var invalid *plan.InvalidError
	if errors.As(err, &invalid) {
		w.refuse(invalid)
		return nil
	}
	w.target.Status.MACAddress, w.target.Status.Address = claim.MAC, claim.Address.String()
	return nil
}

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

// setRecord takes what is known of the disks into the status. What the status
// says of other disks' system is dropped, whenever that is noticed: the status
// written when they were replaced may have been lost.
func (w *targetWork) setRecord(r storage.Record) {
	w.record = r
	s := &w.target.Status
	if s.DiskGeneration != r.Generation {
		s.SSHHostKeys, s.Hostname, s.Timeline, s.Install = nil, "", nil, nil
	}
	s.DiskGeneration, s.InstalledGeneration, s.InstalledProfileDigest = r.Generation, r.InstalledGeneration(), r.ProfileDigest
}

func disksOf(t *v1alpha1.BareMetalTarget, dir string) []storage.Disk {
	var out []storage.Disk
	for i, d := range t.Spec.Machine.Disks {
		out = append(out, storage.Disk{Path: plan.DiskPath(dir, i), Size: d.Size.Value()})
	}
	return out
}

// stop powers the machine off in the background. It is asked again until it
// says true. purpose tells one stop from the next.
func (r *BareMetalTargetReconciler) stop(w *targetWork, purpose string, o qemu.StopOptions) (bool, error) {
	uid := string(w.target.UID)
	// A later process of the same machine is another thing to stop.
	status := r.stops.Run(taskKey(w.target.UID, "stop"), purpose+w.state.StartedAt.String(),
		func(ctx context.Context, _ func(struct{})) (qemu.StopMethod, error) {
			return r.Host.Machines.Stop(ctx, uid, o)
		})
	if status.Err != nil {
		return false, fmt.Errorf("stopping the machine: %w", status.Err)
	}
	return status.Done, nil
}

// ensurePower makes the machine run, or not, as declared.
func (r *BareMetalTargetReconciler) ensurePower(ctx context.Context, w *targetWork) error {
	t := w.target
	t.Status.Consoles = v1alpha1.Consoles{SerialLog: w.paths.SerialLog, SerialSocket: w.paths.Serial, VNCSocket: w.paths.VNC}
	if t.Spec.Power == v1alpha1.PowerOff {
		if w.state.Phase.Alive() {
			if _, err := r.stop(w, "power", qemu.StopOptions{ACPITimeout: shutdownTimeout}); err != nil {
				return err
			}
		}
		return nil
	}
	if w.server == nil {
		return nil
	}
	if w.state.Phase.Alive() {
		if w.stopping || t.Status.MACAddress == "" {
			return nil // without a MAC its claim was refused
		}
		// A shutdown that was asked for and has been called off must not come
		// later.
		r.stops.Forget(taskKey(t.UID, "stop"))
		// The switch of a manager that has just started has no ports yet.
		if _, err := r.Host.Networks.Attach(targetAttachment(t, w.server, w.network)); err != nil {
			return fmt.Errorf("attaching the target to its network: %w", err)
		}
		return nil
	}
	if !plan.Installed(t) {
		r.checkServed(w)
	}
	if w.blocker.Reason != "" {
		return nil
	}
	if w.recheck = restartPause(w.state, r.Host.Now()); w.recheck > 0 {
		w.block(v1alpha1.ReasonExited, "%s; it is started again in a few seconds", plan.MachineCondition(w.state).Message)
		return nil
	}
	return r.start(ctx, w)
}

func (r *BareMetalTargetReconciler) start(ctx context.Context, w *targetWork) error {
	t := w.target
	backend, err := r.Host.Networks.Attach(targetAttachment(t, w.server, w.network))
	if err != nil {
		return fmt.Errorf("attaching the target to its network: %w", err)
	}
	m := plan.TargetMachine(t, w.network, t.Status.MACAddress, w.paths.Dir, backend, !plan.Installed(t))
	if err := r.Host.Machines.Start(ctx, m); err != nil {
		return fmt.Errorf("starting the machine: %w", err)
	}
	return r.look(ctx, w)
}

// look observes the machine anew, after something was done to it.
func (r *BareMetalTargetReconciler) look(ctx context.Context, w *targetWork) (err error) {
	if w.state, err = r.Host.Machines.Observe(ctx, string(w.target.UID)); err != nil {
		return fmt.Errorf("observing the machine: %w", err)
	}
	return nil
}

// checkServed makes a target wait until its server serves it all it needs.
func (r *BareMetalTargetReconciler) checkServed(w *targetWork) {
	switch {
	case w.content == nil:
		message := "profile " + w.target.Spec.BootProfileRef.Name + " is not ready"
		if w.profile != nil && w.profile.Status.Progress != "" {
			message += ": " + w.profile.Status.Progress
		}
		w.block(v1alpha1.ReasonWaitingForProfile, "%s", message)
	case !w.session.Connected:
		w.block(v1alpha1.ReasonWaitingForServer, "server %s is not ready: %s", w.server.Name, w.server.Status.Message)
	case w.session.PushError != nil:
		w.block(v1alpha1.ReasonWaitingForServer, "server %s did not take its configuration: %v", w.server.Name, w.session.PushError)
	case w.seen == nil || w.session.State.ConfigDigest != w.session.WantedDigest:
		w.block(v1alpha1.ReasonWaitingForServer, "server %s is being told of this target", w.server.Name)
	case !r.hasProgram(w):
	default:
		for _, missing := range w.session.State.MissingBlobs {
			for _, blob := range []agent.Blob{w.content.Kernel, w.content.Initrd, w.content.Overlay, w.content.Image} {
				if blob.Digest == missing.Digest {
					w.block(v1alpha1.ReasonWaitingForServer, "server %s gets the profile's content: %s", w.server.Name, w.server.Status.Message)
				}
			}
		}
	}
}

// hasProgram makes a target wait whose server has no network boot program for
// its architecture.
func (r *BareMetalTargetReconciler) hasProgram(w *targetWork) bool {
	arch := w.target.Spec.Machine.Architecture
	for _, p := range w.server.Spec.IPXE {
		if p.Architecture == arch {
			return true // else the server is not ready
		}
	}
	if _, err := r.Host.Content.Program(string(arch)); err != nil {
		w.block(v1alpha1.ReasonNoIPXEProgram, "server %s: %v", w.server.Name, err)
		return false
	}
	return true
}

func targetAttachment(t *v1alpha1.BareMetalTarget, s *v1alpha1.ProvisioningServer, n plan.Network) labnet.Attachment {
	return labnet.Attachment{
		Network: string(s.UID), Mode: labnet.Mode(n.Mode), MTU: n.MTU, Bridge: n.Bridge,
		Machine: string(t.UID), MAC: t.Status.MACAddress,
	}
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

// report writes what was observed into the status, and the error that ended
// the reconciliation, if any. It says when to look again.
func (r *BareMetalTargetReconciler) report(w *targetWork, failure error) time.Duration {
	t, now := w.target, r.Host.Now()
	o := plan.TargetObservation{
		Blocker: w.blocker, Unfit: w.unfit, Machine: w.state, Failure: failure,
		AgentConnected: w.session.Connected, Seen: w.seen, Now: now,
		OtherDisks: w.record.Generation != 0 && w.record.Generation != t.Spec.InstallGeneration,
	}
	if w.state.Phase.Alive() {
		o.PowerOn = plan.PowerOn(w.state.StartedAt)
	}
	o.StepSince = r.steps.since(t.UID, plan.TargetStep(t, o), o.PowerOn, now)
	out := plan.Target(t, o)
	s := &t.Status
	s.Phase, s.Progress, s.Message, s.Accelerator = out.Phase, out.Progress, clip(out.Message, maxMessage), string(w.state.Accelerator)
	if out.Install != nil {
		s.Install = out.Install
	}
	s.Power = v1alpha1.PowerOff
	if w.state.Phase.Alive() {
		s.Power = v1alpha1.PowerOn
	}
	s.Timeline = plan.Timeline(s.Timeline, out.Phase, plan.PhaseStart(out.Phase, s.Timeline, w.state.StartedAt, now))
	for _, c := range plan.TargetConditions(t, o, out) {
		set(&s.Conditions, t.Generation, c)
	}
	recheck := recheckEvery
	for _, sooner := range []time.Duration{out.Recheck, w.recheck} {
		if sooner > 0 {
			recheck = min(recheck, max(sooner, time.Second))
		}
	}
	return recheck
}

// delete stops the machine and removes what was made for it.
func (r *BareMetalTargetReconciler) delete(ctx context.Context, t *v1alpha1.BareMetalTarget) (gone bool, err error) {
	if !controllerutil.ContainsFinalizer(t, v1alpha1.Finalizer) {
		return true, nil // others hold it
	}
	w := &targetWork{target: t, paths: r.Host.paths(string(t.UID))}
	t.Status.Phase, t.Status.Progress, t.Status.Message = v1alpha1.TargetDeleting, "", "machine is being stopped"
	if err := r.look(ctx, w); err != nil {
		return false, err
	}
	stopped, err := r.stop(w, "delete", qemu.StopOptions{})
	if err != nil || !stopped {
		return false, err
	}
	server := &v1alpha1.ProvisioningServer{}
	err = r.Get(ctx, types.NamespacedName{Namespace: t.Namespace, Name: t.Spec.ProvisioningServerRef.Name}, server)
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("reading the server: %w", err)
	}
	if err == nil {
		if err := r.Host.Networks.Detach(targetAttachment(t, server, plan.Network{Mode: server.Spec.Network.Mode})); err != nil {
			return false, fmt.Errorf("detaching the target: %w", err)
		}
	}
	// A record that cannot be read is kept with its disks.
	record, err := storage.Load(w.paths.Dir)
	if t.Spec.DiskRetention == v1alpha1.RetentionRetain && (err != nil || record.Generation != 0) {
		dst := filepath.Join(r.Host.RetainedDir, fmt.Sprintf("%s-%s-%s", t.Namespace, t.Name, t.UID))
		if err := storage.Retain(w.paths.Dir, dst, disksOf(t, w.paths.Dir)); err != nil {
			return false, err
		}
		tell(r.Events, t, corev1.EventTypeNormal, "DisksRetained", "Delete", "disks are kept in "+dst)
	}
	if err := errors.Join(r.Host.Machines.Remove(ctx, string(t.UID)), storage.Remove(w.paths.Dir)); err != nil {
		return false, err
	}
	return true, removeFinalizer(ctx, r.Client, t)
}

func serverRef(t *v1alpha1.BareMetalTarget) string  { return t.Spec.ProvisioningServerRef.Name }
func profileRef(t *v1alpha1.BareMetalTarget) string { return t.Spec.BootProfileRef.Name }

// targetsOf maps an object to the targets that refer to it.
func (r *BareMetalTargetReconciler) targetsOf(ref func(*v1alpha1.BareMetalTarget) string) handler.MapFunc {
	return func(ctx context.Context, o client.Object) []reconcile.Request {
		targets := &v1alpha1.BareMetalTargetList{}
		if err := r.List(ctx, targets, client.InNamespace(o.GetNamespace())); err != nil {
			return nil
		}
		var out []reconcile.Request
		for i := range targets.Items {
			if ref(&targets.Items[i]) == o.GetName() {
				out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&targets.Items[i])})
			}
		}
		return out
	}
}

// claims remembers what was allocated in this process, because a status that
// was just written may not be in the cache yet. It is safe for concurrent use.
type claims struct {
	mu   sync.Mutex
	held map[types.UID]plan.Claim
}

func (c *claims) allocate(n plan.Network, server *v1alpha1.ProvisioningServer, t *v1alpha1.BareMetalTarget, all []v1alpha1.BareMetalTarget) (plan.Claim, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		c.held = map[types.UID]plan.Claim{}
	}
	others := []plan.Claim{{Name: "the provisioning server", MAC: plan.MAC(string(server.UID), plan.DeviceLab), Address: n.Server}}
	held, holds := c.claimOf(t)
	for i := range all {
		o := &all[i]
		if o.UID == t.UID || o.Spec.ProvisioningServerRef != t.Spec.ProvisioningServerRef {
			continue
		}
		if claim, ok := c.claimOf(o); ok {
			others = append(others, claim)
		} else if declared, ok := declaredAddress(o); ok && t.Spec.Address == "" && !holds {
			// It will ask for this one: do not be in its way.
			others = append(others, plan.Claim{Name: o.Name, Address: declared})
		}
	}
	claim, err := plan.Allocate(n, t, held, others)
	if err != nil {
		delete(c.held, t.UID)
		return claim, err
	}
	c.held[t.UID] = claim
	return claim, nil
}

func declaredAddress(t *v1alpha1.BareMetalTarget) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(string(t.Spec.Address))
	return addr, err == nil
}

// claimOf is what a target holds, by memory or by its status.
func (c *claims) claimOf(t *v1alpha1.BareMetalTarget) (plan.Claim, bool) {
	if claim, ok := c.held[t.UID]; ok {
		return claim, true
	}
	return plan.ClaimOf(t)
}

func (c *claims) release(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.held, uid)
}

// steps remembers since when a target is at its step. It is safe for
// concurrent use. What is forgotten by a restart only delays the word that a
// target has stalled.
type steps struct {
	mu sync.Mutex
	at map[types.UID]stepSince
}

type stepSince struct {
	step  plan.Step
	power string
	since time.Time
}

func (s *steps) since(uid types.UID, step plan.Step, power string, now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil {
		s.at = map[types.UID]stepSince{}
	}
	if old, ok := s.at[uid]; ok && old.step == step && old.power == power {
		return old.since
	}
	s.at[uid] = stepSince{step: step, power: power, since: now}
	return now
}

func (s *steps) forget(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.at, uid)
}
