// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/content"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/task"
)

// recheckEvery is how often an object is looked at although nothing happened:
// a net under the events, not a clock that anything waits for.
const recheckEvery = 30 * time.Second

// ProvisioningServerReconciler brings up provisioning VMs and keeps what they
// serve as declared.
type ProvisioningServerReconciler struct {
	client.Client
	Host   *Host
	Events events.EventRecorder

	waker *waker
	fetch *task.Group[artifact.Progress, content.Blob]
	stops *task.Group[struct{}, qemu.StopMethod]
	// underway is what machines are being installed from.
	underway underway
}

// +kubebuilder:rbac:groups=pxelab.io,resources=provisioningservers,verbs=list;watch;patch
// +kubebuilder:rbac:groups=pxelab.io,resources=provisioningservers/status,verbs=patch
// +kubebuilder:rbac:groups=pxelab.io,resources=provisioningservers/finalizers,verbs=update

// SetupWithManager registers the reconciler. Close it when the manager ended.
func (r *ProvisioningServerReconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.waker = newWaker()
	wake := func(key string) { r.waker.wake(owner(key)) }
	r.fetch = task.NewGroup[artifact.Progress, content.Blob](task.Options{
		Wake: wake, Backoff: 5 * time.Second, MaxBackoff: 5 * time.Minute, Longest: longestPause})
	r.stops = task.NewGroup[struct{}, qemu.StopMethod](task.Options{Wake: wake, Backoff: time.Second, MaxBackoff: time.Minute})
	return ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.ProvisioningServer{}, builder.WithPredicates(declared)).
		Watches(&v1alpha1.BareMetalTarget{}, handler.EnqueueRequestsFromMapFunc(serverOfTarget)).
		Watches(&v1alpha1.BootProfile{}, handler.EnqueueRequestsFromMapFunc(r.serversOfProfile)).
		WatchesRawSource(r.waker.source()).
		WithOptions(controller.Options{MaxConcurrentReconciles: 2}).
		Complete(r)
}

// Wake looks at the server with this UID again, if it is one.
func (r *ProvisioningServerReconciler) Wake(uid string) { r.waker.wake(uid) }

// Close ends background work and waits for it.
func (r *ProvisioningServerReconciler) Close() {
	r.fetch.Close()
	r.stops.Close()
}

// Reconcile brings one server forward.
func (r *ProvisioningServerReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	return reconcileObject(ctx, r.Client, r.waker, r, req, &v1alpha1.ProvisioningServer{})
}

func (r *ProvisioningServerReconciler) status(s *v1alpha1.ProvisioningServer) (any, *[]metav1.Condition) {
	return s.Status, &s.Status.Conditions
}

// fail says that a step could not be done.
func (r *ProvisioningServerReconciler) fail(s *v1alpha1.ProvisioningServer, err error) {
	s.Status.Message = clip(err.Error(), maxMessage)
	if s.DeletionTimestamp.IsZero() {
		set(&s.Status.Conditions, s.Generation, no(v1alpha1.ConditionReady, plan.FailureReason(err), err.Error()))
	}
	if s.Status.Phase == v1alpha1.ServerReady {
		s.Status.Phase = v1alpha1.ServerDegraded
	}
}

func (r *ProvisioningServerReconciler) announce(s, base *v1alpha1.ProvisioningServer) {
	announceReady(r.Events, s, base.Status.Conditions, s.Status.Conditions)
}

// release drops what this process holds for a server that is gone.
func (r *ProvisioningServerReconciler) release(uid types.UID) error {
	if uid == "" {
		return nil
	}
	r.fetch.Forget(taskKey(uid, "disk"))
	for arch := range programNames {
		r.fetch.Forget(taskKey(uid, "ipxe-"+string(arch)))
	}
	r.stops.Forget(taskKey(uid, "delete"))
	r.stops.Forget(taskKey(uid, "credentials"))
	r.stops.Forget(taskKey(uid, "restart"))
	r.underway.forget(uid)
	r.Host.Sessions.Remove(string(uid))
	return r.Host.Networks.Remove(string(uid))
}

