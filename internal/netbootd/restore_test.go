// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// BenchmarkStart is the start of a server that has 500 machines.
func BenchmarkStart(b *testing.B) {
	credentials, err := netbootapi.NewCredentials(time.Now())
	if err != nil {
		b.Fatal(err)
	}
	o := Options{StateDir: b.TempDir(), Version: "test", APIAddress: "127.0.0.1:0", Seed: credentials.Server()}
	store, err := openStore(o.StateDir)
	if err != nil {
		b.Fatal(err)
	}
	if err := store.write(fileServer, labConfig().Encode()); err != nil {
		b.Fatal(err)
	}
	const machines = 500
	for n := range machines {
		m := machineConfig()
		m.UID = fmt.Sprintf("uid-%d", n)
		m.MAC = fmt.Sprintf("52:54:00:01:%02x:%02x", n/256, n%256)
		m.Address = netip.AddrFrom4([4]byte{127, 2, byte(n / 256), byte(n)})
		m.Token = fmt.Sprintf("token-01234567890123456789-%d", n)
		m.SeedToken = fmt.Sprintf("seed-012345678901234567890-%d", n)
		if err := store.write(entryFile(m.UID), entryOf(&m).Encode()); err != nil {
			b.Fatal(err)
		}
		if err := store.save(observedFile(m.UID), netbootapi.MachineState{Attempt: "a1", ScriptAt: time.Unix(1, 0)}); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		s, err := New(o)
		if err != nil {
			b.Fatal(err)
		}
		if state, _ := s.state.observe(); len(state.Machines) != machines {
			b.Fatalf("got %d machines, want %d", len(state.Machines), machines)
		}
		if err := s.api.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
