// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
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
	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/cloudinit"
	"github.com/pxelab/pxelab/internal/content"
	"github.com/pxelab/pxelab/internal/ipxe"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/task"
)

// BootProfileReconciler gets what a profile names: downloaded, verified,
// converted for the installer.
type BootProfileReconciler struct {
	client.Client
	Host   *Host
	Events events.EventRecorder

	waker *waker
	tasks *task.Group[artifact.Progress, content.Blob]
}

// +kubebuilder:rbac:groups=pxelab.io,resources=bootprofiles,verbs=list;watch;patch
// +kubebuilder:rbac:groups=pxelab.io,resources=bootprofiles/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=list;watch;create;patch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// SetupWithManager registers the reconciler. Close it when the manager ended.
func (r *BootProfileReconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.waker = newWaker()
	r.tasks = task.NewGroup[artifact.Progress, content.Blob](task.Options{
		Wake:    func(key string) { r.waker.wake(owner(key)) },
		Backoff: 5 * time.Second, MaxBackoff: 5 * time.Minute, Longest: longestPause,
	})
	return ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.BootProfile{}, builder.WithPredicates(declared)).
		Watches(&v1alpha1.BareMetalTarget{}, handler.EnqueueRequestsFromMapFunc(profileOfTarget), builder.WithPredicates(declared)).
		Watches(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(r.profilesOfSecret)).
		WatchesRawSource(r.waker.source()).
		Complete(r)
}

// Close ends downloads and waits for them.
func (r *BootProfileReconciler) Close() { r.tasks.Close() }

// Reconcile brings one profile forward.
func (r *BootProfileReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	return reconcileObject(ctx, r.Client, r.waker, r, req, &v1alpha1.BootProfile{})
}

func (r *BootProfileReconciler) status(p *v1alpha1.BootProfile) (any, *[]metav1.Condition) {
	return p.Status, &p.Status.Conditions
}

// fail says nothing: only the API failed, and what was said of the profile
// holds.
func (r *BootProfileReconciler) fail(*v1alpha1.BootProfile, error) {}

func (r *BootProfileReconciler) announce(p, base *v1alpha1.BootProfile) {
	announceReady(r.Events, p, base.Status.Conditions, p.Status.Conditions)
}

// release drops what this process holds for a profile that is gone.
func (r *BootProfileReconciler) release(uid types.UID) error {
	for _, name := range []string{"kernel", "initrd", "image", "overlay"} {
		r.tasks.Forget(taskKey(uid, name))
	}
	return nil
}

func (r *BootProfileReconciler) bring(ctx context.Context, p *v1alpha1.BootProfile) (ctrl.Result, error) {
	if v1alpha1.Paused(p) {
		return ctrl.Result{}, nil // what was said of it holds
	}
	texts, err := r.validate(ctx, p)
	var invalid *plan.InvalidError
	if err != nil && !errors.As(err, &invalid) {
		return ctrl.Result{}, err
	}
	set(&p.Status.Conditions, p.Generation, validCondition(err))

	// The work goes on while p is written to.
	image, architecture := artifactSource(p.Spec.Image.ArtifactSource, p.Spec.Image.Format), string(p.Spec.Architecture)
	pieces := []struct {
		name string
		work task.Func[artifact.Progress, content.Blob]
		of   any
	}{
		{"kernel", r.file(p.Spec.Kernel), p.Spec.Kernel},
		{"initrd", r.file(p.Spec.Initrd), p.Spec.Initrd},
		{"image", func(ctx context.Context, report func(artifact.Progress)) (content.Blob, error) {
			return r.Host.Content.Stream(ctx, image, report)
		}, p.Spec.Image},
		{"overlay", func(ctx context.Context, _ func(artifact.Progress)) (content.Blob, error) {
			return r.Host.Content.Overlay(ctx, architecture)
		}, p.Spec.Architecture},
	}
	var result ctrl.Result
	artifacts := make([]v1alpha1.ArtifactStatus, 0, len(pieces))
	available := yes(v1alpha1.ConditionArtifactsReady, v1alpha1.ReasonAvailable, "kernel, initrd and image are here and verified")
	var waiting []string
	for _, piece := range pieces {
		status := r.tasks.Run(taskKey(p.UID, piece.name), digestOf(piece.of), piece.work)
		told := artifactStatus(piece.name, status)
		here := false
		if status.Running {
			if old, ok := r.stillHere(p, piece.name); ok {
				told, here = old, true
			}
		}
		artifacts = append(artifacts, told)
		switch {
		case here:
		case status.Err != nil:
			if available.Reason == v1alpha1.ReasonAvailable || available.Reason == v1alpha1.ReasonDownloading {
				available = no(v1alpha1.ConditionArtifactsReady, artifactReason(status.Err), piece.name+": "+told.Message)
			}
			result.RequeueAfter = sooner(result.RequeueAfter, status.RetryAt.Sub(r.Host.Now()))
		case !status.Done:
			waiting = append(waiting, piece.name+" "+told.Progress)
			if available.Reason == v1alpha1.ReasonAvailable {
				available = no(v1alpha1.ConditionArtifactsReady, v1alpha1.ReasonDownloading, "")
			}
		}
	}
	if available.Reason == v1alpha1.ReasonDownloading {
		available.Message = "being fetched: " + strings.Join(waiting, ", ")
	}
	p.Status.Artifacts = artifacts
	p.Status.Progress = strings.Join(waiting, ", ")
	p.Status.Digest = ""
	set(&p.Status.Conditions, p.Generation, available)
	ready := yes(v1alpha1.ConditionReady, v1alpha1.ReasonReady, "targets can be installed")
	switch {
	case err != nil:
		ready = validCondition(err)
	case available.Reason != v1alpha1.ReasonAvailable:
		ready = available
	default:
		p.Status.Digest = profileDigest(p, texts)
	}
	ready.Type = v1alpha1.ConditionReady
	set(&p.Status.Conditions, p.Generation, ready)
	p.Status.ObservedGeneration = p.Generation
	return result, nil
}

