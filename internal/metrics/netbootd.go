// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

const (
	// netbootdFresh is how long a netbootd is not asked again, netbootdPatience how long a
	// scrape waits for all of them, netbootdLimit when a request is cancelled, and
	// netbootdKeep how long the last counters of one that does not answer are shown.
	netbootdFresh    = 5 * time.Second
	netbootdPatience = 2 * time.Second
	netbootdLimit    = 10 * time.Second
	netbootdKeep     = 5 * time.Minute
	// maxSeries bounds the series of one server: a netbootd that guests have taken over
	// must not fill the memory of Prometheus with new names.
	maxSeries = 512
)

// netbootd is what is known of one netbootd. It is safe for concurrent use.
type netbootd struct {
	counters *cached[netbootapi.Metrics]

	mu     sync.Mutex
	series map[string]struct{}
}

// admit reports whether a series is shown: one that was shown before, or one of the first
// maxSeries.
func (n *netbootd) admit(name ...string) bool {
	key := strings.Join(name, "\x00")
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, known := n.series[key]; known {
		return true
	}
	if len(n.series) >= maxSeries {
		return false
	}
	n.series[key] = struct{}{}
	return true
}

// netbootdsOf returns those of the servers, and forgets those of servers that are gone.
func (c *Collector) netbootdsOf(servers []v1alpha1.ProvisioningServer) []*netbootd {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := map[types.UID]*netbootd{}
	all := make([]*netbootd, len(servers))
	for i := range servers {
		uid := servers[i].UID
		n := c.netbootds[uid]
		if n == nil {
			n = &netbootd{series: map[string]struct{}{}, counters: &cached[netbootapi.Metrics]{
				fetch: func(ctx context.Context) (netbootapi.Metrics, error) {
					return c.sources.Netbootd.Metrics(ctx, string(uid))
				},
				fresh: netbootdFresh, patience: netbootdPatience, limit: netbootdLimit, keep: netbootdKeep,
			}}
		}
		found[uid] = n
		all[i] = n
	}
	c.netbootds = found
	return all
}

// collectNetbootds asks all netbootds at the same time.
func (c *Collector) collectNetbootds(ch chan<- prometheus.Metric, servers []v1alpha1.ProvisioningServer) {
	var running sync.WaitGroup
	for i, n := range c.netbootdsOf(servers) {
		running.Go(func() {
			m, known, current := n.counters.get()
			namespace, name := servers[i].Namespace, servers[i].Name
			up := 0.0
			if current {
				up = 1
			}
			netbootdUp.emit(ch, up, namespace, name)
			if known {
				n.emit(ch, &m, namespace, name)
			}
		})
	}
	running.Wait()
}

// emit sends the counters of the netbootd of a server.
func (n *netbootd) emit(ch chan<- prometheus.Metric, m *netbootapi.Metrics, namespace, name string) {
	netbootdStart.emit(ch, float64(m.StartedAt.UnixMilli())/1000, namespace, name)
	for _, size := range []struct {
		family *Family
		value  int64
	}{
		{&netbootdLeases, m.Leases},
		{&netbootdMachines, m.Machines},
		{&netbootdFiles, m.Blobs},
		{&netbootdBytes, m.BlobBytes},
		{&netbootdFree, m.FreeBytes},
	} {
		size.family.emit(ch, float64(size.value), namespace, name)
	}
	requests := map[[3]string]int64{}
	for _, r := range m.Requests {
		requests[[3]string{r.Service, r.Kind, r.Result}] += r.Count
	}
	for key, count := range requests {
		n.count(ch, &netbootdRequests, count, namespace, name, key[0], key[1], key[2])
	}
	for _, counters := range []struct {
		family *Family
		values map[string]int64
		labels []string
	}{
		{&netbootdRefused, m.Refused, nil},
		{&netbootdSent, m.SentBytes, nil},
		{&netbootdRenderings, m.Renderings, []string{"OK"}},
		{&netbootdRenderings, m.FailedRenderings, []string{"Failed"}},
	} {
		for kind, count := range counters.values {
			n.count(ch, counters.family, count, append([]string{namespace, name, kind}, counters.labels...)...)
		}
	}
}

// count sends a counter if its series is admitted.
func (n *netbootd) count(ch chan<- prometheus.Metric, f *Family, count int64, labels ...string) {
	if n.admit(append([]string{f.Name}, labels...)...) {
		f.emit(ch, float64(count), labels...)
	}
}
