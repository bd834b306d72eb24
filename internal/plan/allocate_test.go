// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
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

func TestAllocate(t *testing.T) {
	own := MAC("uid-a", "lab-0")
	for name, c := range map[string]struct {
		declared AddressAllocation
		held     AddressAllocation
		others   []AddressAllocation
		want     AddressAllocation
	}{
		"first address": {want: AddressAllocation{"a", own, addr("10.88.0.10")}},
		"next address": {
			others: []AddressAllocation{{"b", "52:54:00:00:00:0b", addr("10.88.0.10")}},
			want:   AddressAllocation{"a", own, addr("10.88.0.11")},
		},
		"lowest gap": {
			others: []AddressAllocation{{"b", "b", addr("10.88.0.10")}, {"c", "c", addr("10.88.0.12")}},
			want:   AddressAllocation{"a", own, addr("10.88.0.11")},
		},
		"keeps what it holds": {
			held: AddressAllocation{"a", "52:54:00:00:00:aa", addr("10.88.0.77")},
			want: AddressAllocation{"a", "52:54:00:00:00:aa", addr("10.88.0.77")},
		},
		"takes what it declares": {
			declared: AddressAllocation{"", "52:54:00:00:00:01", addr("10.88.0.50")},
			held:     AddressAllocation{"a", own, addr("10.88.0.10")},
			want:     AddressAllocation{"a", "52:54:00:00:00:01", addr("10.88.0.50")},
		},
		"declares a MAC in upper case": {
			declared: AddressAllocation{MAC: "52:54:00:AA:BB:0C"}, want: AddressAllocation{"a", "52:54:00:aa:bb:0c", addr("10.88.0.10")},
		},
		"a declared address in the pool": {
			declared: AddressAllocation{Address: addr("10.88.0.200")}, want: AddressAllocation{"a", own, addr("10.88.0.200")},
		},
		"held address is taken": {
			held: AddressAllocation{"a", own, addr("10.88.0.10")}, others: []AddressAllocation{{"b", own, addr("10.88.0.10")}},
			want: AddressAllocation{"a", MAC("uid-a", "lab-1"), addr("10.88.0.11")},
		},
		"held address is outside the network": {
			held: AddressAllocation{"a", own, addr("10.99.0.10")}, want: AddressAllocation{"a", own, addr("10.88.0.10")},
		},
		"other machine without a MAC": {
			others: []AddressAllocation{{Name: "b", Address: addr("10.88.0.10")}},
			want:   AddressAllocation{"a", own, addr("10.88.0.11")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := target("a")
			nic := &o.Spec.Machine.NICs[0]
			nic.MAC = c.declared.MAC
			if c.declared.Address.IsValid() {
				nic.Addresses = []v1alpha1.IPv4{v1alpha1.IPv4(c.declared.Address.String())}
			}
			got, err := Allocate(network(t), o, c.held, c.others)
			if err != nil {
				t.Errorf("Allocate: got error %v, want none", err)
			}
			if diff := cmp.Diff(c.want, got, ips); diff != "" {
				t.Errorf("allocation (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAllocateRefuses(t *testing.T) {
	others := []AddressAllocation{{"b", "52:54:00:00:00:0b", addr("10.88.0.50")}}
	for name, c := range map[string]struct {
		mac     string
		address v1alpha1.IPv4
		reason  string
		message string
	}{
		"a MAC that is used":                {mac: "52:54:00:00:00:0b", reason: v1alpha1.ReasonAddressConflict, message: "used by b already"},
		"a MAC that is used, in upper case": {mac: "52:54:00:00:00:0B", reason: v1alpha1.ReasonAddressConflict, message: "used by b already"},
		"a MAC that is not one":             {mac: "x", reason: v1alpha1.ReasonInvalid, message: "spec.machine.nics[lab].mac"},
		"an address that is used":           {address: "10.88.0.50", reason: v1alpha1.ReasonAddressConflict, message: "used by b already"},
		"the server's address":              {address: "10.88.0.1", reason: v1alpha1.ReasonAddressConflict, message: "used by the provisioning server"},
		"an address outside":                {address: "10.99.0.1", reason: v1alpha1.ReasonAddressOutside, message: "spec.machine.nics[lab].addresses 10.99.0.1 is outside"},
		"the broadcast address":             {address: "10.88.0.255", reason: v1alpha1.ReasonAddressOutside, message: "broadcast"},
	} {
		o := target("a")
		nic := &o.Spec.Machine.NICs[0]
		nic.MAC = c.mac
		if c.address != "" {
			nic.Addresses = []v1alpha1.IPv4{c.address}
		}
		_, err := Allocate(network(t), o, AddressAllocation{}, others)
		var invalid *InvalidError
		if !errors.As(err, &invalid) {
			t.Errorf("%s: got error %v, want an *InvalidError", name, err)
			continue
		}
		if invalid.Reason != c.reason {
			t.Errorf("%s: got reason %s, want %s", name, invalid.Reason, c.reason)
		}
		checkMessage(t, name, err.Error(), c.message)
	}
}

// TestAllocateUntilFull allocates each address once until the network is full,
// and never one of the pool, the server or those left for manual assignment.
func TestAllocateUntilFull(t *testing.T) {
	for cidr, want := range map[string]int{"10.88.0.8/29": 4, "10.88.0.0/28": 10, "10.88.0.0/26": 38, "10.88.0.0/24": 182} {
		spec := labNetwork()
		spec.CIDR = cidr
		n, err := NewNetwork(spec, true)
		if err != nil {
			t.Fatal(err)
		}
		var claims []AddressAllocation
		for i := 0; ; i++ {
			claim, err := Allocate(n, target(fmt.Sprint(i)), AddressAllocation{}, claims)
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
			for _, c := range claims {
				if c.Address == claim.Address {
					t.Fatalf("%s: got address %s for a second machine, want one that is free", cidr, claim.Address)
				}
				if c.MAC == claim.MAC {
					t.Fatalf("%s: got MAC %s for a second machine, want one that is free", cidr, claim.MAC)
				}
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
			claims = append(claims, claim)
		}
		if len(claims) != want {
			t.Errorf("%s: got %d addresses, want %d", cidr, len(claims), want)
		}
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
	want := AddressAllocation{"a", "52:54:00:00:00:0a", addr("10.88.0.10")}
	if c, ok := AllocationOf(o); !ok || c != want {
		t.Errorf("got %+v, %t, want %+v, true", c, ok, want)
	}
}
