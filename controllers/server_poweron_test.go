// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootapi/session"
	"github.com/pxelab/pxelab/internal/plan"
)

// connecting are sessions that neither connect nor fail.
type connecting struct{ connects atomic.Int64 }

func (c *connecting) Connect(string, string, netbootapi.Trust) error {
	c.connects.Add(1)
	return nil
}

func (c *connecting) PutServer(string, netbootapi.ServerConfig, map[string]string) {}

func (c *connecting) PutMachine(string, string, session.Desired) {}

func (c *connecting) DeleteMachine(string, string) {}

func (c *connecting) Forget(string) {}

func (c *connecting) Retain(string, []string) {}

func (c *connecting) Observe(string) session.Observation { return session.Observation{} }

func (c *connecting) ObserveMachine(string, string) session.Machine { return session.Machine{} }

func (c *connecting) Content() []string { return nil }

func (c *connecting) Remove(string) {}

// sessionsOr returns the sessions that replace those of the manager's hub, if any.
func (l *lab) sessionsOr(hub *session.Hub) controllers.Sessions {
	if l.sessions != nil {
		return l.sessions
	}
	return hub
}

// restartConnecting starts a manager whose sessions do not connect, and returns the
// server once that manager has computed its status twice.
func (l *lab) restartConnecting(s *v1alpha1.ProvisioningServer) *v1alpha1.ProvisioningServer {
	l.t.Helper()
	sessions := &connecting{}
	l.sessions = sessions
	l.start()
	l.eventually(func() string {
		l.set.ServerObserved(string(s.UID))
		if sessions.connects.Load() < 3 {
			return "the server is not reconciled"
		}
		return ""
	})
	return l.server(s.Name)
}

func TestServerKeepsPhaseOfPowerOn(t *testing.T) {
	l := newLab(t)
	l.create(newServer("lab"))
	server := l.waitReadyServer("lab")
	uid, state := string(server.UID), l.state(server)
	if at := server.Status.PoweredOnAt; at == nil || !at.Time.Equal(state.StartedAt.Truncate(time.Microsecond)) {
		t.Fatalf("got status.poweredOnAt %v, want %v", at, state.StartedAt)
	}

	// A manager with other messages than the one before.
	l.stopManager()
	base := server.DeepCopy()
	meta.FindStatusCondition(server.Status.Conditions, v1alpha1.ConditionMachineRunning).Message = "in other words"
	l.must(l.client.Status().Patch(l.ctx, server, client.MergeFrom(base)))
	server = l.restartConnecting(server)
	if server.Status.Phase != v1alpha1.ServerReady {
		t.Errorf("the same power-on: got phase %s, want Ready", server.Status.Phase)
	}

	// A manager that ended between the start of the machine and the status.
	l.stopManager()
	l.machines.crash(uid)
	network, err := plan.NewNetwork(server.Spec.Network, true)
	l.must(err)
	sockets := l.paths(uid).Sockets
	lab := machine.Backend{Dgram: &machine.Dgram{Local: filepath.Join(sockets, "vm"), Remote: filepath.Join(sockets, "sw")}}
	described := plan.ServerMachine(server, network, l.machineDir(server), nil, lab)
	l.must(l.machines.Fake.Start(l.ctx, described))
	server = l.restartConnecting(server)
	if server.Status.Phase != v1alpha1.ServerBooting {
		t.Errorf("another power-on: got phase %s, want Booting", server.Status.Phase)
	}
	state = l.state(server)
	if at := server.Status.PoweredOnAt; at == nil || !at.Time.Equal(state.StartedAt.Truncate(time.Microsecond)) {
		t.Errorf("another power-on: got status.poweredOnAt %v, want %v", at, state.StartedAt)
	}

	// The machine is off: it waits for its next start.
	l.machines.crash(uid)
	l.eventually(func() string {
		if at := l.server("lab").Status.PoweredOnAt; at != nil && at.Time.Equal(state.StartedAt.Truncate(time.Microsecond)) {
			return "status.poweredOnAt is that of a machine that exited"
		}
		return ""
	})
}
