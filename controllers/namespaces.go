// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// CacheNamespaces limits the manager's cache to namespaces; none means all.
func CacheNamespaces(namespaces []string) map[string]cache.Config {
	if len(namespaces) == 0 {
		return nil
	}
	limits := map[string]cache.Config{}
	for _, name := range namespaces {
		limits[name] = cache.Config{}
	}
	return limits
}

// ReaderIn returns a reader whose lists of all namespaces contain the objects of the given
// ones only, and need no permission in others. Without namespaces it returns r.
func ReaderIn(namespaces []string, r client.Reader) client.Reader {
	if len(namespaces) == 0 {
		return r
	}
	return &namespacedReader{Reader: r, namespaces: namespaces}
}

type namespacedReader struct {
	client.Reader
	namespaces []string
}

// List implements client.Reader. The list has no resource version.
func (r *namespacedReader) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	o := client.ListOptions{}
	if o.ApplyOptions(options); o.Namespace != "" {
		return r.Reader.List(ctx, list, options...)
	}
	var all []runtime.Object
	for _, namespace := range r.namespaces {
		part := list.DeepCopyObject().(client.ObjectList)
		if err := r.Reader.List(ctx, part, append(options[:len(options):len(options)], client.InNamespace(namespace))...); err != nil {
			return fmt.Errorf("namespace %s: %w", namespace, err)
		}
		items, err := meta.ExtractList(part)
		if err != nil {
			return err
		}
		all = append(all, items...)
	}
	return meta.SetList(list, all)
}
