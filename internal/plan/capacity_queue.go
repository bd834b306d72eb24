// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// Queue returns the demands that wait, in the order in which they are admitted if
// nothing but the order decides.
func (c *Capacity) Queue() []Demand {
	turns := map[*tenant]int64{}
	lists := map[*tenant][2][]Demand{}
	for _, t := range c.tenants {
		targets := slices.Concat(t.lists[classPowerOn], t.lists[classInstall], t.lists[classReinstall])
		slices.SortFunc(targets, Demand.compare)
		turns[t] = t.turn
		lists[t] = [2][]Demand{t.lists[classServer], targets}
	}
	var queue []Demand
	for clock, kind := c.clock, 0; kind < 2; {
		var next *tenant
		for t, l := range lists {
			if len(l[kind]) > 0 && (next == nil || turns[t] < turns[next]) {
				next = t
			}
		}
		if next == nil {
			kind++
			continue
		}
		l := lists[next]
		queue = append(queue, l[kind][0])
		l[kind] = l[kind][1:]
		lists[next] = l
		clock++
		turns[next] = clock
	}
	return queue
}

// Waits reports whether a machine waits.
func (c *Capacity) Waits(uid string) bool {
	_, waits := c.waiting[uid]
	return waits
}

// Wait returns why a machine waits, with the figures of now; ok is false if it does not
// wait.
func (c *Capacity) Wait(uid string) (why Blocker, ok bool) {
	q, ok := c.waiting[uid]
	if !ok {
		return Blocker{}, false
	}
	t, need, l := c.tenants[q.Namespace], c.need(q.Demand), c.limits
	host, own := c.room(), c.tenantRoom(t)
	then := "it is started when other machines stop"
	if !c.fitsBesideServers(t, q.Demand) {
		then = "it does not fit beside the servers that run, and no other machine waits for it"
	}
	switch {
	case need.Targets > max(0, own.Targets):
		return namespaceLimit(t, "%d of its targets were powered on, and --namespace-max-targets is %d", t.used.Targets, l.NamespaceTargets), true
	case need.Memory > max(0, own.Memory):
		return namespaceLimit(t, "%s of %s of memory (--namespace-max-memory) were free, and the machine needs %s",
			Bytes(own.Memory), Bytes(l.NamespaceMemory), Bytes(need.Memory)), true
	case need.Installations > max(0, own.Installations):
		return namespaceLimit(t, "%d of its targets were being installed, and --namespace-max-installations is %d",
			t.used.Installations, l.NamespaceInstallations), true
	case need.Memory > max(0, host.Memory):
		return hostFull(need, host, l, then), true
	case need.Installations > max(0, host.Installations):
		return installationsLimit(c.total.Installations, l, "it is installed when another one ends"), true
	case need.Memory > 0 && l.Memory > 0:
		return hostFull(need, host, l, "machines that have waited longer are started first"), true
	case need.Installations > 0 && l.Installations > 0:
		return installationsLimit(c.total.Installations, l, "targets that have waited longer are installed first"), true
	default:
		return namespaceLimit(t, "others had waited longer"), true
	}
}

func hostFull(need, host Use, l Limits, then string) Blocker {
	return Blocker{Reason: v1alpha1.ReasonHostFull, Message: fmt.Sprintf(
		"the machine needs %s of the host's memory; when it started to wait, %s of %s (--memory-budget) were free; %s",
		Bytes(need.Memory), Bytes(host.Memory), Bytes(l.Memory), then)}
}

func installationsLimit(running int, l Limits, then string) Blocker {
	return Blocker{Reason: v1alpha1.ReasonInstallationsLimit, Message: fmt.Sprintf(
		"when it started to wait, %d targets were being installed, and --max-installations is %d; %s", running, l.Installations, then)}
}

func namespaceLimit(t *tenant, format string, args ...any) Blocker {
	return Blocker{Reason: v1alpha1.ReasonNamespaceLimit, Message: fmt.Sprintf("the machine waits for others of namespace %s: when it started to wait, ", t.name) +
		fmt.Sprintf(format, args...)}
}

// Bytes returns a human-readable size; a negative one is 0.
func Bytes(n int64) string { return resource.NewQuantity(max(0, n), resource.BinarySI).String() }
