// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

func target(name string) *v1alpha1.BareMetalTarget {
	bmt := &v1alpha1.BareMetalTarget{}
	bmt.Name = name
	bmt.Namespace = "default"
	bmt.UID = types.UID("uid-" + name)
	bmt.Spec.InstallGeneration = 1
	bmt.Spec.Power = v1alpha1.PowerOn
	bmt.Spec.Machine.Architecture = v1alpha1.ArchitectureX86_64
	bmt.Spec.Machine.NICs = []v1alpha1.NIC{{Name: "lab"}}
	return bmt
}

// free reports that no other target declares an address.
func free(netip.Addr) (bool, error) { return false, nil }

// holding returns the addresses of a network on which machines hold others, by name.
func holding(n Network, others ...AddressAllocation) *Addresses {
	a := NewAddresses("server", n)
	for _, o := range others {
		a.Hold(types.UID("uid-"+o.Name), o)
	}
	return a
}

func TestAllocate(t *testing.T) {
	own := MAC("uid-a", "lab-0")
	for name, c := range map[string]struct {
		declared AddressAllocation
		held     AddressAllocation
		others   []AddressAllocation
		reserved string
		want     AddressAllocation
	}{
		"first address": {want: AddressAllocation{"a", own, addr("10.88.0.10"), "a"}},
		"next address": {
			others: []AddressAllocation{{"b", "52:54:00:00:00:0b", addr("10.88.0.10"), "b"}},
			want:   AddressAllocation{"a", own, addr("10.88.0.11"), "a"},
		},
		"lowest gap": {
			others: []AddressAllocation{{"b", "b", addr("10.88.0.10"), "b"}, {"c", "c", addr("10.88.0.12"), "c"}},
			want:   AddressAllocation{"a", own, addr("10.88.0.11"), "a"},
		},
		"keeps what it holds": {
			held: AddressAllocation{"a", "52:54:00:00:00:aa", addr("10.88.0.77"), "a"},
			want: AddressAllocation{"a", "52:54:00:00:00:aa", addr("10.88.0.77"), "a"},
		},
		"takes what it declares": {
			declared: AddressAllocation{"", "52:54:00:00:00:01", addr("10.88.0.50"), ""},
			held:     AddressAllocation{"a", own, addr("10.88.0.10"), "a"},
			want:     AddressAllocation{"a", "52:54:00:00:00:01", addr("10.88.0.50"), "a"},
		},
		"declares a MAC in upper case": {
			declared: AddressAllocation{MAC: "52:54:00:AA:BB:0C"}, want: AddressAllocation{"a", "52:54:00:aa:bb:0c", addr("10.88.0.10"), "a"},
		},
		"a declared address in the pool": {
			declared: AddressAllocation{Address: addr("10.88.0.200")}, want: AddressAllocation{"a", own, addr("10.88.0.200"), "a"},
		},
		"held address is taken": {
			held: AddressAllocation{"a", own, addr("10.88.0.10"), "a"}, others: []AddressAllocation{{"b", own, addr("10.88.0.10"), "b"}},
			want: AddressAllocation{"a", MAC("uid-a", "lab-1"), addr("10.88.0.11"), "a"},
		},
		"held address is outside the network": {
			held: AddressAllocation{"a", own, addr("10.99.0.10"), "a"}, want: AddressAllocation{"a", own, addr("10.88.0.10"), "a"},
		},
		"another target declares it": {reserved: "10.88.0.10", want: AddressAllocation{"a", own, addr("10.88.0.11"), "a"}},
		"what it holds is declared by another": {
			reserved: "10.88.0.10", held: AddressAllocation{"a", own, addr("10.88.0.10"), "a"},
			want: AddressAllocation{"a", own, addr("10.88.0.10"), "a"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := target("a")
			nic := &o.Spec.Machine.NICs[0]
			nic.MAC = c.declared.MAC
			if c.declared.Address.IsValid() {
				nic.Addresses = []v1alpha1.IPv4{v1alpha1.IPv4(c.declared.Address.String())}
			}
			n := network(t)
			a := holding(n, c.others...)
			if c.held != (AddressAllocation{}) {
				a.Hold(o.UID, c.held)
			}
			reserved := func(a netip.Addr) (bool, error) { return a.String() == c.reserved, nil }
			got, err := a.Allocate(n, o, reserved)
			if err != nil {
				t.Errorf("Allocate: got error %v, want none", err)
			}
			if diff := cmp.Diff(c.want, got, ips); diff != "" {
				t.Errorf("allocation (-want +got):\n%s", diff)
			}
			// It is held, so it stays.
			if again, err := a.Allocate(n, o, free); err != nil || again != got {
				t.Errorf("Allocate again: got %+v, %v, want %+v", again, err, got)
			}
		})
	}
}

func TestAllocateRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		mac     string
		address v1alpha1.IPv4
		reason  string
		message string
	}{
		"a MAC that is used":                {mac: "52:54:00:00:00:0b", reason: v1alpha1.ReasonAddressConflict, message: "used by b already"},
		"a MAC that is used, in upper case": {mac: "52:54:00:00:00:0B", reason: v1alpha1.ReasonAddressConflict, message: "used by b already"},
		"a MAC that is not one":             {mac: "x", reason: v1alpha1.ReasonInvalid, message: "spec.machine.nics[lab].mac"},
		"the server's MAC":                  {mac: MAC("server", DeviceLab), reason: v1alpha1.ReasonAddressConflict, message: "used by the provisioning server"},
		"an address that is used":           {address: "10.88.0.50", reason: v1alpha1.ReasonAddressConflict, message: "used by b already"},
		"the server's address":              {address: "10.88.0.1", reason: v1alpha1.ReasonAddressConflict, message: "used by the provisioning server"},
		"an address outside":                {address: "10.99.0.1", reason: v1alpha1.ReasonAddressOutside, message: "spec.machine.nics[lab].addresses 10.99.0.1 is outside"},
		"the broadcast address":             {address: "10.88.0.255", reason: v1alpha1.ReasonAddressOutside, message: "broadcast"},
	} {
		n := network(t)
		a := holding(n, AddressAllocation{"b", "52:54:00:00:00:0b", addr("10.88.0.50"), "b"})
		o := target("a")
		before, err := a.Allocate(n, o, free)
		if err != nil {
			t.Fatal(err)
		}
		nic := &o.Spec.Machine.NICs[0]
		nic.MAC = c.mac
		if c.address != "" {
			nic.Addresses = []v1alpha1.IPv4{c.address}
		}
		_, err = a.Allocate(n, o, free)
		var invalid *InvalidError
		if !errors.As(err, &invalid) {
			t.Errorf("%s: got error %v, want an *InvalidError", name, err)
			continue
		}
		if invalid.Reason != c.reason {
			t.Errorf("%s: got reason %s, want %s", name, invalid.Reason, c.reason)
		}
		checkMessage(t, name, err.Error(), c.message)
		// A machine that runs still has what it had.
		nic.MAC, nic.Addresses = "", nil
		if after, err := a.Allocate(n, o, free); err != nil || after != before {
			t.Errorf("%s, corrected: got %+v, %v, want %+v as before", name, after, err, before)
		}
	}
	failed := errors.New("the cache is closed")
	n := network(t)
	if _, err := holding(n).Allocate(n, target("a"), func(netip.Addr) (bool, error) { return false, failed }); !errors.Is(err, failed) {
		t.Errorf("got error %v, want %v", err, failed)
	}
}

