// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/kubernetes/pkg/controller/garbagecollector"
	"k8s.io/kubernetes/pkg/controller/namespace"
)

const (
	// gcSyncPeriod bounds the delay until a new kind is watched for owner
	// references. Upstream's 30 s is long for a user who has just applied the
	// CRDs, and a cached discovery request every few seconds is cheap.
	gcSyncPeriod     = 5 * time.Second
	gcWorkers        = 4
	namespaceWorkers = 2
	namespaceResync  = 5 * time.Minute
)

// controllers runs the garbage collector and the namespace controller.
type controllers struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// startControllers requires a ready API server. It does not wait for the caches:
// the controllers process early work once they are filled.
func startControllers(ctx context.Context, config *rest.Config) (*controllers, error) {
	ctx, cancel := context.WithCancel(ctx)
	c := &controllers{cancel: cancel}
	for name, start := range map[string]func(context.Context, *rest.Config) error{
		"garbage collector":    c.startGarbageCollector,
		"namespace controller": c.startNamespaceController,
	} {
		if err := start(ctx, rest.AddUserAgent(rest.CopyConfig(config), name)); err != nil {
			c.stop()
			return nil, fmt.Errorf("starting the %s: %w", name, err)
		}
	}
	return c, nil
}

// stop stops both controllers and waits for them. It is idempotent.
func (c *controllers) stop() {
	c.cancel()
	c.wg.Wait()
}

func (c *controllers) startGarbageCollector(ctx context.Context, config *rest.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	meta, err := metadata.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := metadataOnly{metadatainformer.NewSharedInformerFactory(meta, 0)}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery()))
	// The collector starts its informers itself; no others are shared with it.
	started := make(chan struct{})
	close(started)
	gc, err := garbagecollector.NewGarbageCollector(ctx, client, meta, mapper,
		garbagecollector.DefaultIgnoredResources(), factory, started)
	if err != nil {
		return err
	}
	c.wg.Go(func() { gc.Run(ctx, gcWorkers, time.Minute) })
	c.wg.Go(func() { gc.Sync(ctx, client.Discovery(), gcSyncPeriod) })
	return nil
}

func (c *controllers) startNamespaceController(ctx context.Context, config *rest.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	meta, err := metadata.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, namespaceResync)
	nc := namespace.NewNamespaceController(ctx, client, meta,
		withoutAggregated(client.Discovery().ServerPreferredNamespacedResources),
		factory.Core().V1().Namespaces(), namespaceResync, corev1.FinalizerKubernetes)
	factory.Start(ctx.Done())
	c.wg.Go(func() { nc.Run(ctx, namespaceWorkers) })
	return nil
}

// accessGroup is the group of the manager's aggregated API. It has no objects.
const accessGroup = "access.pxelab.io"

// withoutAggregated ignores that the manager's API is not available: a namespace must be
// deleted while the manager does not run. Other groups may have objects in it.
func withoutAggregated(discover discoverer) discoverer {
	return func() ([]*metav1.APIResourceList, error) {
		lists, err := discover()
		var failed *discovery.ErrGroupDiscoveryFailed
		if !errors.As(err, &failed) {
			return lists, err
		}
		for version := range failed.Groups {
			if version.Group != accessGroup {
				return lists, err
			}
		}
		return lists, nil
	}
}

type discoverer = func() ([]*metav1.APIResourceList, error)

// metadataOnly makes the garbage collector cache only the metadata of objects,
// also for built-in kinds.
type metadataOnly struct {
	metadata metadatainformer.SharedInformerFactory
}

func (m metadataOnly) ForResource(r schema.GroupVersionResource) (informers.GenericInformer, error) {
	return m.metadata.ForResource(r), nil
}

func (m metadataOnly) Start(stop <-chan struct{}) { m.metadata.Start(stop) }
