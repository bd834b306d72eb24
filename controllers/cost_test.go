// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// cost is what the targets of a lab have cost until they were Ready, per target.
type cost struct {
	// looks is the number of times a machine was looked at; every reconciliation of a
	// target or a server has one.
	looks float64
	// writes is the number of writes of statuses, puts that of entries in netbootd.
	writes, puts float64
}

func (c cost) String() string {
	return fmt.Sprintf("%.2f looks at machines, %.2f writes of statuses, %.2f entries put per target", c.looks, c.writes, c.puts)
}

// fullLoad reports whether tests with many objects have as many as the environment
// variable LOAD asks for.
func fullLoad() bool { return os.Getenv("LOAD") == "full" }

// What a target costs does not grow with the number of targets: no object is reconciled
// because of all others.
func TestCostPerTargetIsConstant(t *testing.T) {
	numbers := []int{10, 20}
	if fullLoad() {
		numbers = []int{10, 20, 40, 80, 500}
	}
	var costs []cost
	for _, n := range numbers {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			c := costOf(t, n)
			t.Logf("%d targets: %s", n, c)
			costs = append(costs, c)
		})
	}
	if len(costs) < len(numbers) {
		t.FailNow()
	}
	compareCosts(t, numbers, costs)
}

// compareCosts checks that what one target costs does not depend on the number of targets.
func compareCosts(t *testing.T, numbers []int, costs []cost) {
	t.Helper()
	// A reconciliation more or less depends on which events the queue merges.
	const tolerance, merged = 1.2, 0.5
	for i, c := range costs[1:] {
		for what, pair := range map[string][2]float64{
			"looks":  {costs[0].looks, c.looks},
			"writes": {costs[0].writes, c.writes},
			"puts":   {costs[0].puts, c.puts},
		} {
			if most := pair[0]*tolerance + merged; pair[1] > most {
				t.Errorf("%d targets: got %.2f %s per target, want at most %.2f, as with %d", numbers[i+1], pair[1], what, most, numbers[0])
			}
		}
	}
}

func costOf(t *testing.T, targets int) cost {
	l, writes := newCountedLab(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit+time.Duration(targets)*2*time.Second)
	defer cancel()
	l.ctx = ctx
	large := newServer("large")
	large.Spec.Network.CIDR = "10.99.0.0/20" // beside that of the lab
	l.create(large)
	l.waitReadyServer("large")
	guests := l.runGuests("large", l.machines.Fake)
	defer guests()
	before := cost{float64(l.machines.looks()), float64(writes.all()), 0}
	for i := range targets {
		target := newTarget(fmt.Sprintf("target-%d", i))
		target.Spec.ProvisioningServerRef.Name = "large"
		l.create(target)
	}
	l.waitAll(targets, v1alpha1.TargetReady)
	after := cost{float64(l.machines.looks()), float64(writes.all()), 0}
	list := &v1alpha1.BareMetalTargetList{}
	l.must(l.client.List(l.ctx, list, client.InNamespace(l.ns)))
	for i := range list.Items {
		after.puts += float64(l.netbootd("large").MachinePuts(string(list.Items[i].UID)))
	}
	n := float64(targets)
	return cost{(after.looks - before.looks) / n, (after.writes - before.writes) / n, after.puts / n}
}