// serverWork is one reconciliation of a server: what its steps learn.
type serverWork struct {
	server   *v1alpha1.ProvisioningServer
	network  plan.Network
	paths    qemu.Paths
	secrets  serverSecrets
	state    qemu.State
	programs programs
}

// bring goes through the steps and stops at the first that is not done. Every
// step but the first leaves its word in a condition.
func (r *ProvisioningServerReconciler) bring(ctx context.Context, s *v1alpha1.ProvisioningServer) (ctrl.Result, error) {
	if s.DeletionTimestamp.IsZero() {
		s.Status.ObservedGeneration = s.Generation
	}
	w := &serverWork{server: s}
	steps := []func(context.Context, *serverWork) (done bool, wait time.Duration, err error){
		r.observe, r.ensureValid, r.ensureUnpaused, r.ensurePrograms, r.ensureDisk, r.ensureSecrets, r.ensureCredentials, r.ensureRestarted, r.ensureMachine, r.ensureAgent,
	}
	for _, step := range steps {
		done, wait, err := step(ctx, w)
		if err != nil || !done {
			return ctrl.Result{RequeueAfter: wait}, err
		}
	}
	return ctrl.Result{RequeueAfter: recheckEvery}, nil
}

// waiting says what the server waits for, where only the user or a task can
// bring it on.
func waiting(s *v1alpha1.ProvisioningServer, phase v1alpha1.ServerPhase, c plan.Condition) {
	set(&s.Status.Conditions, s.Generation, c)
	s.Status.Phase, s.Status.Message = phase, c.Message
	c.Type = v1alpha1.ConditionReady
	set(&s.Status.Conditions, s.Generation, c)
}

// observe learns whether the machine runs.
func (r *ProvisioningServerReconciler) observe(ctx context.Context, w *serverWork) (_ bool, _ time.Duration, err error) {
	w.state, w.paths, err = r.Host.look(ctx, string(w.server.UID))
	return true, 0, err
}

// ensureValid checks what the schema cannot.
func (r *ProvisioningServerReconciler) ensureValid(ctx context.Context, w *serverWork) (bool, time.Duration, error) {
	network, err := plan.NewNetwork(w.server.Spec.Network, r.Host.JumboFrames)
	if err == nil {
		err = r.checkOverlap(ctx, w.server, network)
	}
	if err == nil && w.server.Spec.Machine.DiskSize.Value() < 1<<30 {
		err = &plan.InvalidError{Reason: v1alpha1.ReasonInvalid, Message: "spec.machine.diskSize must be at least 1Gi"}
	}
	var invalid *plan.InvalidError
	if err != nil && !errors.As(err, &invalid) {
		return false, 0, err
	}
	set(&w.server.Status.Conditions, w.server.Generation, validCondition(err))
	if err != nil {
		waiting(w.server, v1alpha1.ServerFailed, validCondition(err))
		return false, recheckEvery, nil // the server in its way may go
	}
	w.network = network
	w.server.Status.Address = network.Server.String()
	return true, 0, nil
}

// checkOverlap refuses the younger of two servers whose networks overlap.
func (r *ProvisioningServerReconciler) checkOverlap(ctx context.Context, s *v1alpha1.ProvisioningServer, n plan.Network) error {
	servers := &v1alpha1.ProvisioningServerList{}
	if err := r.List(ctx, servers); err != nil {
		return fmt.Errorf("listing servers: %w", err)
	}
	others := map[string]netip.Prefix{}
	for i := range servers.Items {
		o := &servers.Items[i]
		prefix, err := netip.ParsePrefix(o.Spec.Network.CIDR)
		if o.UID != s.UID && err == nil && older(o, s) {
			others[o.Namespace+"/"+o.Name] = prefix
		}
	}
	if name := n.Overlapping(others); name != "" {
		return &plan.InvalidError{Reason: v1alpha1.ReasonAddressConflict, Message: fmt.Sprintf(
			"spec.network.cidr %s overlaps the network of server %s; choose another", n.Prefix, name)}
	}
	return nil
}

