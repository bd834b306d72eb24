// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers/internal/task"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/bootconfig/cloudinit"
	"github.com/pxelab/pxelab/internal/bootconfig/ipxe"
	"github.com/pxelab/pxelab/internal/bootfile"
	"github.com/pxelab/pxelab/internal/content"
	"github.com/pxelab/pxelab/internal/metrics"
	"github.com/pxelab/pxelab/internal/plan"
)

// BootProfileReconciler reconciles profiles: it downloads and verifies their
// artifacts and converts their images for the installer.
type BootProfileReconciler struct {
	client.Client
	Host   *Host
	Events events.EventRecorder

	watchdog *watchdog
	external *eventSource
	tasks    *task.Group[artifact.Progress, content.Blob]
	slots    workSlots
}

// +kubebuilder:rbac:groups=pxelab.io,resources=bootprofiles,verbs=list;watch;patch
// +kubebuilder:rbac:groups=pxelab.io,resources=bootprofiles/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=list;watch;create;patch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// SetupWithManager registers the reconciler. The caller must call Close after the
// manager has stopped.
func (r *BootProfileReconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.external = newEventSource()
	r.tasks = task.NewGroup[artifact.Progress, content.Blob](task.Options{
		Wake:    func(key string) { r.external.enqueue(ownerOf(key)) },
		Backoff: 5 * time.Second, MaxBackoff: 5 * time.Minute, Longest: longestPause,
	})
	return ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.BootProfile{}, builder.WithPredicates(specChanged)).
		Watches(&v1alpha1.BareMetalTarget{}, handler.EnqueueRequestsFromMapFunc(profileOfTarget), builder.WithPredicates(specChanged)).
		Watches(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(r.profilesOfSecret)).
		WatchesRawSource(r.external.source()).
		WithOptions(controllerOptions(1)).
		Complete(r.watchdog.watch(metrics.KindProfile, r))
}

// Close cancels downloads and waits for them.
func (r *BootProfileReconciler) Close() { r.tasks.Close() }

// Reconcile reconciles one profile.
func (r *BootProfileReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	return reconcileObject(ctx, r, req)
}

func (r *BootProfileReconciler) newObject() *v1alpha1.BootProfile { return &v1alpha1.BootProfile{} }

func (r *BootProfileReconciler) eventSource() *eventSource { return r.external }

// phaseOf returns the reason of the condition Ready: a profile has no phase.
func (r *BootProfileReconciler) phaseOf(o *v1alpha1.BootProfile) string {
	ready := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil {
		return ""
	}
	return ready.Reason
}

func (r *BootProfileReconciler) statusDelay(_, _ *v1alpha1.BootProfile, _ time.Duration) time.Duration {
	return 0
}

func (r *BootProfileReconciler) statusOf(p *v1alpha1.BootProfile) (any, *[]metav1.Condition) {
	return p.Status, &p.Status.Conditions
}

// setFailure does nothing: only requests to the API can fail here, and the status
// holds.
func (r *BootProfileReconciler) setFailure(*v1alpha1.BootProfile, error) {}

func (r *BootProfileReconciler) recordTransition(p, base *v1alpha1.BootProfile) {
	recordReady(r.Events, p, base.Status.Conditions, p.Status.Conditions)
}

// forget drops what this process holds for a profile that is gone.
func (r *BootProfileReconciler) forget(uid types.UID) error {
	for _, name := range []string{plan.ArtifactKernel, plan.ArtifactInitrd, plan.ArtifactImage, plan.ArtifactOverlay} {
		r.tasks.Forget(taskKey(uid, name))
	}
	return nil
}

func (r *BootProfileReconciler) reconcileNormal(ctx context.Context, p *v1alpha1.BootProfile) (reconciliation, error) {
	if v1alpha1.Paused(p) {
		return reconciliation{}, nil // the status holds
	}
	templates, err := r.validate(ctx, p)
	var invalid *plan.InvalidError
	if err != nil && !errors.As(err, &invalid) {
		return reconciliation{unobserved: true}, err
	}
	holds := false
	o := plan.ProfileObservation{Invalid: err, Templates: templates, DigestKey: r.Host.DigestKey}
	if err == nil {
		o.Warnings = cloudinit.Warnings(ctx, templates.UserData)
	}
	if p.Spec.Image != nil {
		for _, a := range r.artifacts(p) {
			observed := r.observeArtifact(p, a)
			holds = holds || observed.Recorded != nil
			o.Artifacts = append(o.Artifacts, observed)
		}
	}
	out := plan.Profile(p, o)
	p.Status.Artifacts = out.Artifacts
	p.Status.Progress = out.Progress
	p.Status.Digest = out.Digest
	p.Status.ObservedGeneration = p.Generation
	for _, c := range out.Conditions {
		setCondition(&p.Status.Conditions, p.Generation, c)
	}
	again := resyncInterval // content may be deleted from the store
	if out.RetryAfter > 0 {
		again = out.RetryAfter
	}
	return reconciliation{ctrl.Result{RequeueAfter: again}, holds}, nil
}

// profileArtifact is an artifact of a profile and the work that fetches it.
type profileArtifact struct {
	name  string
	fetch task.Func[artifact.Progress, content.Blob]
	// input is what the work depends on.
	input any
}