// stillHere is what the status says of an artifact of this very declaration, if
// its content is in the store. A manager that has just started looks all of it
// up again; until it knows better nothing may be taken from machines that are
// being installed from it.
func (r *BootProfileReconciler) stillHere(p *v1alpha1.BootProfile, name string) (v1alpha1.ArtifactStatus, bool) {
	if p.Status.ObservedGeneration != p.Generation {
		return v1alpha1.ArtifactStatus{}, false
	}
	for _, a := range p.Status.Artifacts {
		if a.Name == name && a.State == v1alpha1.ReasonAvailable {
			_, ok := r.Host.Content.Path(a.Digest)
			return a, ok
		}
	}
	return v1alpha1.ArtifactStatus{}, false
}

func (r *BootProfileReconciler) file(src v1alpha1.ArtifactSource) task.Func[artifact.Progress, content.Blob] {
	return func(ctx context.Context, report func(artifact.Progress)) (content.Blob, error) {
		return r.Host.Content.File(ctx, artifactSource(src, ""), report)
	}
}

// validate checks what the schema cannot: the templates.
func (r *BootProfileReconciler) validate(ctx context.Context, p *v1alpha1.BootProfile) (plan.Texts, error) {
	texts, err := resolveTexts(ctx, r.Client, p)
	if err != nil {
		return texts, err
	}
	for _, check := range []struct {
		field string
		err   error
	}{
		{"spec.userData", cloudinit.Validate(texts.UserData)},
		{"spec.networkConfig", cloudinit.ValidateNetworkConfig(texts.NetworkConfig)},
		{"spec.ipxeTemplate", validateScript(p.Spec.IPXETemplate)},
	} {
		if check.err != nil {
			return texts, &plan.InvalidError{Reason: v1alpha1.ReasonBadTemplate, Message: fmt.Sprintf("%s: %v", check.field, check.err)}
		}
	}
	return texts, nil
}

// validateScript checks an iPXE template as far as that goes without a machine.
func validateScript(text string) error {
	if text == "" {
		return nil
	}
	return ipxe.CheckScript(text)
}

// delete lets a profile go once no target needs it; until then its status says
// who does.
func (r *BootProfileReconciler) delete(ctx context.Context, p *v1alpha1.BootProfile) (gone bool, err error) {
	if !controllerutil.ContainsFinalizer(p, v1alpha1.Finalizer) {
		return true, nil // others hold it
	}
	targets := &v1alpha1.BareMetalTargetList{}
	if err := r.List(ctx, targets, client.InNamespace(p.Namespace)); err != nil {
		return false, fmt.Errorf("listing targets: %w", err)
	}
	var users []string
	for i := range targets.Items {
		if targets.Items[i].Spec.BootProfileRef.Name == p.Name {
			users = append(users, targets.Items[i].Name)
		}
	}
	if len(users) > 0 {
		slices.Sort(users)
		return false, r.bringUsed(ctx, p, "is deleted when no target uses it any more: "+strings.Join(users, ", "))
	}
	return true, removeFinalizer(ctx, r.Client, p)
}

// bringUsed keeps a profile at work that is deleted once it is not used any
// more.
func (r *BootProfileReconciler) bringUsed(ctx context.Context, p *v1alpha1.BootProfile, message string) error {
	before := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady).DeepCopy()
	_, err := r.bring(ctx, p)
	// What was said of Ready in between never was.
	if now := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady); now != nil && before != nil {
		*now = *before
	}
	set(&p.Status.Conditions, p.Generation, no(v1alpha1.ConditionReady, v1alpha1.ReasonInUse, message))
	return err
}

func profileOfTarget(_ context.Context, o client.Object) []reconcile.Request {
	t := o.(*v1alpha1.BareMetalTarget)
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: t.Namespace, Name: t.Spec.BootProfileRef.Name}}}
}

