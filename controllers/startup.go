// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"sync"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/plan"
)

// startup replaces the statuses that an earlier manager wrote of machines that are off, or
// were started since, before the reconcilers have reached all objects. It writes nothing
// else, and delays no reconciliation: an object that was reconciled meanwhile is left
// alone. It implements manager.Runnable.
type startup struct {
	client.Client
	host           *Host
	server, target *eventSource
}

// startupWriters is how many statuses are written at a time.
const startupWriters = 8

// Start runs the pass once. Errors are logged: each object's reconciliation replaces its
// status as well.
func (s *startup) Start(ctx context.Context) error {
	log := ctrl.LoggerFrom(ctx).WithName("startup")
	stale, err := s.stale(ctx)
	if err != nil {
		if ctx.Err() == nil {
			log.Error(err, "Failed to find the statuses of an earlier manager")
		}
		return nil
	}
	if len(stale) == 0 {
		return nil
	}
	written, err := s.write(ctx, stale)
	log.Info("Replaced statuses of an earlier manager", "stale", len(stale), "written", written)
	if err != nil && ctx.Err() == nil {
		log.Error(err, "Failed to replace statuses of an earlier manager")
	}
	return nil
}

// staleObject is an object whose status is replaced.
type staleObject struct {
	object, base client.Object
	source       *eventSource
}

// stale returns the objects whose status is stale, with the one that replaces it. Servers
// are first, because the targets depend on them.
func (s *startup) stale(ctx context.Context) ([]staleObject, error) {
	states, err := s.host.Machines.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing the machines: %w", err)
	}
	stateOf := machine.ByID(states)
	servers, targets := &v1alpha1.ProvisioningServerList{}, &v1alpha1.BareMetalTargetList{}
	err = errors.Join(s.List(ctx, servers, client.UnsafeDisableDeepCopy), s.List(ctx, targets, client.UnsafeDisableDeepCopy))
	if err != nil {
		return nil, fmt.Errorf("listing servers and targets: %w", err)
	}
	now := s.host.Now()
	var out []staleObject
	for i := range servers.Items {
		base := &servers.Items[i]
		if m := stateOf(string(base.UID)); plan.IsServerStale(&base.Status, m) {
			o := base.DeepCopy()
			o.Status = plan.UnobservedServer(o.Status, m, now)
			out = append(out, staleObject{o, base, s.server})
		}
	}
	for i := range targets.Items {
		base := &targets.Items[i]
		if m := stateOf(string(base.UID)); plan.IsTargetStale(&base.Status, m) {
			o := base.DeepCopy()
			o.Status = plan.UnobservedTarget(o.Status, m, now)
			out = append(out, staleObject{o, base, s.target})
		}
	}
	return out, nil
}

// write writes the statuses, and returns how many were written.
func (s *startup) write(ctx context.Context, stale []staleObject) (written int, err error) {
	var (
		mu      sync.Mutex
		errs    []error
		writers sync.WaitGroup
	)
	slots := make(chan struct{}, startupWriters)
	for _, o := range stale {
		slots <- struct{}{}
		writers.Go(func() {
			defer func() { <-slots }()
			if o.source.reconciledOnce(o.base.GetUID()) {
				return
			}
			done, err := patchStatus(ctx, s, o.object, o.base)
			mu.Lock()
			defer mu.Unlock()
			if done {
				written++
			}
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	writers.Wait()
	if len(errs) > 0 {
		return written, fmt.Errorf("%d of %d statuses, the first: %w", len(errs), len(stale), errs[0])
	}
	return written, nil
}

// unobserved returns the objects in a manager's cache that its reconcilers have not
// observed.
func (s *Set) unobserved(ctx context.Context, c client.Reader) ([]access.Object, error) {
	servers, profiles, targets := &v1alpha1.ProvisioningServerList{}, &v1alpha1.BootProfileList{}, &v1alpha1.BareMetalTargetList{}
	for _, list := range []client.ObjectList{servers, profiles, targets} {
		if err := c.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return nil, fmt.Errorf("listing the objects: %w", err)
		}
	}
	var out []access.Object
	add := func(kind string, source *eventSource, o client.Object) {
		if !source.observedOnce(o.GetUID()) {
			out = append(out, access.Object{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()})
		}
	}
	for i := range servers.Items {
		add(plan.KindServer, s.server.external, &servers.Items[i])
	}
	for i := range profiles.Items {
		add(plan.KindProfile, s.profile.external, &profiles.Items[i])
	}
	for i := range targets.Items {
		add(plan.KindTarget, s.target.external, &targets.Items[i])
	}
	return out, nil
}
