// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/netbootdtest"
)

func leaseIs(want int) func(netbootapi.ServerConfig) bool {
	return func(c netbootapi.ServerConfig) bool { return c.Network.LeaseSeconds == want }
}

func TestConfigIsPutOnce(t *testing.T) {
	h, w := newHub(t)
	server := netbootdtest.Start(t, netbootdtest.Options{})
	o := h.Observe("s")
	if o.Connected {
		t.Error("unknown server: got a connection, want none")
	}
	if o.Error != nil {
		t.Errorf("unknown server: got error %v, want none", o.Error)
	}
	if o.Wanted != "" {
		t.Errorf("unknown server: got wanted configuration %s, want none", o.Wanted)
	}
	connect(t, h, server)
	w.until(t, h, "connected", connected)
	for range 3 {
		h.PutServer("s", newConfig(60), nil)
		connect(t, h, server) // an identical Connect changes nothing
	}
	w.until(t, h, "in force", inForce)
	// New states do not lead to another request.
	for i := range 5 {
		server.Update(func(s *netbootapi.State) { s.Version = strings.Repeat("v", i+1) })
		w.until(t, h, "the new state", func(o Observation) bool { return len(o.State.Version) == i+1 })
	}
	if c, _ := server.Server(); server.ServerPuts() != 1 || !leaseIs(60)(c) {
		t.Errorf("got %d configs, the last with lease %d; want one with 60", server.ServerPuts(), c.Network.LeaseSeconds)
	}
	h.PutServer("s", newConfig(61), nil)
	w.until(t, h, "the next in force", inForce)
	if c, _ := server.Server(); server.ServerPuts() != 2 || !leaseIs(61)(c) {
		t.Errorf("got %d configs, the last with lease %d; want the second with 61", server.ServerPuts(), c.Network.LeaseSeconds)
	}
}

func TestPutBeforeConnectIsKept(t *testing.T) {
	h, w := newHub(t)
	server := netbootdtest.Start(t, netbootdtest.Options{})
	h.PutServer("s", newConfig(60), nil)
	h.PutMachine("s", "m", newMachine(1))
	if m := h.ObserveMachine("s", "m"); m.Connected || m.InForce || m.Error != nil {
		t.Errorf("before Connect: got %+v, want a machine that is not in force", m)
	}
	connect(t, h, server)
	w.until(t, h, "in force", inForce)
	w.untilMachine(t, h, "m", "in force", machineInForce)
}

// When configs change faster than they are put, the last one stays in force.
func TestLastConfigIsInForce(t *testing.T) {
	h, w := newHub(t)
	server := netbootdtest.Start(t, netbootdtest.Options{})
	connect(t, h, server)
	w.until(t, h, "connected", connected)
	for lease := 60; lease < 90; lease++ {
		h.PutServer("s", newConfig(lease), nil)
	}
	w.until(t, h, "in force", inForce)
	if c, _ := server.Server(); !leaseIs(89)(c) {
		t.Errorf("the config in force: got lease %d, want 89", c.Network.LeaseSeconds)
	}
}

func TestRefusedConfigIsReported(t *testing.T) {
	h, w := newHub(t)
	server := netbootdtest.Start(t, netbootdtest.Options{})
	connect(t, h, server)
	h.PutServer("s", newConfig(1), nil) // leases below 60 s are invalid
	w.until(t, h, "refused", func(o Observation) bool { return errors.Is(o.PutError, netbootapi.ErrInvalid) })
	h.PutServer("s", newConfig(60), nil)
	if o := w.until(t, h, "corrected", inForce); o.PutError != nil {
		t.Errorf("got PutError %v, want nil", o.PutError)
	}
	// Any other error is retried.
	server.Refuse(errors.New("disk full"))
	h.PutServer("s", newConfig(61), nil)
	w.until(t, h, "failed", func(o Observation) bool {
		return o.PutError != nil && strings.Contains(o.PutError.Error(), "disk full")
	})
	// The machines are served with the config in force meanwhile.
	h.PutMachine("s", "m", newMachine(1))
	w.untilMachine(t, h, "m", "in force", machineInForce)
	server.Refuse(nil)
	if o := w.until(t, h, "taken", inForce); o.PutError != nil {
		t.Errorf("got PutError %v, want nil", o.PutError)
	}
}