// artifacts returns a profile's artifacts. Their work does not refer to p, which is
// written to meanwhile.
func (r *BootProfileReconciler) artifacts(p *v1alpha1.BootProfile) []profileArtifact {
	i, architecture := p.Spec.Image, string(p.Spec.Architecture)
	image := artifactSource(i.Source.Artifact(), i.Source.Format)
	return []profileArtifact{
		{plan.ArtifactKernel, r.bootFile(*i.Kernel, bootfile.Kernel, architecture), *i.Kernel},
		{plan.ArtifactInitrd, r.bootFile(*i.Initrd, bootfile.Initrd, architecture), *i.Initrd},
		{plan.ArtifactImage, func(ctx context.Context, report func(artifact.Progress)) (content.Blob, error) {
			return r.Host.Content.Stream(ctx, image, report)
		}, i.Source},
		{plan.ArtifactOverlay, func(ctx context.Context, _ func(artifact.Progress)) (content.Blob, error) {
			return r.Host.Content.Overlay(ctx, architecture)
		}, p.Spec.Architecture},
	}
}

// observeArtifact keeps an artifact's work running and returns its state. Work whose
// result is no longer in the store is done again.
func (r *BootProfileReconciler) observeArtifact(p *v1alpha1.BootProfile, a profileArtifact) plan.ArtifactObservation {
	key, work := taskKey(p.UID, a.name), inSlot(r.slots, p.Namespace, p.Name, a.fetch)
	status := r.tasks.Run(key, plan.DigestOf(a.input), work)
	if status.Done {
		if _, stored := r.Host.Content.Path(status.Result.Digest); !stored {
			r.tasks.Forget(key)
			status = r.tasks.Run(key, plan.DigestOf(a.input), work)
		}
	}
	o := plan.ArtifactObservation{Status: artifactStatus(a.name, status)}
	if status.Err != nil {
		o.FailureReason = artifactReason(status.Err)
		o.RetryAfter = status.RetryAt.Sub(r.Host.Now())
	}
	if recorded, ok := plan.RecordedArtifact(p, a.name); ok && status.Running {
		if _, stored := r.Host.Content.Path(recorded.Digest); stored {
			o.Recorded = &recorded
		}
	}
	return o
}

func (r *BootProfileReconciler) bootFile(src v1alpha1.ArtifactSource, kind bootfile.Kind, architecture string) fetchFunc {
	file := artifactSource(src, "")
	file.Boot = bootfile.Expectation{Kind: kind, Architecture: architecture}
	return func(ctx context.Context, report func(artifact.Progress)) (content.Blob, error) {
		return r.Host.Content.File(ctx, file, report)
	}
}

// validate checks the templates, which the schema cannot.
func (r *BootProfileReconciler) validate(ctx context.Context, p *v1alpha1.BootProfile) (plan.Templates, error) {
	if err := plan.CheckBoot(p); err != nil {
		return plan.Templates{}, err
	}
	templates, err := resolveTemplates(ctx, r.Client, p)
	if err != nil {
		return templates, err
	}
	for _, check := range []struct {
		field string
		err   error
	}{
		{"spec.userData", cloudinit.Validate(ctx, templates.UserData)},
		{"spec.networkConfig", cloudinit.ValidateNetworkConfig(ctx, templates.NetworkConfig)},
		{"spec.ipxeTemplate", validateScript(p.Spec.IPXETemplate)},
	} {
		if ctx.Err() != nil {
			return templates, ctx.Err()
		}
		if check.err != nil {
			return templates, &plan.InvalidError{Reason: v1alpha1.ReasonBadTemplate, Message: fmt.Sprintf("%s: %v", check.field, check.err)}
		}
	}
	return templates, nil
}

// validateScript checks an iPXE template as far as is possible without a target.
func validateScript(text string) error {
	if text == "" {
		return nil
	}
	return ipxe.CheckScript(text)
}

// reconcileDelete removes the finalizer once no target uses the profile. Until then
// the status lists the targets that do.
func (r *BootProfileReconciler) reconcileDelete(ctx context.Context, p *v1alpha1.BootProfile) (gone bool, err error) {
	if !controllerutil.ContainsFinalizer(p, v1alpha1.Finalizer) {
		return true, nil // other finalizers remain
	}
	targets, err := targetsWith(ctx, r, fieldProfile, client.ObjectKeyFromObject(p))
	if err != nil {
		return false, err
	}
	var users []string
	for i := range targets {
		users = append(users, targets[i].Name)
	}
	if len(users) > 0 {
		slices.Sort(users)
		return false, r.reconcileUsed(ctx, p, "will be deleted when no target uses it; used by "+strings.Join(users, ", "))
	}
	return true, removeFinalizer(ctx, r.Client, p)
}

// reconcileUsed reconciles a profile that is deleted once no target uses it.
func (r *BootProfileReconciler) reconcileUsed(ctx context.Context, p *v1alpha1.BootProfile, message string) error {
	before := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady).DeepCopy()
	_, err := r.reconcileNormal(ctx, p)
	// The condition Ready in between must not show as a transition.
	if now := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady); now != nil && before != nil {
		*now = *before
	}
	setCondition(&p.Status.Conditions, p.Generation, conditionFalse(v1alpha1.ConditionReady, v1alpha1.ReasonInUse, message))
	return err
}

func profileOfTarget(_ context.Context, o client.Object) []reconcile.Request {
	t := o.(*v1alpha1.BareMetalTarget)
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: t.Namespace, Name: t.Spec.BootProfileRef.Name}}}
}

func (r *BootProfileReconciler) profilesOfSecret(ctx context.Context, o client.Object) []reconcile.Request {
	profiles := &v1alpha1.BootProfileList{}
	err := r.List(ctx, profiles, client.InNamespace(o.GetNamespace()), client.MatchingFields{fieldSecrets: o.GetName()},
		client.UnsafeDisableDeepCopy)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "Listing profiles for an event", "object", o.GetName())
		return nil
	}
	names := map[string]bool{}
	for i := range profiles.Items {
		names[profiles.Items[i].Name] = true
	}
	return requestsFor(o.GetNamespace(), names)
}