// A host name belongs to one target of a network, also if two object names become the same
// host name.
func TestAllocateHostname(t *testing.T) {
	n := network(t)
	a := holding(n)
	first, second := target("a.b"), target("a-b")
	if _, err := a.Allocate(n, first, free); err != nil {
		t.Fatal(err)
	}
	_, err := a.Allocate(n, second, free)
	var invalid *InvalidError
	if !errors.As(err, &invalid) || invalid.Reason != v1alpha1.ReasonHostnameConflict {
		t.Fatalf("got error %v, want an *InvalidError with reason %s", err, v1alpha1.ReasonHostnameConflict)
	}
	checkMessage(t, "the second", err.Error(), "host name a-b is that of target a.b already")
	checkMessage(t, "the second", err.Error(), "set spec.hostname of one of the two")
	first.Spec.Hostname = "first"
	for _, o := range []*v1alpha1.BareMetalTarget{first, second} {
		if _, err := a.Allocate(n, o, free); err != nil {
			t.Errorf("%s, after the first was renamed: %v", o.Name, err)
		}
	}
	a.Release(second.UID)
	third := target("third")
	third.Spec.Hostname = "a-b"
	if _, err := a.Allocate(n, third, free); err != nil {
		t.Errorf("a released host name: %v", err)
	}
}

// TestAllocateUntilFull allocates each address once until the part for targets is full,
// and never one of the pool, the server, the BMCs or those left for manual assignment.
func TestAllocateUntilFull(t *testing.T) {
	for cidr, want := range map[string]int{
		"10.88.0.8/29": 4, "10.88.0.0/28": 10, "10.88.0.0/26": 38, "10.88.0.0/24": 182, "10.88.0.0/22": 374, "10.88.0.0/20": 1526,
	} {
		spec := labNetwork()
		spec.CIDR = cidr
		n, err := NewNetwork(spec, true)
		if err != nil {
			t.Fatal(err)
		}
		a := holding(n)
		macs, addrs := map[string]bool{}, map[netip.Addr]bool{}
		for i := 0; ; i++ {
			claim, err := a.Allocate(n, target(fmt.Sprint(i)), free)
			if err != nil {
				var invalid *InvalidError
				if !errors.As(err, &invalid) {
					t.Fatalf("%s: got error %v, want an *InvalidError", cidr, err)
				}
				if invalid.Reason != v1alpha1.ReasonAddressConflict {
					t.Errorf("%s: got reason %s, want %s", cidr, invalid.Reason, v1alpha1.ReasonAddressConflict)
				}
				checkMessage(t, cidr, err.Error(), "no address is free")
				break
			}
			if addrs[claim.Address] {
				t.Fatalf("%s: got address %s for a second machine, want one that is free", cidr, claim.Address)
			}
			if macs[claim.MAC] {
				t.Fatalf("%s: got MAC %s for a second machine, want one that is free", cidr, claim.MAC)
			}
			if n.inRange(claim.Address) {
				t.Fatalf("%s: got address %s, want one outside of the DHCP range", cidr, claim.Address)
			}
			if claim.Address == n.Server {
				t.Fatalf("%s: got address %s, the server's, want another one", cidr, claim.Address)
			}
			if !n.Prefix.Contains(claim.Address) {
				t.Fatalf("%s: got address %s, want one in %s", cidr, claim.Address, n.Prefix)
			}
			macs[claim.MAC], addrs[claim.Address] = true, true
		}
		if len(addrs) != want {
			t.Errorf("%s: got %d addresses, want %d", cidr, len(addrs), want)
		}
		// A released address is the next one that is allocated.
		var some types.UID
		for i := range want / 2 {
			some = target(fmt.Sprint(i)).UID
		}
		gone := a.held[some]
		a.Release(some)
		if claim, err := a.Allocate(n, target("heir"), free); err != nil || claim.Address != gone.Address {
			t.Errorf("%s: got %+v, %v, want the released address %s", cidr, claim, err, gone.Address)
		}
	}
}