// Machines that are put before the config wait for it, without an error.
func TestMachinesWaitForTheConfig(t *testing.T) {
	h, w := newHub(t)
	server := netbootdtest.Start(t, netbootdtest.Options{})
	connect(t, h, server)
	h.PutMachine("s", "m", newMachine(1))
	w.until(t, h, "connected", connected)
	program, path := blob(t, []byte("iPXE"))
	h.PutServer("s", newConfig(60, program), nil)
	o := w.until(t, h, "unavailable", func(o Observation) bool { return o.PutError != nil })
	if !strings.Contains(o.PutError.Error(), program.Digest) {
		t.Errorf("got PutError %v, want one that names %s", o.PutError, program.Digest)
	}
	if m := h.ObserveMachine("s", "m"); m.Error != nil || m.InForce {
		t.Errorf("before the config: got %+v, want a machine that waits", m)
	}
	h.PutServer("s", newConfig(60, program), map[string]string{program.Digest: path})
	w.untilMachine(t, h, "m", "in force", machineInForce)
	if n := server.MachinePuts("m"); n != 1 {
		t.Errorf("entries put: got %d, want 1", n)
	}
}

// What is invalid on one network may be valid on the next.
func TestNewNetworkIsTriedAgain(t *testing.T) {
	h, w := newHub(t)
	server := netbootdtest.Start(t, netbootdtest.Options{})
	connect(t, h, server)
	config := newConfig(60)
	config.Network.MAC = newMachine(1).Content.MAC
	h.PutServer("s", config, nil)
	h.PutMachine("s", "m", newMachine(1))
	w.untilMachine(t, h, "m", "refused", func(m Machine) bool { return errors.Is(m.Error, netbootapi.ErrInvalid) })
	h.PutServer("s", newConfig(60), nil)
	if m := w.untilMachine(t, h, "m", "in force", machineInForce); m.Error != nil {
		t.Errorf("got error %v, want none", m.Error)
	}
}

// closedListener closes connections until it is opened.
type closedListener struct {
	net.Listener
	opened atomic.Bool
}

func (l *closedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil || l.opened.Load() {
			return conn, err
		}
		conn.Close()
	}
}

// A netbootd of another version is reported although it was unreachable before, as while
// its machine boots.
func TestOtherVersionIsReported(t *testing.T) {
	credentials, err := netbootapi.NewCredentials(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	identity, err := netbootapi.NewIdentity(credentials.Server(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	listener := &closedListener{Listener: old.Listener}
	old.Listener, old.TLS = listener, identity.TLS()
	old.StartTLS()
	t.Cleanup(old.Close)
	h, w := newHub(t)
	if err := h.Connect("s", listener.Addr().String(), netbootapi.Trust{Current: credentials}); err != nil {
		t.Fatal(err)
	}
	w.until(t, h, "unreachable", func(o Observation) bool { return o.Error != nil })
	listener.opened.Store(true)
	w.until(t, h, "of another version", func(o Observation) bool { return errors.Is(o.Error, netbootapi.ErrVersion) })
}

// A manager that another one has replaced changes nothing, and reports it.
func TestReplacedManagerIsFenced(t *testing.T) {
	server := netbootdtest.Start(t, netbootdtest.Options{})
	epoch := func(n int64) func(*Options) { return func(o *Options) { o.Epoch = n } }
	next, nextWatcher := newHub(t, epoch(2))
	connect(t, next, server)
	next.PutServer("s", newConfig(60), nil)
	next.PutMachine("s", "m", newMachine(1))
	nextWatcher.untilMachine(t, next, "m", "in force", machineInForce)
	h, w := newHub(t, epoch(1))
	connect(t, h, server)
	h.PutServer("s", newConfig(61), nil)
	h.PutMachine("s", "m", newMachine(2))
	w.until(t, h, "fenced", func(o Observation) bool { return errors.Is(o.PutError, netbootapi.ErrFenced) })
	w.untilMachine(t, h, "m", "fenced", func(m Machine) bool { return errors.Is(m.Error, netbootapi.ErrFenced) })
	if c, _ := server.Server(); !leaseIs(60)(c) || server.MachinePuts("m") != 1 {
		t.Errorf("got lease %d and %d entries, want those of the later manager", c.Network.LeaseSeconds, server.MachinePuts("m"))
	}
}
