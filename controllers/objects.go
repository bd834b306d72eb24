// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/agent"
)

// ensureFinalizer puts our finalizer on an object before anything is made for
// it outside of the API.
func ensureFinalizer(ctx context.Context, c client.Client, o client.Object) error {
	if controllerutil.ContainsFinalizer(o, v1alpha1.Finalizer) {
		return nil
	}
	base := o.DeepCopyObject().(client.Object)
	controllerutil.AddFinalizer(o, v1alpha1.Finalizer)
	if err := c.Patch(ctx, o, latest(base)); err != nil {
		return fmt.Errorf("adding the finalizer: %w", err)
	}
	return nil
}

// removeFinalizer lets an object go.
func removeFinalizer(ctx context.Context, c client.Client, o client.Object) error {
	base := o.DeepCopyObject().(client.Object)
	if !controllerutil.RemoveFinalizer(o, v1alpha1.Finalizer) {
		return nil
	}
	if err := c.Patch(ctx, o, latest(base)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("removing the finalizer: %w", err)
	}
	return nil
}

// latest is a patch that the API server takes only if base is the object's
// latest version: lists in it replace what others may have written.
func latest(base client.Object) client.Patch {
	return client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
}

// staleRetry is when to look again at an object whose latest version the cache
// did not have yet.
const staleRetry = 200 * time.Millisecond

// patchStatus writes the status of o, if it differs from base's. done is
// false when base was not the latest version: a phase's beginning would be lost
// by writing what was computed from it, so the caller comes again in
// staleRetry.
func patchStatus(ctx context.Context, c client.Client, o, base client.Object, before, after any) (changed, done bool, err error) {
	if equality.Semantic.DeepEqual(before, after) {
		return false, true, nil
	}
	switch err := c.Status().Patch(ctx, o, latest(base)); {
	case err == nil:
		return true, true, nil
	case apierrors.IsNotFound(err):
		return false, true, nil
	case apierrors.IsConflict(err):
		return false, false, nil
	default:
		return false, true, fmt.Errorf("writing the status: %w", err)
	}
}

// maxNote is what the API server takes as an Event's note, less a little.
const maxNote = 1000

// tell makes an Event about o.
func tell(recorder events.EventRecorder, o client.Object, kind, reason, action, note string) {
	recorder.Eventf(o, nil, kind, reason, action, "%s", clip(note, maxNote))
}

// clip cuts text to at most n bytes and makes it valid UTF-8: what guests and
// programs say need not be, and would read back differently than written.
func clip(text string, n int) string {
	if len(text) > n {
		text = strings.ToValidUTF8(text[:n-len("…")], "") + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// announceReady tells of the change when Ready turned.
func announceReady(recorder events.EventRecorder, o client.Object, before, after []metav1.Condition) {
	was, is := meta.FindStatusCondition(before, v1alpha1.ConditionReady), meta.FindStatusCondition(after, v1alpha1.ConditionReady)
	if is == nil || (was != nil && was.Status == is.Status) || (was == nil && is.Status != metav1.ConditionTrue) {
		return
	}
	kind := corev1.EventTypeNormal
	if is.Status != metav1.ConditionTrue {
		kind = corev1.EventTypeWarning
	}
	tell(recorder, o, kind, is.Reason, "Reconcile", is.Message)
}

// taskKey names background work of an object; owner is its reverse.
func taskKey(uid types.UID, name string) string { return string(uid) + "/" + name }

func owner(key string) string {
	uid, _, _ := strings.Cut(key, "/")
	return uid
}

// sooner is the earlier of two delays, where 0 is never.
func sooner(a, b time.Duration) time.Duration {
	b = max(b, time.Second)
	if a == 0 {
		return b
	}
	return min(a, b)
}

func agentBlob(digest string, size int64) agent.Blob { return agent.Blob{Digest: digest, Size: size} }
