// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"

	ctrl "sigs.k8s.io/controller-runtime"
)

// Set is the three reconcilers of one manager.
type Set struct {
	host    *Host
	server  *ProvisioningServerReconciler
	profile *BootProfileReconciler
	target  *BareMetalTargetReconciler
}

// Setup registers the three reconcilers with a manager. Close the Set when the
// manager has ended.
func Setup(mgr ctrl.Manager, host *Host) (*Set, error) {
	s := &Set{
		host:    host,
		server:  &ProvisioningServerReconciler{Client: mgr.GetClient(), Host: host, Events: mgr.GetEventRecorder("provisioningserver")},
		profile: &BootProfileReconciler{Client: mgr.GetClient(), Host: host, Events: mgr.GetEventRecorder("bootprofile")},
		target:  &BareMetalTargetReconciler{Client: mgr.GetClient(), Host: host, Events: mgr.GetEventRecorder("baremetaltarget")},
	}
	for _, r := range []interface{ SetupWithManager(ctrl.Manager) error }{s.server, s.profile, s.target} {
		if err := r.SetupWithManager(mgr); err != nil {
			return nil, err
		}
	}
	return s, mgr.Add(s)
}

// Observed looks again at a server and at the machines of which its netbootd
// told something new. It does not block. It is what session.Options.Changed
// wants.
func (s *Set) Observed(server string, machines []string) {
	s.server.Wake(server)
	for _, uid := range machines {
		s.target.Wake(uid)
	}
}

// Start looks again at every machine that something happened to, until ctx
// ends. It implements manager.Runnable.
func (s *Set) Start(ctx context.Context) error {
	for event := range s.host.Machines.Watch(ctx) {
		s.server.Wake(event.ID)
		s.target.Wake(event.ID)
	}
	return nil
}

// Close ends the reconcilers' background work and waits for it.
func (s *Set) Close() {
	s.server.Close()
	s.profile.Close()
	s.target.Close()
}
