// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/plan"
)

// Housekeeping configures how the host is kept free of what no object needs.
type Housekeeping struct {
	// Interval is the time between two passes; 0 disables all housekeeping. A change
	// of an object causes one earlier.
	Interval time.Duration
	// ArtifactGrace is how long an artifact is kept to which nothing refers; 0 is for
	// ever.
	ArtifactGrace time.Duration
	// ArtifactFloor is the free disk space in bytes below which such artifacts are
	// removed earlier; 0 is none.
	ArtifactFloor int64
	// OrphanGrace is how long a machine without an object is kept; 0 is for ever.
	OrphanGrace time.Duration
}

// housekeeper removes artifacts to which nothing refers, machines without an object, and
// old damaged records.
// It implements manager.Runnable; as the reconcilers do, it runs only in the manager
// that owns the cluster, after its caches are synced.
type housekeeper struct {
	client.Client
	// live reads from the API server, not from a cache.
	live    client.Reader
	cache   cache.Cache
	host    *Host
	server  *ProvisioningServerReconciler
	profile *BootProfileReconciler
	events  events.EventRecorder

	// orphans is the result of the last pass, by ID, and reported has what was last
	// reported of each: what holds it. Only Start's goroutine uses them.
	orphans  map[string]plan.Orphan
	reported map[string]string
	// damaged has the disks that were found damaged in the last pass.
	damaged map[string]bool
}

// longestDelay is how long a pass is delayed after a change, so that many changes cause
// one pass.
const longestDelay = 10 * time.Second

// Start runs a pass at intervals and after changes, until ctx ends.
func (h *housekeeper) Start(ctx context.Context) error {
	interval := h.host.Housekeeping.Interval
	if interval == 0 {
		return nil
	}
	log := ctrl.LoggerFrom(ctx).WithName("housekeeping")
	ctx = ctrl.LoggerInto(ctx, log)
	changed, err := h.watch(ctx)
	if err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(interval, longestDelay)):
		}
		if err := h.pruneArtifacts(ctx); err != nil && ctx.Err() == nil {
			log.Error(err, "Failed to remove unused artifacts; retrying", "interval", interval)
		}
		if err := h.removeOrphans(ctx); err != nil && ctx.Err() == nil {
			log.Error(err, "Failed to handle machines without an object; retrying", "interval", interval)
		}
		if err := h.removeSetAside(ctx); err != nil && ctx.Err() == nil {
			log.Error(err, "Failed to remove damaged records; retrying", "interval", interval)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(interval):
		}
	}
}

// watch returns a channel that receives after an object was deleted or its spec changed.
func (h *housekeeper) watch(ctx context.Context) (<-chan struct{}, error) {
	changed := make(chan struct{}, 1)
	wake := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	handler := toolscache.ResourceEventHandlerFuncs{
		DeleteFunc: func(any) { wake() },
		UpdateFunc: func(before, after any) {
			was, okWas := before.(client.Object)
			is, okIs := after.(client.Object)
			if okWas && okIs && was.GetGeneration() != is.GetGeneration() {
				wake()
			}
		},
	}
	for _, o := range []client.Object{&v1alpha1.ProvisioningServer{}, &v1alpha1.BootProfile{}, &v1alpha1.BareMetalTarget{}} {
		informer, err := h.cache.GetInformer(ctx, o)
		if err == nil {
			_, err = informer.AddEventHandler(handler)
		}
		if err != nil {
			return nil, fmt.Errorf("watching objects for housekeeping: %w", err)
		}
	}
	return changed, nil
}

// reconciled reports whether all profiles and servers have been reconciled since the
// manager started, so that their status is what this program computes.
func (h *housekeeper) reconciled(profiles []v1alpha1.BootProfile, servers []v1alpha1.ProvisioningServer) bool {
	for i := range profiles {
		if !h.profile.external.reconciledOnce(profiles[i].UID) {
			return false
		}
	}
	for i := range servers {
		if !h.server.external.reconciledOnce(servers[i].UID) {
			return false
		}
	}
	return true
}

// machineOwners are the UIDs of all servers and targets that a reader returns.
func machineOwners(ctx context.Context, r client.Reader) (map[string]bool, error) {
	servers, targets := &v1alpha1.ProvisioningServerList{}, &v1alpha1.BareMetalTargetList{}
	uids := map[string]bool{}
	add := func(uid types.UID) { uids[string(uid)] = true }
	if err := r.List(ctx, servers); err != nil {
		return nil, fmt.Errorf("listing servers: %w", err)
	}
	for i := range servers.Items {
		add(servers.Items[i].UID)
	}
	if err := r.List(ctx, targets); err != nil {
		return nil, fmt.Errorf("listing targets: %w", err)
	}
	for i := range targets.Items {
		add(targets.Items[i].UID)
	}
	return uids, nil
}
