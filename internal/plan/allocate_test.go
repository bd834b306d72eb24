// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/agent"
)

func target(name string) *v1alpha1.BareMetalTarget {
	t := &v1alpha1.BareMetalTarget{}
	t.Name, t.Namespace, t.UID = name, "default", types.UID("uid-"+name)
	t.Spec.InstallGeneration, t.Spec.Power = 1, v1alpha1.PowerOn
	t.Spec.Machine.Architecture = v1alpha1.ArchitectureX86_64
	return t
}

func TestAllocate(t *testing.T) {
	own := MAC("uid-a", "lab-0")
	for name, c := range map[string]struct {
		declared Claim
		held     Claim
		others   []Claim
		want     Claim
	}{
		"the first":                         {want: Claim{"a", own, addr("10.88.0.10")}},
		"the next":                          {others: []Claim{{"b", "52:54:00:00:00:0b", addr("10.88.0.10")}}, want: Claim{"a", own, addr("10.88.0.11")}},
		"a gap":                             {others: []Claim{{"b", "b", addr("10.88.0.10")}, {"c", "c", addr("10.88.0.12")}}, want: Claim{"a", own, addr("10.88.0.11")}},
		"what it holds":                     {held: Claim{"a", "52:54:00:00:00:aa", addr("10.88.0.77")}, want: Claim{"a", "52:54:00:00:00:aa", addr("10.88.0.77")}},
		"what it declares":                  {declared: Claim{"", "52:54:00:00:00:01", addr("10.88.0.50")}, held: Claim{"a", own, addr("10.88.0.10")}, want: Claim{"a", "52:54:00:00:00:01", addr("10.88.0.50")}},
		"a declared address in the pool":    {declared: Claim{Address: addr("10.88.0.200")}, want: Claim{"a", own, addr("10.88.0.200")}},
		"another took what it held":         {held: Claim{"a", own, addr("10.88.0.10")}, others: []Claim{{"b", own, addr("10.88.0.10")}}, want: Claim{"a", MAC("uid-a", "lab-1"), addr("10.88.0.11")}},
		"what it held is no longer allowed": {held: Claim{"a", own, addr("10.99.0.10")}, want: Claim{"a", own, addr("10.88.0.10")}},
		"one that claims an address only":   {others: []Claim{{Name: "b", Address: addr("10.88.0.10")}}, want: Claim{"a", own, addr("10.88.0.11")}},
	} {
		t.Run(name, func(t *testing.T) {
			o := target("a")
			o.Spec.MACAddress = c.declared.MAC
			if c.declared.Address.IsValid() {
				o.Spec.Address = v1alpha1.IPv4(c.declared.Address.String())
			}
			got, err := Allocate(network(t), o, c.held, c.others)
			if diff := cmp.Diff(c.want, got, ips); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestAllocateRefuses(t *testing.T) {
	others := []Claim{{"b", "52:54:00:00:00:0b", addr("10.88.0.50")}}
	for name, c := range map[string]struct {
		mac     string
		address v1alpha1.IPv4
		reason  string
		message string
	}{
		"a MAC that is used":      {mac: "52:54:00:00:00:0b", reason: v1alpha1.ReasonAddressConflict, message: "used by b already"},
		"an address that is used": {address: "10.88.0.50", reason: v1alpha1.ReasonAddressConflict, message: "used by b already"},
		"the server's address":    {address: "10.88.0.1", reason: v1alpha1.ReasonAddressConflict, message: "used by the provisioning server"},
		"an address outside":      {address: "10.99.0.1", reason: v1alpha1.ReasonAddressOutside, message: "spec.address 10.99.0.1 lies outside"},
		"the broadcast address":   {address: "10.88.0.255", reason: v1alpha1.ReasonAddressOutside, message: "broadcast"},
	} {
		o := target("a")
		o.Spec.MACAddress, o.Spec.Address = c.mac, c.address
		_, err := Allocate(network(t), o, Claim{}, others)
		var invalid *InvalidError
		if !errors.As(err, &invalid) || invalid.Reason != c.reason || !strings.Contains(err.Error(), c.message) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Addresses go out until the network is full, each once, and never one of the
// pool, the server's, or one that people keep for themselves.
func TestAFullNetwork(t *testing.T) {
	for cidr, want := range map[string]int{"10.88.0.8/29": 4, "10.88.0.0/28": 10, "10.88.0.0/26": 38, "10.88.0.0/24": 182} {
		spec := labNetwork()
		spec.CIDR = cidr
		n, err := NewNetwork(spec, true)
		if err != nil {
			t.Fatal(err)
		}
		var claims []Claim
		for i := 0; ; i++ {
			claim, err := Allocate(n, target(fmt.Sprint(i)), Claim{}, claims)
			if err != nil {
				var invalid *InvalidError
				if !errors.As(err, &invalid) || invalid.Reason != v1alpha1.ReasonAddressConflict || !strings.Contains(err.Error(), "no address is free") {
					t.Error(err)
				}
				break
			}
			for _, c := range claims {
				if c.Address == claim.Address || c.MAC == claim.MAC {
					t.Fatalf("%s: %v was given twice", cidr, claim)
				}
			}
			if n.inRange(claim.Address) || claim.Address == n.Server || !n.Prefix.Contains(claim.Address) {
				t.Fatalf("%s: gave %s away", cidr, claim.Address)
			}
			claims = append(claims, claim)
		}
		if len(claims) != want {
			t.Errorf("%s: %d addresses, want %d", cidr, len(claims), want)
		}
	}
}

func TestMACs(t *testing.T) {
	// It must not change from one version to the next: machines run with it.
	mac := MAC("uid", "lab")
	if mac != "52:54:00:d9:a5:6a" || mac == MAC("uid", "uplink") || mac == MAC("other", "lab") {
		t.Errorf("%s is not stable, or shared", mac)
	}
	if _, err := agent.ParseMAC(mac); err != nil {
		t.Error(err)
	}
}

func TestClaimOf(t *testing.T) {
	o := target("a")
	if c, ok := ClaimOf(o); ok {
		t.Errorf("a new target holds %+v", c)
	}
	o.Status.MACAddress, o.Status.Address = "52:54:00:00:00:0a", "10.88.0.10"
	if c, ok := ClaimOf(o); !ok || c != (Claim{"a", "52:54:00:00:00:0a", addr("10.88.0.10")}) {
		t.Errorf("got %+v", c)
	}
}
