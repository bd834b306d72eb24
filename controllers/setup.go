// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"

	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/pxelab/pxelab/controllers/internal/task"
)

// Set is the three reconcilers of one manager.
type Set struct {
	host    *Host
	server  *ProvisioningServerReconciler
	profile *BootProfileReconciler
	target  *BareMetalTargetReconciler
}

// Setup registers the three reconcilers and the housekeeping with a manager. The caller must call Close
// after the manager has stopped.
func Setup(mgr ctrl.Manager, host *Host) (*Set, error) {
	slots := task.NewSlots(fetchSlots)
	s := &Set{
		host: host,
		server: &ProvisioningServerReconciler{
			Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Host: host, Events: mgr.GetEventRecorder("provisioningserver"), slots: slots,
		},
		profile: &BootProfileReconciler{Client: mgr.GetClient(), Host: host, Events: mgr.GetEventRecorder("bootprofile"), slots: slots},
		target:  &BareMetalTargetReconciler{Client: mgr.GetClient(), Host: host, Events: mgr.GetEventRecorder("baremetaltarget")},
	}
	if err := indexFields(context.Background(), mgr.GetFieldIndexer()); err != nil {
		return nil, fmt.Errorf("indexing the cache: %w", err)
	}
	for _, r := range []interface{ SetupWithManager(ctrl.Manager) error }{s.server, s.profile, s.target} {
		if err := r.SetupWithManager(mgr); err != nil {
			return nil, err
		}
	}
	keeper := &housekeeper{
		Client: mgr.GetClient(), live: mgr.GetAPIReader(), cache: mgr.GetCache(), host: host,
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