// TestAllocateAfterWidening checks that machines keep their addresses when a network is
// widened, and that others get addresses of the new part.
func TestAllocateAfterWidening(t *testing.T) {
	spec := labNetwork()
	narrow := network(t)
	spec.CIDR = "10.88.0.0/20"
	wide, err := NewNetwork(spec, true)
	if err != nil {
		t.Fatal(err)
	}
	a := holding(narrow)
	before := map[string]AddressAllocation{}
	for i := range 182 {
		name := fmt.Sprint(i)
		if before[name], err = a.Allocate(narrow, target(name), free); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Allocate(narrow, target("more"), free); err == nil {
		t.Fatal("a full network: got no error, want one")
	}
	for name, held := range before {
		if got, err := a.Allocate(wide, target(name), free); err != nil || got != held {
			t.Errorf("%s: got %+v, %v, want %+v as before", name, got, err, held)
		}
	}
	// The former pool is the targets' now.
	got, err := a.Allocate(wide, target("more"), free)
	if err != nil || got.Address != addr("10.88.0.192") {
		t.Errorf("got address %s, %v, want 10.88.0.192", got.Address, err)
	}
}

// TestAllocateScales counts the looks at addresses, which do not depend on the number of
// machines, whether they come or are replaced by others.
func TestAllocateScales(t *testing.T) {
	spec := labNetwork()
	spec.CIDR = "10.88.0.0/16"
	n, err := NewNetwork(spec, true)
	if err != nil {
		t.Fatal(err)
	}
	a := holding(n)
	looks := 0
	count := func(netip.Addr) (bool, error) { looks++; return false, nil }
	const machines = 2000
	for i := range machines {
		if _, err := a.Allocate(n, target(fmt.Sprint(i)), count); err != nil {
			t.Fatal(err)
		}
	}
	if looks != machines {
		t.Errorf("got %d looks for %d machines, want one each", looks, machines)
	}
	if first, _ := n.targetPart(); a.scanned.next != first+machines-1 {
		t.Errorf("got the search at address %d, want that of the last machine, %d", a.scanned.next, first+machines-1)
	}
	for i := range machines {
		if _, err := a.Allocate(n, target(fmt.Sprint(i)), count); err != nil {
			t.Fatal(err)
		}
	}
	if looks != machines {
		t.Errorf("got %d looks after all were reconciled again, want %d as before", looks, machines)
	}
	for i := range machines {
		a.Release(target(fmt.Sprint(i)).UID)
	}
	if a.Len() != 1 || len(a.byMAC) != 1 || len(a.byAddr) != 1 || len(a.byName) != 0 {
		t.Errorf("got %d machines, %d MACs, %d addresses and %d names, want the server's", a.Len(), len(a.byMAC), len(a.byAddr), len(a.byName))
	}
}

func TestMAC(t *testing.T) {
	// MAC addresses must not change between versions, because machines keep them.
	mac := MAC("uid", "lab")
	if mac != "52:54:00:d9:a5:6a" {
		t.Errorf("got MAC %s, want 52:54:00:d9:a5:6a", mac)
	}
	if other := MAC("uid", "uplink"); other == mac {
		t.Errorf("another salt: got MAC %s, want another one", other)
	}
	if other := MAC("other", "lab"); other == mac {
		t.Errorf("another UID: got MAC %s, want another one", other)
	}
	if _, err := netbootapi.ParseMAC(mac); err != nil {
		t.Error(err)
	}
}

func TestClaimOf(t *testing.T) {
	o := target("a")
	if c, ok := AllocationOf(o); ok {
		t.Errorf("got %+v of a new target, want none", c)
	}
	o.Status.NICs = []v1alpha1.NICStatus{{Name: "lab", MAC: "52:54:00:00:00:0a", Addresses: []string{"10.88.0.10"}}}
	want := AddressAllocation{"a", "52:54:00:00:00:0a", addr("10.88.0.10"), "a"}
	if c, ok := AllocationOf(o); !ok || c != want {
		t.Errorf("got %+v, %t, want %+v, true", c, ok, want)
	}
}
