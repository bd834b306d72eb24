// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/netbootdtest"
)

func TestSessionReconnects(t *testing.T) {
	h, w := newHub(t)
	server := netbootdtest.Start(t, netbootdtest.Options{})
	connect(t, h, server)
	h.PutServer("s", newConfig(60), nil)
	h.PutMachine("s", "m", newMachine(1))
	w.until(t, h, "in force", inForce)
	w.untilMachine(t, h, "m", "in force", machineInForce)

	woken := w.times("m")
	server.Stop()
	o := w.until(t, h, "gone", func(o Observation) bool { return !o.Connected })
	if o.Error == nil {
		t.Error("after the connection was lost: got no error, want one")
	}
	m := h.ObserveMachine("s", "m")
	if m.Connected {
		t.Error("after the connection was lost: got a connected machine, want none")
	}
	if m.State == nil || m.State.Attempt != "1" {
		t.Errorf("after the connection was lost: got the machine's state %+v, want the last one", m.State)
	}
	await(t, w, "a change of the machine, whose state may be out of date", func() int { return w.times("m") },
		func(times int) bool { return times > woken })
	// A new netbootd without any state starts at the same address.
	again := netbootdtest.Start(t, netbootdtest.Options{Address: server.Address(), Credentials: server.Credentials()})
	w.until(t, h, "in force again", inForce)
	w.untilMachine(t, h, "m", "in force again", machineInForce)
	if n := again.ServerPuts(); n != 1 {
		t.Errorf("configs put to the new netbootd: got %d, want 1", n)
	}
	if n := again.MachinePuts("m"); n != 1 {
		t.Errorf("entries put to the new netbootd: got %d, want 1", n)
	}
}

