// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// Fields by which the cache is indexed: what refers to an object is found without
// reading the other objects of its namespace.
const (
	fieldServer  = "spec.provisioningServerRef.name"
	fieldProfile = "spec.bootProfileRef.name"
	fieldSecrets = "spec.secretRefs"
	// fieldAddress has the server and the declared address of a target.
	fieldAddress = "spec.machine.nics.addresses"
)

// CacheByObject limits the manager's cache to the objects that the reconcilers read: of
// the Secrets those with the label v1alpha1.SecretLabel.
func CacheByObject() map[client.Object]cache.ByObject {
	marked, err := labels.NewRequirement(v1alpha1.SecretLabel, selection.Exists, nil)
	if err != nil {
		panic("the label of Secrets is invalid: " + err.Error())
	}
	return map[client.Object]cache.ByObject{&corev1.Secret{}: {Label: labels.NewSelector().Add(*marked)}}
}

func indexFields(ctx context.Context, indexer client.FieldIndexer) error {
	return errors.Join(
		indexer.IndexField(ctx, &v1alpha1.BareMetalTarget{}, fieldServer, func(o client.Object) []string {
			return []string{o.(*v1alpha1.BareMetalTarget).Spec.ProvisioningServerRef.Name}
		}),
		indexer.IndexField(ctx, &v1alpha1.BareMetalTarget{}, fieldProfile, func(o client.Object) []string {
			return []string{o.(*v1alpha1.BareMetalTarget).Spec.BootProfileRef.Name}
		}),
		indexer.IndexField(ctx, &v1alpha1.BareMetalTarget{}, fieldAddress, func(o client.Object) []string {
			return declaredAddresses(o.(*v1alpha1.BareMetalTarget))
		}),
		indexer.IndexField(ctx, &v1alpha1.BootProfile{}, fieldSecrets, func(o client.Object) []string {
			return secretsOf(o.(*v1alpha1.BootProfile))
		}),
	)
}

// targetsWith returns the targets of a namespace whose indexed field has a value. They
// share the cache's memory and must not be modified.
func targetsWith(ctx context.Context, c client.Reader, field string, o types.NamespacedName) ([]v1alpha1.BareMetalTarget, error) {
	list := &v1alpha1.BareMetalTargetList{}
	err := c.List(ctx, list, client.InNamespace(o.Namespace), client.MatchingFields{field: o.Name}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("listing targets by %s: %w", field, err)
	}
	return list.Items, nil
}

// requestsFor returns one request per name, whatever the number of objects that led to it.
func requestsFor(namespace string, names map[string]bool) []reconcile.Request {
	var out []reconcile.Request
	for name := range names {
		out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}})
	}
	return out
}
