// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/plan"
)

func secretsOf(p *v1alpha1.BootProfile) []string {
	var out []string
	for _, text := range []*v1alpha1.TextSource{p.Spec.UserData, p.Spec.NetworkConfig} {
		if text != nil && text.SecretRef != nil {
			out = append(out, text.SecretRef.Name)
		}
	}
	return out
}

// resolveTemplates returns a profile's templates. A Secret that is missing, too large or
// not UTF-8 is a *plan.InvalidError: the watch of Secrets reconciles the profile when
// it changes.
func resolveTemplates(ctx context.Context, c client.Client, p *v1alpha1.BootProfile) (plan.Templates, error) {
	var templates plan.Templates
	for _, part := range []struct {
		field string
		from  *v1alpha1.TextSource
		to    *string
	}{
		{"spec.userData", p.Spec.UserData, &templates.UserData},
		{"spec.networkConfig", p.Spec.NetworkConfig, &templates.NetworkConfig},
	} {
		text, err := resolveTemplate(ctx, c, p.Namespace, part.field, part.from)
		if err != nil {
			return templates, err
		}
		*part.to = text
	}
	return templates, nil
}

func resolveTemplate(ctx context.Context, c client.Client, namespace, field string, from *v1alpha1.TextSource) (string, error) {
	if from == nil || from.SecretRef == nil {
		if from == nil {
			return "", nil
		}
		// The schema counts characters.
		if len(from.Inline) > netbootapi.MaxTextBytes {
			return "", &plan.InvalidError{Reason: v1alpha1.ReasonTooLarge, Message: fmt.Sprintf(
				"%s.inline has %d bytes; at most %d can be served", field, len(from.Inline), netbootapi.MaxTextBytes)}
		}
		return from.Inline, nil
	}
	secret := &corev1.Secret{}
	err := c.Get(ctx, types.NamespacedName{Namespace: namespace, Name: from.SecretRef.Name}, secret)
	if client.IgnoreNotFound(err) != nil {
		return "", fmt.Errorf("reading secret %s: %w", from.SecretRef.Name, err)
	}
	text, ok := secret.Data[from.SecretRef.Key]
	if label := secret.Labels[v1alpha1.SecretLabel]; err != nil || label != v1alpha1.SecretTemplate {
		return "", &plan.InvalidError{Reason: v1alpha1.ReasonReferenceNotFound, Message: fmt.Sprintf(
			"%s.secretRef: there is no secret %s with the label %s=%s in namespace %s",
			field, from.SecretRef.Name, v1alpha1.SecretLabel, v1alpha1.SecretTemplate, namespace)}
	}
	if owner := metav1.GetControllerOf(secret); owner != nil && strings.HasPrefix(owner.APIVersion, v1alpha1.GroupVersion.Group+"/") {
		// Whatever its label: with its keys, a machine could pass for netbootd or the user.
		return "", &plan.InvalidError{Reason: v1alpha1.ReasonInvalid, Message: fmt.Sprintf(
			"%s.secretRef: secret %s contains the credentials of %s %s, which are never served; refer to another secret",
			field, from.SecretRef.Name, owner.Kind, owner.Name)}
	}
	if !ok {
		return "", &plan.InvalidError{Reason: v1alpha1.ReasonReferenceNotFound, Message: fmt.Sprintf(
			"%s.secretRef: secret %s in namespace %s has no key %s", field, from.SecretRef.Name, namespace, from.SecretRef.Key)}
	}
	if len(text) > netbootapi.MaxTextBytes {
		return "", &plan.InvalidError{Reason: v1alpha1.ReasonTooLarge, Message: fmt.Sprintf(
			"%s.secretRef: key %s of secret %s has %d bytes; at most %d can be served",
			field, from.SecretRef.Key, from.SecretRef.Name, len(text), netbootapi.MaxTextBytes)}
	}
	source := fmt.Sprintf("%s.secretRef: key %s of secret %s", field, from.SecretRef.Key, from.SecretRef.Name)
	if err := plan.CheckText(source, text); err != nil {
		return "", err
	}
	return string(text), nil
}
