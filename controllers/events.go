// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// maxNote bounds an Event's note; the API server accepts 1024 bytes.
const maxNote = 1000

// event is an Event without the object that it regards.
type event struct {
	Type   string
	Reason string
	Action string
	Note   string
}

// recordEvent emits an Event about o.
func recordEvent(recorder events.EventRecorder, o client.Object, e event) {
	recorder.Eventf(o, nil, e.Type, e.Reason, e.Action, "%s", clip(e.Note, maxNote))
}

// clip cuts text to at most n bytes and makes it valid UTF-8. Output of guests and
// programs may not be valid, and would then read back differently than written.
func clip(text string, n int) string {
	if len(text) > n {
		text = strings.ToValidUTF8(text[:n-len("…")], "") + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// recordReady emits an Event when the status of the condition Ready changed.
func recordReady(recorder events.EventRecorder, o client.Object, before, after []metav1.Condition) {
	was := meta.FindStatusCondition(before, v1alpha1.ConditionReady)
	is := meta.FindStatusCondition(after, v1alpha1.ConditionReady)
	if is == nil || (was != nil && was.Status == is.Status) || (was == nil && is.Status != metav1.ConditionTrue) {
		return
	}
	kind := corev1.EventTypeNormal
	if is.Status != metav1.ConditionTrue {
		kind = corev1.EventTypeWarning
	}
	recordEvent(recorder, o, event{kind, is.Reason, "Reconcile", is.Message})
}

// recordStall emits a Warning when the condition Progressing became False or changed
// its reason.
func recordStall(recorder events.EventRecorder, t, base *v1alpha1.BareMetalTarget) {
	is := meta.FindStatusCondition(t.Status.Conditions, v1alpha1.ConditionProgressing)
	was := meta.FindStatusCondition(base.Status.Conditions, v1alpha1.ConditionProgressing)
	if is == nil || is.Status != metav1.ConditionFalse {
		return
	}
	if was != nil && was.Status == is.Status && was.Reason == is.Reason {
		return
	}
	recordEvent(recorder, t, event{corev1.EventTypeWarning, is.Reason, "Reconcile", is.Message})
}