func older(a, b client.Object) bool {
	at, bt := a.GetCreationTimestamp(), b.GetCreationTimestamp()
	if at.Equal(&bt) {
		return a.GetUID() < b.GetUID()
	}
	return at.Before(&bt)
}

// ensureDisk gets the image and makes the disk over it.
func (r *ProvisioningServerReconciler) ensureDisk(_ context.Context, w *serverWork) (bool, time.Duration, error) {
	s, path := w.server, plan.ServerDiskPath(w.paths.Dir, w.server)
	if w.state.Phase.Alive() && !restartAsked(s) {
		// It has its disk, wherever that came from. One that is to be started
		// anew gets its next disk first.
		return r.fetched(w, "image", task.Status[artifact.Progress, content.Blob]{Done: true})
	}
	src := artifactSource(s.Spec.Machine.Image.ArtifactSource, s.Spec.Machine.Image.Format)
	size := s.Spec.Machine.DiskSize.Value()
	status := r.fetch.Run(taskKey(s.UID, "disk"), digestOf([]any{src, size}),
		func(ctx context.Context, report func(artifact.Progress)) (content.Blob, error) {
			return content.Blob{}, r.Host.Content.ServerDisk(ctx, src, path, size, report)
		})
	return r.fetched(w, "image", status)
}

// fetched tells of content in the condition ImageReady.
func (r *ProvisioningServerReconciler) fetched(w *serverWork, name string, status task.Status[artifact.Progress, content.Blob]) (bool, time.Duration, error) {
	const kind = v1alpha1.ConditionImageReady
	s := w.server
	switch {
	case status.Done:
		set(&s.Status.Conditions, s.Generation, yes(kind, v1alpha1.ReasonAvailable, "image and boot programs are here and verified"))
		return true, 0, nil
	case status.Err != nil:
		waiting(s, v1alpha1.ServerFailed, no(kind, artifactReason(status.Err), name+": "+status.Err.Error()))
		return false, max(time.Second, status.RetryAt.Sub(r.Host.Now())), nil
	case w.state.Phase.Alive():
		// A manager that has just started looks up what is here already: all
		// that was said holds.
		return false, 0, nil
	default:
		waiting(s, v1alpha1.ServerPending, no(kind, progressReason(status.Progress), name+": "+progressText(status.Progress)))
		return false, 0, nil
	}
}

// ensureMachine makes the VM run.
func (r *ProvisioningServerReconciler) ensureMachine(ctx context.Context, w *serverWork) (bool, time.Duration, error) {
	s := w.server
	backend, err := r.attach(ctx, w)
	if err != nil {
		return false, 0, err
	}
	s.Status.Consoles = v1alpha1.Consoles{SerialLog: w.paths.SerialLog, SerialSocket: w.paths.Serial, VNCSocket: w.paths.VNC}
	machine := plan.ServerMachine(s, w.network, w.paths.Dir, w.sshKeys(), backend)
	if !w.state.Phase.Alive() {
		if wait := restartPause(w.state, r.Host.Now()); wait > 0 {
			waiting(s, v1alpha1.ServerBooting, plan.MachineCondition(w.state))
			return false, wait, nil
		}
		if err := r.writeSeed(w); err != nil {
			return false, 0, err
		}
		if err := removeOthers(w.paths.Dir, plan.ServerDiskPath(w.paths.Dir, s), plan.SeedPath(w.paths.Dir, w.sshKeys())); err != nil {
			return false, 0, err
		}
		if err := r.Host.Machines.Start(ctx, machine); err != nil {
			return false, 0, fmt.Errorf("starting the machine: %w", err)
		}
		if w.state, w.paths, err = r.Host.look(ctx, string(s.UID)); err != nil {
			return false, 0, err
		}
		tell(r.Events, s, corev1.EventTypeNormal, v1alpha1.ReasonRunning, "Start", "machine started on "+string(w.state.Accelerator))
	}
	set(&s.Status.Conditions, s.Generation, upToDate(s, w.state.Digest, machine.Digest()))
	s.Status.Accelerator = string(w.state.Accelerator)
	return true, 0, nil
}

