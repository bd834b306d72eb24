// SPDX-License-Identifier: Apache-2.0

// Package labdown records in the API that a lab was stopped. Without that, the objects
// would report machines that run until the next manager has observed them.
package labdown

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/plan"
)

// writers is how many statuses are written at a time.
const writers = 8

// Options configure Record.
type Options struct {
	// Reader must not read from a cache.
	Reader client.Reader
	Writer client.StatusClient
	// Machines are the states of all machines of the lab, after they were stopped. An
	// object without one has none that runs.
	Machines []machine.State
	// Now is the time of the record.
	Now time.Time
}

// Result is what Record did.
type Result struct {
	// Stopped is the number of objects that now report phase Stopped.
	Stopped int
	// Running names the objects that were left alone because their machine still runs.
	Running []string
}

// Record sets phase Stopped and reason LabDown on every server and target of the cluster
// whose machine is off. The caller must own the cluster and its data directory: no manager
// may run. It is idempotent, and continues after an error.
func Record(ctx context.Context, o Options) (Result, error) {
	changes, result, err := plans(ctx, o)
	if err != nil {
		return result, err
	}
	var (
		mu    sync.Mutex
		errs  []error
		tasks sync.WaitGroup
	)
	slots := make(chan struct{}, writers)
	for _, c := range changes {
		slots <- struct{}{}
		tasks.Go(func() {
			defer func() { <-slots }()
			err := c.write(ctx, o.Writer)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			result.Stopped++
		})
	}
	tasks.Wait()
	if len(errs) > 0 {
		return result, fmt.Errorf("writing %d of %d statuses failed, the first with: %w", len(errs), len(changes), errs[0])
	}
	return result, nil
}

// change is an object with another status.
type change struct {
	kind         string
	object, base client.Object
}

// write writes the status, unless the object has it or is gone.
func (c change) write(ctx context.Context, w client.StatusClient) error {
	if equality.Semantic.DeepEqual(c.object, c.base) {
		return nil
	}
	if err := w.Status().Patch(ctx, c.object, client.MergeFrom(c.base)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("%s: %w", nameOf(c.kind, c.base), err)
	}
	return nil
}

// plans returns the changes to make, and what is left alone.
func plans(ctx context.Context, o Options) ([]change, Result, error) {
	servers, targets := &v1alpha1.ProvisioningServerList{}, &v1alpha1.BareMetalTargetList{}
	if err := errors.Join(o.Reader.List(ctx, servers), o.Reader.List(ctx, targets)); err != nil {
		if meta.IsNoMatchError(err) {
			return nil, Result{}, nil // no CRDs, so no objects
		}
		return nil, Result{}, fmt.Errorf("listing servers and targets: %w", err)
	}
	var changes []change
	var result Result
	states := machine.ByID(o.Machines)
	for i := range servers.Items {
		s := &servers.Items[i]
		m := states(string(s.UID))
		if m.Phase.Alive() {
			result.Running = append(result.Running, nameOf(plan.KindServer, s))
			continue
		}
		base := s.DeepCopy()
		s.Status = plan.LabDownServer(s.Status, m, o.Now)
		changes = append(changes, change{plan.KindServer, s, base})
	}
	for i := range targets.Items {
		t := &targets.Items[i]
		m := states(string(t.UID))
		if m.Phase.Alive() {
			result.Running = append(result.Running, nameOf(plan.KindTarget, t))
			continue
		}
		base := t.DeepCopy()
		t.Status = plan.LabDownTarget(t.Status, m, o.Now)
		changes = append(changes, change{plan.KindTarget, t, base})
	}
	return changes, result, nil
}

func nameOf(kind string, o client.Object) string {
	return kind + " " + types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}.String()
}
