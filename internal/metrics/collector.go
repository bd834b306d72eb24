// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/labnet"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// Sources are what a Collector reads. All are required, and used concurrently.
type Sources struct {
	// Objects reads from a cache.
	Objects client.Reader
	// Networks returns the counters of the lab networks, by the UID of their server.
	Networks interface {
		Traffic() map[string]labnet.Traffic
	}
	// Store is the artifact store.
	Store interface {
		Inventory() ([]artifact.Stored, error)
		FreeSpace() (int64, error)
	}
	// Netbootd fetches the counters of the netbootd of the server with a UID.
	Netbootd interface {
		Metrics(ctx context.Context, server string) (netbootapi.Metrics, error)
	}
	// Reconciles returns the age of the oldest reconciliation in progress, by kind.
	Reconciles interface {
		OldestReconciles() map[string]time.Duration
	}
}

const (
	// listLimit is how long a scrape waits for the cache, which is not synced yet.
	listLimit = 2 * time.Second
	// storeFresh is how long the store is not read again, storePatience how long a scrape
	// waits for it, and storeKeep how long its last state is shown while it cannot be read.
	storeFresh    = time.Minute
	storePatience = 2 * time.Second
	storeKeep     = 10 * time.Minute
)

// Collector reads the state of the manager at each scrape. It is a
// [prometheus.Collector]. A source that hangs or fails delays a scrape by seconds at most
// and never makes it fail.
type Collector struct {
	sources  Sources
	store    *cached[storeState]
	failures *prometheus.CounterVec

	mu        sync.Mutex
	netbootds map[types.UID]*netbootd
}

type storeState struct {
	bytes, free int64
	files       int
}

// NewCollector returns a Collector, which is not registered.
func NewCollector(s Sources) *Collector {
	c := &Collector{sources: s, failures: collectionFailures.counterVec(), netbootds: map[types.UID]*netbootd{}}
	c.store = &cached[storeState]{
		fetch: c.readStore, fresh: storeFresh, patience: storePatience, limit: storeFresh, keep: storeKeep,
	}
	for _, source := range []string{sourceObjects, sourceStore} {
		c.failures.WithLabelValues(source)
	}
	return c
}

// Sources in the metric of failures.
const (
	sourceObjects = "objects"
	sourceStore   = "store"
)

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range collected {
		ch <- f.desc
	}
}

// Collect implements [prometheus.Collector].
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	for kind, age := range c.sources.Reconciles.OldestReconciles() {
		reconcileOldest.emit(ch, age.Seconds(), kind)
	}
	var running sync.WaitGroup
	running.Go(func() { c.collectStore(ch) })
	if servers, targets, err := c.list(); err != nil {
		c.failures.WithLabelValues(sourceObjects).Inc()
	} else {
		running.Go(func() { c.collectNetbootds(ch, servers) })
		collectServers(ch, servers)
		collectTargets(ch, targets)
		c.collectNetworks(ch, servers)
	}
	running.Wait()
	c.failures.Collect(ch)
}

// list returns the servers and targets of the cache, which must not be modified.
func (c *Collector) list() ([]v1alpha1.ProvisioningServer, []v1alpha1.BareMetalTarget, error) {
	ctx, cancel := context.WithTimeout(context.Background(), listLimit)
	defer cancel()
	servers, targets := &v1alpha1.ProvisioningServerList{}, &v1alpha1.BareMetalTargetList{}
	err := errors.Join(
		c.sources.Objects.List(ctx, servers, client.UnsafeDisableDeepCopy),
		c.sources.Objects.List(ctx, targets, client.UnsafeDisableDeepCopy),
	)
	return servers.Items, targets.Items, err
}

func (c *Collector) readStore(context.Context) (storeState, error) {
	stored, err := c.sources.Store.Inventory()
	if err != nil {
		return storeState{}, err
	}
	free, err := c.sources.Store.FreeSpace()
	if err != nil {
		return storeState{}, err
	}
	s := storeState{files: len(stored), free: free}
	for _, content := range stored {
		s.bytes += content.Bytes
	}
	return s, nil
}

func (c *Collector) collectStore(ch chan<- prometheus.Metric) {
	s, known, current := c.store.get()
	if !current {
		c.failures.WithLabelValues(sourceStore).Inc()
	}
	if known {
		storeBytes.emit(ch, float64(s.bytes))
		storeFiles.emit(ch, float64(s.files))
		storeFree.emit(ch, float64(s.free))
	}
}

func (c *Collector) collectNetworks(ch chan<- prometheus.Metric, servers []v1alpha1.ProvisioningServer) {
	traffic := c.sources.Networks.Traffic()
	for i := range servers {
		s := &servers[i]
		counted, ok := traffic[string(s.UID)]
		if !ok {
			continue // not a user-space network, or nothing is attached yet
		}
		networkFrames.emit(ch, float64(counted.Frames), s.Namespace, s.Name)
		networkBytes.emit(ch, float64(counted.Bytes), s.Namespace, s.Name)
		for kind, n := range counted.Dropped {
			networkDropped.emit(ch, float64(n), s.Namespace, s.Name, kind)
		}
	}
}
