// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// fieldManager is the owner of the fields applied here.
const fieldManager = "pxelab-lab"

// cluster is the cluster that holds the lab's objects.
type cluster struct {
	config    *rest.Config
	client    client.Client
	namespace string
}

// ownCluster reports whether to use the embedded control plane: always, unless
// the user's KUBECONFIG names another cluster.
func (l *lab) ownCluster() bool {
	named := os.Getenv("KUBECONFIG")
	if named == "" {
		return true
	}
	a, errA := filepath.Abs(named)
	b, errB := filepath.Abs(l.dirs.Kubeconfig())
	return errA == nil && errB == nil && a == b
}

// kubeconfig returns where the lab's kubeconfig is.
func (l *lab) kubeconfig() *clientcmd.ClientConfigLoadingRules {
	if l.ownCluster() {
		return l.ownKubeconfig()
	}
	return clientcmd.NewDefaultClientConfigLoadingRules()
}

// ownKubeconfig returns where the embedded control plane's kubeconfig is.
func (l *lab) ownKubeconfig() *clientcmd.ClientConfigLoadingRules {
	return &clientcmd.ClientConfigLoadingRules{ExplicitPath: l.dirs.Kubeconfig()}
}

// connect reads the kubeconfig and waits until the cluster is ready.
func (l *lab) connect(
	ctx context.Context, rules *clientcmd.ClientConfigLoadingRules, server *record, timeout time.Duration,
) (*cluster, error) {
	c := &cluster{}
	err := l.until(ctx, controlPlane, server, timeout, func(ctx context.Context) (bool, error) {
		loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil)
		var err error
		if c.config, err = loader.ClientConfig(); err != nil {
			return false, err
		}
		if c.namespace, _, err = loader.Namespace(); err != nil {
			return false, err
		}
		return ready(ctx, c.config)
	})
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(apiextensions.AddToScheme(scheme), coordinationv1.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	c.config.QPS = -1 // the server limits its clients
	// The CRDs may not exist yet: the client maps kinds to resources on demand.
	c.client, err = client.New(c.config, client.Options{Scheme: scheme})
	return c, err
}

func ready(ctx context.Context, config *rest.Config) (bool, error) {
	limited := rest.CopyConfig(config)
	limited.Timeout = 5 * time.Second
	discoverer, err := discovery.NewDiscoveryClientForConfig(limited)
	if err != nil {
		return false, err
	}
	if err := discoverer.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error(); err != nil {
		return false, err
	}
	return true, nil
}

// parseObjects reads a file of one or more YAML documents.
func parseObjects(text []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := decoder.Decode(o); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, err
		}
		if len(o.Object) > 0 {
			objects = append(objects, o)
		}
	}
}

// applyCRDs applies the CRDs of this checkout and waits until they are
// established.
func (l *lab) applyCRDs(ctx context.Context, c *cluster) error {
	objects, err := readObjects(filepath.Join(l.root, "config", "crd", "bases"))
	if err != nil {
		return err
	}
	for _, o := range objects {
		err := c.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(o), client.FieldOwner(fieldManager), client.ForceOwnership)
		if err != nil {
			return fmt.Errorf("applying %s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	for _, o := range objects {
		err := l.until(ctx, "CRD "+o.GetName(), nil, time.Minute, func(ctx context.Context) (bool, error) {
			return established(ctx, c.client, o.GetName())
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func established(ctx context.Context, c client.Client, name string) (bool, error) {
	var crd apiextensions.CustomResourceDefinition
	if err := c.Get(ctx, client.ObjectKey{Name: name}, &crd); err != nil {
		return false, err
	}
	for _, condition := range crd.Status.Conditions {
		if condition.Type == apiextensions.Established && condition.Status == apiextensions.ConditionTrue {
			return true, nil
		}
	}
	return false, nil
}

// createSamples creates the objects that do not exist. Existing objects may have
// been changed by the user and are not modified.
func (l *lab) createSamples(ctx context.Context, c *cluster, objects []*unstructured.Unstructured) error {
	kinds, created := countKinds(objects), map[string]int{}
	for _, o := range objects {
		if o.GetNamespace() == "" {
			o.SetNamespace(c.namespace)
		}
		name := fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName())
		// Create modifies its argument, and the caller still needs the original.
		err := c.client.Create(ctx, o.DeepCopy(), client.FieldOwner(fieldManager))
		if err == nil {
			created[o.GetKind()]++
		}
		switch counted := kinds[o.GetKind()] > manyObjects; {
		case err != nil && !apierrors.IsAlreadyExists(err):
			return fmt.Errorf("creating %s: %w", name, err)
		case counted:
		case err == nil:
			l.out.line("created %s", name)
		default:
			l.out.line("%s exists; leaving it unchanged", name)
		}
	}
	l.printCreated(kinds, created)
	return nil
}
