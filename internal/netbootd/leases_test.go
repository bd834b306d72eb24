// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/dhcp"
)

// countedLeases counts how often all leases are collected.
type countedLeases struct {
	leases               map[string]dhcp.Lease
	collected, forgotten int
}

func (c *countedLeases) Leases() []dhcp.Lease {
	c.collected++
	var out []dhcp.Lease
	for _, l := range c.leases {
		out = append(out, l)
	}
	return out
}

func (c *countedLeases) Restore(leases []dhcp.Lease) {
	for _, l := range leases {
		c.leases[l.MAC.String()] = l
	}
}

func (c *countedLeases) Forget(mac net.HardwareAddr) {
	c.forgotten++
	delete(c.leases, mac.String())
}

// newIdle returns a server that does not run, with n machines that each have a lease.
func newIdle(t *testing.T, n int) *Server {
	t.Helper()
	credentials, err := netbootapi.NewCredentials(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	o := Options{StateDir: t.TempDir(), Version: "test", APIAddress: "127.0.0.1:0", Seed: credentials.Server()}
	store, err := openStore(o.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.write(fileServer, labConfig().Encode()); err != nil {
		t.Fatal(err)
	}
	var leases []dhcp.Lease
	for i := range n {
		m := machineConfig()
		m.UID = idleUID(i)
		m.MAC = fmt.Sprintf("52:54:00:01:%02x:%02x", i/256, i%256)
		m.Address = netip.AddrFrom4([4]byte{127, 2, byte(i / 256), byte(i)})
		m.Token = fmt.Sprintf("token-01234567890123456789-%d", i)
		m.SeedToken = fmt.Sprintf("seed-012345678901234567890-%d", i)
		if err := store.write(entryFile(m.UID), entryOf(&m).Encode()); err != nil {
			t.Fatal(err)
		}
		mac, err := net.ParseMAC(m.MAC)
		if err != nil {
			t.Fatal(err)
		}
		leases = append(leases, dhcp.Lease{MAC: mac, Address: m.Address, State: dhcp.Bound, Expires: time.Now().Add(time.Hour)})
	}
	if err := store.saveLeases(leases); err != nil {
		t.Fatal(err)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.api.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func idleUID(n int) string { return fmt.Sprintf("uid-%d", n) }

// The leases are collected once for each publication and save, not for each machine that
// is removed or has obtained a lease.
func TestLeasesAreCollectedOnce(t *testing.T) {
	const machines = 100
	for _, running := range []bool{false, true} {
		s := newIdle(t, machines)
		published := func() int {
			state, _ := s.state.observe()
			return len(state.Leases)
		}
		if n := published(); n != machines {
			t.Fatalf("got %d leases, want %d", n, machines)
		}
		counted := &countedLeases{leases: map[string]dhcp.Lease{}}
		if running {
			s.leases.attach(counted)
		}
		for i := range machines - 1 {
			if err := (backend{s}).DeleteMachine(t.Context(), idleUID(i)); err != nil {
				t.Fatal(err)
			}
			s.leases.noteChange()
		}
		if running && (counted.collected != 0 || counted.forgotten != machines-1) {
			t.Errorf("got the leases collected %d times and %d forgotten, want 0 and %d", counted.collected, counted.forgotten, machines-1)
		}
		for range 3 {
			s.publishLeases()
			s.persist(false)
		}
		if running && counted.collected != 2 {
			t.Errorf("got the leases collected %d times, want once for the publication and once for the save", counted.collected)
		}
		if n := published(); n != 1 {
			t.Errorf("running %t: got %d leases, want that of the machine that is left", running, n)
		}
		if saved, err := s.store.loadLeases(); err != nil || len(saved) != 1 {
			t.Errorf("running %t: got leases %+v saved, error %v; want 1", running, saved, err)
		}
	}
}