func (r *BootProfileReconciler) profilesOfSecret(ctx context.Context, o client.Object) []reconcile.Request {
	profiles := &v1alpha1.BootProfileList{}
	if err := r.List(ctx, profiles, client.InNamespace(o.GetNamespace())); err != nil {
		return nil
	}
	var out []reconcile.Request
	for i := range profiles.Items {
		if slices.Contains(secretsOf(&profiles.Items[i]), o.GetName()) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&profiles.Items[i])})
		}
	}
	return out
}

func secretsOf(p *v1alpha1.BootProfile) []string {
	var out []string
	for _, text := range []*v1alpha1.TextSource{p.Spec.UserData, p.Spec.NetworkConfig} {
		if text != nil && text.SecretRef != nil {
			out = append(out, text.SecretRef.Name)
		}
	}
	return out
}

// resolveTexts gets a profile's templates. A Secret that is missing is an
// *plan.InvalidError: it can come later, and the Secret's watch tells.
func resolveTexts(ctx context.Context, c client.Client, p *v1alpha1.BootProfile) (plan.Texts, error) {
	var texts plan.Texts
	for _, part := range []struct {
		field string
		from  *v1alpha1.TextSource
		to    *string
	}{
		{"spec.userData", p.Spec.UserData, &texts.UserData},
		{"spec.networkConfig", p.Spec.NetworkConfig, &texts.NetworkConfig},
	} {
		text, err := resolveText(ctx, c, p.Namespace, part.field, part.from)
		if err != nil {
			return texts, err
		}
		*part.to = text
	}
	return texts, nil
}

func resolveText(ctx context.Context, c client.Client, namespace, field string, from *v1alpha1.TextSource) (string, error) {
	if from == nil || from.SecretRef == nil {
		if from == nil {
			return "", nil
		}
		// The schema counts characters.
		if len(from.Inline) > agent.MaxTemplateBytes {
			return "", &plan.InvalidError{Reason: v1alpha1.ReasonTooLarge, Message: fmt.Sprintf(
				"%s.inline has %d bytes; at most %d can be served", field, len(from.Inline), agent.MaxTemplateBytes)}
		}
		return from.Inline, nil
	}
	secret := &corev1.Secret{}
	err := c.Get(ctx, types.NamespacedName{Namespace: namespace, Name: from.SecretRef.Name}, secret)
	if client.IgnoreNotFound(err) != nil {
		return "", fmt.Errorf("reading secret %s: %w", from.SecretRef.Name, err)
	}
	text, ok := secret.Data[from.SecretRef.Key]
	if len(text) > agent.MaxTemplateBytes {
		return "", &plan.InvalidError{Reason: v1alpha1.ReasonTooLarge, Message: fmt.Sprintf(
			"%s.secretRef: key %s of secret %s has %d bytes; at most %d can be served", field, from.SecretRef.Key, from.SecretRef.Name, len(text), agent.MaxTemplateBytes)}
	}
	if err != nil || !ok {
		return "", &plan.InvalidError{Reason: v1alpha1.ReasonReferenceNotFound, Message: fmt.Sprintf(
			"%s.secretRef: secret %s with key %s does not exist in namespace %s", field, from.SecretRef.Name, from.SecretRef.Key, namespace)}
	}
	return string(text), nil
}

// contentOf is what a ready profile's targets get; nil while it is not ready.
func contentOf(p *v1alpha1.BootProfile) *plan.Content {
	if p.Status.Digest == "" || p.Status.ObservedGeneration != p.Generation {
		return nil
	}
	c := &plan.Content{Digest: p.Status.Digest}
	for _, a := range p.Status.Artifacts {
		blob := agentBlob(a.Digest, a.SizeBytes)
		switch a.Name {
		case "kernel":
			c.Kernel = blob
		case "initrd":
			c.Initrd = blob
		case "overlay":
			c.Overlay = blob
		case "image":
			c.Image, c.ImagePin, c.DiskBytes = blob, a.Pin, a.DiskBytes
		}
	}
	return c
}

// profileDigest names what a profile comes to: what was declared and got. What
// is the manager's own doing is left out, so that another version of it is no
// change of every profile: the installer, and how an image is packed.
func profileDigest(p *v1alpha1.BootProfile, texts plan.Texts) string {
	var parts []string
	for _, a := range p.Status.Artifacts {
		switch a.Name {
		case "image":
			parts = append(parts, a.Name, a.Pin)
		case "kernel", "initrd":
			parts = append(parts, a.Name, a.Digest)
		}
	}
	return digestOf([]any{parts, texts, p.Spec.KernelArgs, p.Spec.IPXETemplate, p.Spec.Install, p.Spec.SSHUser})
}

func digestOf(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("marshalling %T: %v", v, err)) // API types always marshal
	}
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}