// restartPause keeps a machine that dies at once from being started in a loop.
func restartPause(state qemu.State, now time.Time) time.Duration {
	const pause = 10 * time.Second
	if state.Exit == nil || state.Exit.Reason != qemu.ExitFailed {
		return 0
	}
	return min(pause, pause-now.Sub(state.Exit.At)) // a clock may be set back
}

// ensureAgent keeps netbootd connected and told, and says how it is.
func (r *ProvisioningServerReconciler) ensureAgent(ctx context.Context, w *serverWork) (bool, time.Duration, error) {
	s, uid := w.server, string(w.server.UID)
	address, err := forwardedAddress(w.state, plan.AgentPort)
	if err != nil {
		return false, 0, err
	}
	if err := r.Host.Sessions.Connect(uid, address, w.secrets.trust); err != nil {
		return false, 0, err
	}
	seen := r.Host.Sessions.Observe(uid)
	config, paths, err := r.document(ctx, w, seen.State)
	if err != nil {
		return false, 0, err
	}
	if !v1alpha1.Paused(s) {
		r.Host.Sessions.Push(uid, config, paths)
	}
	seen = r.Host.Sessions.Observe(uid)
	if !seen.Connected && seen.Error == nil && samePowerOn(s, w.state) {
		return true, 0, nil // the first attempt is under way: what was said holds until it fails
	}
	o := plan.ServerObservation{
		Machine: w.state, Connected: seen.Connected, State: seen.State, WantedDigest: seen.WantedDigest,
		WasReady: s.Status.Phase == v1alpha1.ServerReady || s.Status.Phase == v1alpha1.ServerDegraded, Now: r.Host.Now(),
	}
	if v1alpha1.Paused(s) {
		o.WantedDigest = seen.State.ConfigDigest
	}
	if seen.Error != nil {
		o.Error, o.Silent = seen.Error.Error(), errors.Is(seen.Error, agent.ErrSilent)
	}
	if seen.RenewError != nil {
		o.RenewError = seen.RenewError.Error()
	}
	if seen.PushError != nil {
		o.State.ConfigError = seen.PushError.Error()
	}
	if u := seen.Upload; u != nil {
		o.Upload = fmt.Sprintf("sending %d of %d MB", u.Done/1e6, u.Blob.Size/1e6)
		if u.Error != nil {
			o.Upload += "; trying again: " + u.Error.Error()
		}
	}
	conditions := plan.ServerConditions(o)
	for _, c := range conditions {
		set(&s.Status.Conditions, s.Generation, c)
	}
	ready := conditions[len(conditions)-1]
	s.Status.Message = ready.Message
	switch {
	case meta.IsStatusConditionTrue(s.Status.Conditions, v1alpha1.ConditionReady):
		s.Status.Phase = v1alpha1.ServerReady
	case o.WasReady:
		s.Status.Phase = v1alpha1.ServerDegraded
	default:
		s.Status.Phase = v1alpha1.ServerBooting
	}
	if o.Upload != "" && s.Status.Phase == v1alpha1.ServerReady {
		s.Status.Message = o.Upload
	}
	s.Status.Endpoints = v1alpha1.Endpoints{
		Agent: address, HTTP: seen.State.Services["http"].Address, TFTP: seen.State.Services["tftp"].Address, DHCP: seen.State.Services["dhcp"].Address,
	}
	r.showClients(s, config.Machines, seen.State)
	return true, 0, nil
}

// samePowerOn reports whether the status speaks of the process that runs.
func samePowerOn(s *v1alpha1.ProvisioningServer, state qemu.State) bool {
	told := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionMachineRunning)
	return told != nil && told.Message == plan.MachineCondition(state).Message
}

// forwardedAddress is where a guest port of the uplink is on the host.
func forwardedAddress(state qemu.State, guestPort int) (string, error) {
	for _, f := range state.Forwards[plan.DeviceUplink] {
		if f.GuestPort == guestPort {
			return "127.0.0.1:" + strconv.Itoa(f.HostPort), nil
		}
	}
	return "", fmt.Errorf("the machine has no forward to port %d; delete its process and it is started anew", guestPort)
}