// A hung netbootd accepts connections without a TLS handshake, and sends nothing
// on existing connections.
func TestSilentNetbootdIsDisconnected(t *testing.T) {
	h, w := newHub(t)
	h.options.Patience = 100 * time.Millisecond // less than a heartbeat
	silent := func(o Observation) bool { return !o.Connected && errors.Is(o.Error, netbootapi.ErrSilent) }
	frozen, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts connections into its backlog
	if err != nil {
		t.Fatal(err)
	}
	credentials, err := netbootapi.NewCredentials(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Connect("s", frozen.Addr().String(), netbootapi.Trust{Current: credentials}); err != nil {
		t.Fatal(err)
	}
	w.until(t, h, "frozen", silent)
	_ = frozen.Close()
	netbootdtest.Start(t, netbootdtest.Options{Address: frozen.Addr().String(), Credentials: credentials})
	w.until(t, h, "connected", connected)
	w.until(t, h, "silent", silent)
	w.until(t, h, "connected again", connected)
}

func TestFirstFailureIsReported(t *testing.T) {
	h, w := newHub(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	credentials, err := netbootapi.NewCredentials(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Connect("s", address, netbootapi.Trust{Current: credentials}); err != nil {
		t.Fatal(err)
	}
	w.until(t, h, "refused", func(o Observation) bool { return o.Error != nil && w.times("") > 0 })
	netbootdtest.Start(t, netbootdtest.Options{Address: address, Credentials: credentials})
	if o := w.until(t, h, "connected", connected); o.Error != nil {
		t.Errorf("got Error %v, want nil", o.Error)
	}
}

func TestChangedNamesMachines(t *testing.T) {
	h, w := newHub(t)
	server := netbootdtest.Start(t, netbootdtest.Options{})
	connect(t, h, server)
	h.PutServer("s", newConfig(60), nil)
	for n, uid := range []string{"a", "b"} {
		h.PutMachine("s", uid, newMachine(n))
		w.untilMachine(t, h, uid, "in force", machineInForce)
	}
	a, b, own := w.times("a"), w.times("b"), w.times("")
	server.UpdateMachine("a", func(m *netbootapi.MachineState) { m.ProfileDigest = "p" })
	w.untilMachine(t, h, "a", "the change", func(m Machine) bool { return m.State.ProfileDigest == "p" })
	await(t, w, "a change of a", func() int { return w.times("a") }, func(times int) bool { return times > a })
	// Neither does content that a needs concern b.
	edited := newMachine(0)
	userData(&edited, "#cloud-config")
	h.PutMachine("s", "a", edited)
	w.untilMachine(t, h, "a", "in force", machineInForce)
	if got := w.times("b"); got != b {
		t.Errorf("after a's changes: got %d changes of b, want none", got-b)
	}
	server.Update(func(s *netbootapi.State) { s.Version = "next" })
	w.until(t, h, "the version", func(o Observation) bool { return o.State.Version == "next" })
	await(t, w, "a change of the server", func() int { return w.times("") }, func(times int) bool { return times > own })
	if got := w.times("b"); got != b {
		t.Errorf("after the server's change: got %d changes of b, want none", got-b)
	}
}

func TestAnotherAddressReplacesTheSession(t *testing.T) {
	h, w := newHub(t)
	old := netbootdtest.Start(t, netbootdtest.Options{})
	connect(t, h, old)
	h.PutServer("s", newConfig(60), nil)
	h.PutMachine("s", "m", newMachine(1))
	w.untilMachine(t, h, "m", "in force", machineInForce)

	moved := netbootdtest.Start(t, netbootdtest.Options{Credentials: old.Credentials()})
	connect(t, h, moved)
	if o := h.Observe("s"); o.Wanted == "" {
		t.Error("after the move: got no wanted configuration, want the last one")
	}
	if m := h.ObserveMachine("s", "m"); m.State != nil && m.State.Attempt != "1" {
		t.Errorf("after the move: got attempt %q, want \"1\" of the last state", m.State.Attempt)
	}
	w.until(t, h, "in force at the new address", func(o Observation) bool { return inForce(o) && moved.ServerPuts() == 1 })
	w.untilMachine(t, h, "m", "in force at the new address", func(m Machine) bool { return machineInForce(m) && moved.MachinePuts("m") == 1 })
	h.PutServer("s", newConfig(61), nil)
	w.until(t, h, "the next", func(o Observation) bool { return inForce(o) && moved.ServerPuts() == 2 })
	if n := old.ServerPuts(); n != 1 {
		t.Errorf("configs put to the old address: got %d, want 1", n)
	}
	if n := old.MachinePuts("m"); n != 1 {
		t.Errorf("entries put to the old address: got %d, want 1", n)
	}
}

// The state of the last connection is kept until the next is established.
func TestReplacedSessionIsDisconnected(t *testing.T) {
	h, w := newHub(t)
	server := netbootdtest.Start(t, netbootdtest.Options{})
	connect(t, h, server)
	h.PutServer("s", newConfig(60), nil)
	h.PutMachine("s", "m", newMachine(1))
	w.untilMachine(t, h, "m", "in force", machineInForce)
	nowhere, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer nowhere.Close()
	woken := w.times("m")
	if err := h.Connect("s", nowhere.Addr().String(), netbootapi.Trust{Current: server.Credentials()}); err != nil {
		t.Fatal(err)
	}
	if o := h.Observe("s"); o.Connected || o.State.Server != o.Wanted {
		t.Errorf("after the move: got %+v, want the last state without a connection", o)
	}
	if m := h.ObserveMachine("s", "m"); m.Connected || m.State == nil || m.State.Attempt != "1" {
		t.Errorf("after the move: got %+v, want the machine's last state without a connection", m)
	}
	if w.times("m") == woken {
		t.Error("after the move: got no change of the machine, want one")
	}
}

func TestForeignCredentialsAreNotTrusted(t *testing.T) {
	h, w := newHub(t)
	server := netbootdtest.Start(t, netbootdtest.Options{})
	others, err := netbootapi.NewCredentials(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Connect("s", server.Address(), netbootapi.Trust{Current: others}); err != nil {
		t.Fatal(err)
	}
	w.until(t, h, "the refusal", func(o Observation) bool { return o.Error != nil })
	connect(t, h, server) // the server's credentials replace them
	w.until(t, h, "connected", connected)
}

func TestRemoveForgets(t *testing.T) {
	h, w := newHub(t)
	server := netbootdtest.Start(t, netbootdtest.Options{})
	h.PutServer("s", newConfig(60), nil)
	h.PutMachine("s", "m", newMachine(1))
	connect(t, h, server)
	w.untilMachine(t, h, "m", "in force", machineInForce)
	h.Remove("s")
	h.Remove("s")
	h.DeleteMachine("s", "m")
	o := h.Observe("s")
	if o.Connected {
		t.Error("after Remove: got a connection, want none")
	}
	if o.Wanted != "" {
		t.Errorf("after Remove: got wanted configuration %s, want none", o.Wanted)
	}
	if m := h.ObserveMachine("s", "m"); m.State != nil || m.Connected {
		t.Errorf("after Remove: got machine %+v, want none", m)
	}
	h.settled = time.Time{} // Dial does not wait any more
	if _, err := h.Dial(t.Context(), "s", netip.MustParseAddrPort("10.88.0.10:22")); !errors.Is(err, errNotConnected) {
		t.Errorf("dialling through a removed server: got %v, want %v", err, errNotConnected)
	}
	connect(t, h, server)
	h.PutServer("s", newConfig(61), nil)
	w.until(t, h, "in force", inForce)
	if m := h.ObserveMachine("s", "m"); m.InForce {
		t.Errorf("after Remove: got machine %+v in force, want nothing desired of it", m)
	}
}

func TestDialWaitsForSession(t *testing.T) {
	h, w := newHub(t)
	server := netbootdtest.Start(t, netbootdtest.Options{Dial: func(context.Context, netip.AddrPort) (net.Conn, error) {
		here, there := net.Pipe()
		go func() {
			defer there.Close()
			_, _ = io.WriteString(there, "SSH-2.0-test\r\n")
		}()
		return here, nil
	}})
	// A manager that has just started may have to dial before it has connected.
	early := make(chan error, 1)
	go func() {
		_, err := h.Dial(t.Context(), "s", netip.MustParseAddrPort("10.88.0.10:22"))
		early <- err
	}()
	select {
	case err := <-early:
		t.Fatalf("Dial before the session: got error %v at once, want it to wait", err)
	case <-time.After(200 * time.Millisecond): // of ten seconds
	}
	connect(t, h, server)
	if err := <-early; errors.Is(err, errNotConnected) {
		t.Errorf("Dial before the session: got error %v, want it to wait for the session", err)
	}
	h.PutServer("s", newConfig(60), nil)
	d := newMachine(1)
	d.Content.Address = netip.MustParseAddr("10.88.0.10")
	h.PutMachine("s", "m", d)
	w.untilMachine(t, h, "m", "in force", machineInForce)
	conn, err := h.Dial(t.Context(), "s", netip.MustParseAddrPort("10.88.0.10:22"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "SSH-2.0-test\r\n" {
		t.Errorf("read %q, %v; want the SSH identification string", got, err)
	}
}

func TestHubFetchesMetrics(t *testing.T) {
	h, w := newHub(t)
	if _, err := h.Metrics(t.Context(), "s"); err == nil {
		t.Error("metrics of an unknown server: got no error, want one")
	}
	server := netbootdtest.Start(t, netbootdtest.Options{})
	server.SetMetrics(netbootapi.Metrics{Leases: 3})
	connect(t, h, server)
	w.until(t, h, "connected", connected)
	m, err := h.Metrics(t.Context(), "s")
	if err != nil {
		t.Fatal(err)
	}
	if m.Leases != 3 {
		t.Errorf("got %d leases, want 3", m.Leases)
	}
}

// The fetch of metrics from a netbootd that hangs ends with the Hub.
func TestFetchOfMetricsEndsWithHub(t *testing.T) {
	h, _ := newHub(t)
	frozen, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts connections into its backlog
	if err != nil {
		t.Fatal(err)
	}
	defer frozen.Close()
	credentials, err := netbootapi.NewCredentials(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Connect("s", frozen.Addr().String(), netbootapi.Trust{Current: credentials}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := h.Metrics(context.Background(), "s")
		ended <- err
	}()
	h.Close()
	if err := <-ended; err == nil {
		t.Error("got metrics of a netbootd that hangs, want an error")
	}
}
