// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"github.com/pxelab/pxelab/internal/plan"
)

// Set is the three reconcilers of one manager.
type Set struct {
	host    *Host
	server  *ProvisioningServerReconciler
	profile *BootProfileReconciler
	target  *BareMetalTargetReconciler

	cache    cache.Cache
	watchdog *watchdog
	adoption adoption
}

// Setup registers the three reconcilers and the housekeeping with a manager. The caller must call Close
// after the manager has stopped.
func Setup(mgr ctrl.Manager, host *Host) (*Set, error) {
	if host.Capacity == nil {
		host.Capacity = NewCapacity(plan.Limits{})
	}
	slots := newWorkSlots()
	dog := newWatchdog(reconcileTimeout)
	s := &Set{
		host: host, cache: mgr.GetCache(), watchdog: dog,
		server: &ProvisioningServerReconciler{
			Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Host: host, Events: mgr.GetEventRecorder("provisioningserver"), slots: slots,
			watchdog: dog,
		},
		profile: &BootProfileReconciler{
			Client: mgr.GetClient(), Host: host, Events: mgr.GetEventRecorder("bootprofile"), slots: slots, watchdog: dog,
		},
		target: &BareMetalTargetReconciler{
			Client: mgr.GetClient(), Host: host, Events: mgr.GetEventRecorder("baremetaltarget"), watchdog: dog,
		},
	}
	s.target.serverReconciled = func(uid types.UID) bool { return s.server.external.reconciledOnce(uid) }
	host.Capacity.bind(host, func(uid string) {
		s.server.Wake(uid)
		s.target.Wake(uid)
	})
	if err := indexFields(context.Background(), mgr.GetFieldIndexer()); err != nil {
		return nil, fmt.Errorf("indexing the cache: %w", err)
	}
	for _, r := range []interface{ SetupWithManager(ctrl.Manager) error }{s.server, s.profile, s.target} {
		if err := r.SetupWithManager(mgr); err != nil {
			return nil, err
		}
	}
	keeper := &housekeeper{
		Client: mgr.GetClient(), live: ReaderIn(host.Namespaces, mgr.GetAPIReader()), cache: mgr.GetCache(), host: host,
		server: s.server, profile: s.profile, events: mgr.GetEventRecorder("housekeeping"),
	}
	stale := &startup{Client: mgr.GetClient(), host: host, server: s.server.external, target: s.target.external}
	return s, errors.Join(mgr.Add(stale), mgr.Add(s), mgr.Add(keeper))
}

// ServerObserved queues a server whose netbootd reported a change. It does not block. It
// is meant for session.Options.ServerChanged.
func (s *Set) ServerObserved(uid string) { s.server.Wake(uid) }

// TargetsObserved queues the targets of which a netbootd reported a change. It does not
// block. It is meant for session.Options.MachinesChanged.
func (s *Set) TargetsObserved(uids []string) {
	for _, uid := range uids {
		s.target.Wake(uid)
	}
}

// Start queues the object of every machine that had an event, until ctx is cancelled.
// It implements manager.Runnable.
func (s *Set) Start(ctx context.Context) error {
	for event := range s.host.Machines.Watch(ctx) {
		if err := s.host.Capacity.settle(ctx, event.ID); err != nil && ctx.Err() == nil {
			ctrl.LoggerFrom(ctx).Error(err, "Failed to release what a machine used that has ended")
		}
		s.server.Wake(event.ID)
		s.target.Wake(event.ID)
	}
	return nil
}

// Close cancels the reconcilers' background work and waits for it.
func (s *Set) Close() {
	s.server.Close()
	s.profile.Close()
	s.target.Close()
}
