// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// ips makes cmp compare addresses with ==.
var ips = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func labNetwork() v1alpha1.LabNetwork {
	return v1alpha1.LabNetwork{Mode: v1alpha1.NetworkUserspace, CIDR: "10.88.0.0/24", Gateway: v1alpha1.GatewayNAT, Domain: "lab.internal"}
}

func dhcp(start, end string) *v1alpha1.DHCPSpec {
	return &v1alpha1.DHCPSpec{RangeStart: v1alpha1.IPv4(start), RangeEnd: v1alpha1.IPv4(end)}
}

func TestNetworkDefaults(t *testing.T) {
	plain := Network{
		Mode: v1alpha1.NetworkUserspace, Prefix: netip.MustParsePrefix("10.88.0.0/24"), Server: addr("10.88.0.1"),
		RangeStart: addr("10.88.0.192"), RangeEnd: addr("10.88.0.254"), Lease: time.Hour, MTU: 9000, NAT: true, Domain: "lab.internal",
	}
	for name, c := range map[string]struct {
		edit  func(*v1alpha1.LabNetwork)
		small bool // the host does not support jumbo frames
		want  func(*Network)
	}{
		"nothing declared":     {func(*v1alpha1.LabNetwork) {}, false, func(*Network) {}},
		"a host without jumbo": {func(*v1alpha1.LabNetwork) {}, true, func(n *Network) { n.MTU = 1500 }},
		"another mode": {func(s *v1alpha1.LabNetwork) {
			s.Mode = v1alpha1.NetworkBridge
			s.Bridge = "br0"
		}, false,
			func(n *Network) {
				n.Mode = v1alpha1.NetworkBridge
				n.Bridge = "br0"
				n.MTU = 1500
			}},
		"everything declared": {func(s *v1alpha1.LabNetwork) {
			s.Address = "10.88.0.5"
			s.MTU = 1400
			s.Gateway = v1alpha1.GatewayNone
			s.DNS = []v1alpha1.IPv4{"9.9.9.9"}
			s.DHCP = dhcp("10.88.0.100", "10.88.0.120")
			s.DHCP.LeaseTime = metav1.Duration{Duration: 10 * time.Minute}
		}, true, func(n *Network) {
			n.Server = addr("10.88.0.5")
			n.MTU = 1400
			n.NAT = false
			n.DNS = []netip.Addr{addr("9.9.9.9")}
			n.RangeStart = addr("10.88.0.100")
			n.RangeEnd = addr("10.88.0.120")
			n.Lease = 10 * time.Minute
		}},
		"a lease time alone": {func(s *v1alpha1.LabNetwork) {
			s.DHCP = &v1alpha1.DHCPSpec{LeaseTime: metav1.Duration{Duration: time.Minute}}
		}, false,
			func(n *Network) { n.Lease = time.Minute }},
		"the smallest network": {func(s *v1alpha1.LabNetwork) { s.CIDR = "10.88.0.8/29" }, false, func(n *Network) {
			n.Prefix = netip.MustParsePrefix("10.88.0.8/29")
			n.Server = addr("10.88.0.9")
			n.RangeStart = addr("10.88.0.14")
			n.RangeEnd = addr("10.88.0.14")
		}},
		"the widest network": {func(s *v1alpha1.LabNetwork) { s.CIDR = "11.0.0.0/8" }, false, func(n *Network) {
			n.Prefix = netip.MustParsePrefix("11.0.0.0/8")
			n.Server = addr("11.0.0.1")
			n.RangeStart = addr("11.192.0.0")
			n.RangeEnd = addr("11.255.255.254")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			spec, want := labNetwork(), plain
			c.edit(&spec)
			c.want(&want)
			got, err := NewNetwork(spec, !c.small)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, ips); diff != "" {
				t.Errorf("network (-want +got):\n%s", diff)
			}
			config := got.NetbootdConfig("52:54:00:00:00:01")
			if address := netip.PrefixFrom(got.Server, got.Prefix.Bits()); config.Address != address {
				t.Errorf("configuration of netbootd: got address %s, want %s", config.Address, address)
			}
			if lease := int(got.Lease.Seconds()); config.LeaseSeconds != lease {
				t.Errorf("configuration of netbootd: got leases of %d seconds, want %d", config.LeaseSeconds, lease)
			}
			if config.MTU != got.MTU {
				t.Errorf("configuration of netbootd: got MTU %d, want %d", config.MTU, got.MTU)
			}
		})
	}
}

func TestNewNetworkRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		edit    func(*v1alpha1.LabNetwork)
		reason  string
		message string
	}{
		"no CIDR":   {func(s *v1alpha1.LabNetwork) { s.CIDR = "" }, v1alpha1.ReasonInvalid, `"" is not an IPv4 network`},
		"no prefix": {func(s *v1alpha1.LabNetwork) { s.CIDR = "10.88.0.0" }, v1alpha1.ReasonInvalid, "write it like 10.88.0.0/20"},
		"IPv6":      {func(s *v1alpha1.LabNetwork) { s.CIDR = "fd00::/64" }, v1alpha1.ReasonInvalid, "is not an IPv4 network"},
		"host bits": {func(s *v1alpha1.LabNetwork) { s.CIDR = "10.88.0.1/24" }, v1alpha1.ReasonInvalid, "did you mean 10.88.0.0/24?"},
		"too small": {func(s *v1alpha1.LabNetwork) { s.CIDR = "10.88.0.0/30" }, v1alpha1.ReasonInvalid, "/29 or wider"},
		"the whole internet": {
			func(s *v1alpha1.LabNetwork) { s.CIDR = "0.0.0.0/0" }, v1alpha1.ReasonInvalid, "addresses that machines cannot use",
		},
		"loopback":   {func(s *v1alpha1.LabNetwork) { s.CIDR = "127.1.0.0/24" }, v1alpha1.ReasonInvalid, "addresses that machines cannot use"},
		"multicast":  {func(s *v1alpha1.LabNetwork) { s.CIDR = "239.0.0.0/24" }, v1alpha1.ReasonInvalid, "addresses that machines cannot use"},
		"link-local": {func(s *v1alpha1.LabNetwork) { s.CIDR = "169.254.0.0/16" }, v1alpha1.ReasonInvalid, "addresses that machines cannot use"},
		"the uplink": {func(s *v1alpha1.LabNetwork) { s.CIDR = "10.0.0.0/16" }, v1alpha1.ReasonInvalid, "overlaps 10.0.2.0/24"},
		"the uplink with vmnet": {func(s *v1alpha1.LabNetwork) {
			s.CIDR = "10.0.2.0/24"
			s.Mode = v1alpha1.NetworkVMNetHost
		}, v1alpha1.ReasonInvalid, "overlaps 10.0.2.0/24"},
		"server outside": {
			func(s *v1alpha1.LabNetwork) { s.Address = "10.89.0.1" }, v1alpha1.ReasonAddressOutside,
			"spec.network.address 10.89.0.1 is outside",
		},
		"server is the network": {
			func(s *v1alpha1.LabNetwork) { s.Address = "10.88.0.0" }, v1alpha1.ReasonAddressOutside,
			"network or broadcast address",
		},
		"server is broadcast": {
			func(s *v1alpha1.LabNetwork) { s.Address = "10.88.0.255" }, v1alpha1.ReasonAddressOutside,
			"network or broadcast address",
		},
		"server is not an address": {func(s *v1alpha1.LabNetwork) { s.Address = "lab" }, v1alpha1.ReasonInvalid, `spec.network.address: "lab"`},
		"server in its pool": {
			func(s *v1alpha1.LabNetwork) { s.Address = "10.88.0.200" }, v1alpha1.ReasonInvalid,
			"the default pool 10.88.0.192-10.88.0.254 contains the server's address",
		},
		"server in the pool": {func(s *v1alpha1.LabNetwork) { s.DHCP = dhcp("10.88.0.1", "10.88.0.9") }, v1alpha1.ReasonInvalid,
			"spec.network.dhcp 10.88.0.1-10.88.0.9 contains the server's address 10.88.0.1"},
		"pool outside": {
			func(s *v1alpha1.LabNetwork) { s.DHCP = dhcp("10.88.0.100", "10.88.1.100") }, v1alpha1.ReasonAddressOutside,
			"spec.network.dhcp.rangeEnd 10.88.1.100",
		},
		"pool reversed": {
			func(s *v1alpha1.LabNetwork) { s.DHCP = dhcp("10.88.0.100", "10.88.0.99") }, v1alpha1.ReasonInvalid,
			"is lower than rangeStart",
		},
		"pool half":       {func(s *v1alpha1.LabNetwork) { s.DHCP = dhcp("10.88.0.100", "") }, v1alpha1.ReasonInvalid, "rangeEnd"},
		"DNS is not IPv4": {func(s *v1alpha1.LabNetwork) { s.DNS = []v1alpha1.IPv4{"fd00::53"} }, v1alpha1.ReasonInvalid, "spec.network.dns"},
		"MTU too large":   {func(s *v1alpha1.LabNetwork) { s.MTU = 9000 }, v1alpha1.ReasonInvalid, "spec.network.mtu 9000"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := labNetwork()
			c.edit(&spec)
			_, err := NewNetwork(spec, false)
			var invalid *InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("got error %v, want an *InvalidError", err)
			}
			if invalid.Reason != c.reason {
				t.Errorf("got reason %s, want %s", invalid.Reason, c.reason)
			}
			checkMessage(t, "error", invalid.Message, c.message)
		})
	}
}

func TestNetworkInForce(t *testing.T) {
	s := testServer("a", "10.88.0.0/20", "8Gi", epoch)
	s.Spec.Network.Domain = "lab.internal"
	for inForce, want := range map[string]string{"": "10.88.0.0/20", "10.88.0.0/24": "10.88.0.0/24"} {
		s.Status.Network.CIDR = inForce
		got := NetworkInForce(&s)
		if got.CIDR != want || got.Domain != "lab.internal" {
			t.Errorf("in force %q: got %s in %s, want %s in lab.internal", inForce, got.CIDR, got.Domain, want)
		}
	}
	if s.Spec.Network.CIDR != "10.88.0.0/20" {
		t.Errorf("got spec %s, want it unchanged", s.Spec.Network.CIDR)
	}
}

func network(t *testing.T) Network {
	t.Helper()
	n, err := NewNetwork(labNetwork(), true)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
