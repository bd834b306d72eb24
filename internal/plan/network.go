// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// Uplink is the network between the provisioning VM and QEMU's user-mode NAT. A
// lab network must not overlap it.
var Uplink = netip.MustParsePrefix("10.0.2.0/24")

// InvalidError reports a spec that cannot work until the user changes it.
type InvalidError struct {
	// Reason is one of the Reason constants of the API.
	Reason string
	// Message names the field and what to change.
	Message string
}

func (e *InvalidError) Error() string { return e.Message }

func invalid(reason, format string, args ...any) *InvalidError {
	return &InvalidError{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Network is a lab network with every default filled in.
type Network struct {
	Mode       v1alpha1.NetworkMode
	Prefix     netip.Prefix // masked
	Server     netip.Addr
	RangeStart netip.Addr
	RangeEnd   netip.Addr
	Lease      time.Duration
	MTU        int
	NAT        bool
	DNS        []netip.Addr
	Domain     string
	Bridge     string
	Impairment Impairment
	// Unchecked are the checks of targets' frames that are switched off.
	Unchecked []v1alpha1.FrameCheck
}

// NewNetwork validates spec and fills in its defaults. jumbo reports whether the
// host's user-space network supports frames larger than 1500 bytes. The error is
// an *InvalidError.
func NewNetwork(spec v1alpha1.LabNetwork, jumbo bool) (Network, error) {
	n, err := FixedNetwork(spec, jumbo)
	if err != nil {
		return Network{}, err
	}
	for _, text := range spec.DNS {
		addr, err := netip.ParseAddr(string(text))
		if err != nil || !addr.Is4() {
			return Network{}, invalid(v1alpha1.ReasonInvalid, "spec.network.dns: %q is not an IPv4 address", text)
		}
		n.DNS = append(n.DNS, addr)
	}
	if n.Impairment, err = newImpairment(spec.Impairment); err != nil {
		return Network{}, err
	}
	if err := n.setRange(spec.DHCP); err != nil {
		return Network{}, err
	}
	return n, nil
}

// NetworkInForce returns the network that a server's spec describes, but with the CIDR
// that its lab uses: a wider one is used once the server's reconciler has accepted it.
func NetworkInForce(s *v1alpha1.ProvisioningServer) v1alpha1.LabNetwork {
	n := s.Spec.Network
	if cidr := s.Status.Network.CIDR; cidr != "" {
		n.CIDR = cidr
	}
	return n
}

// FixedNetwork is NewNetwork for the part of a network to which machines are attached:
// everything but the name servers, the impairment and the pool. That of NetworkInForce
// does not become invalid by an edit, because the API refuses to change the other fields
// that it checks.
func FixedNetwork(spec v1alpha1.LabNetwork, jumbo bool) (Network, error) {
	prefix, err := netip.ParsePrefix(spec.CIDR)
	switch {
	case err != nil || !prefix.Addr().Is4():
		return Network{}, invalid(v1alpha1.ReasonInvalid,
			"spec.network.cidr %q is not an IPv4 network; write it like 10.88.0.0/20", spec.CIDR)
	case prefix != prefix.Masked():
		return Network{}, invalid(v1alpha1.ReasonInvalid, "spec.network.cidr %s has host bits set; did you mean %s?", prefix, prefix.Masked())
	case prefix.Bits() < 8 || !usable(prefix):
		return Network{}, invalid(v1alpha1.ReasonInvalid,
			"spec.network.cidr %s contains addresses that machines cannot use; choose a private network such as 10.88.0.0/20", prefix)
	case prefix.Bits() > 29:
		return Network{}, invalid(v1alpha1.ReasonInvalid, "spec.network.cidr %s has no room for targets; use a prefix of /29 or wider", prefix)
	case prefix.Overlaps(Uplink):
		return Network{}, invalid(v1alpha1.ReasonInvalid,
			"spec.network.cidr %s overlaps %s, the server's uplink; choose another network", prefix, Uplink)
	}
	n := Network{
		Mode: spec.Mode, Prefix: prefix, Bridge: spec.Bridge, Domain: spec.Domain,
		NAT: spec.Gateway == v1alpha1.GatewayNAT, MTU: int(spec.MTU), Lease: time.Hour,
		Server: host(prefix, 1), Unchecked: spec.UncheckedFrames,
	}
	if n.MTU == 0 {
		n.MTU = 1500
		if jumbo && spec.Mode == v1alpha1.NetworkUserspace {
			n.MTU = 9000
		}
	}
	if n.MTU > 1500 && !jumbo && spec.Mode == v1alpha1.NetworkUserspace {
		return Network{}, invalid(v1alpha1.ReasonInvalid,
			"spec.network.mtu %d is larger than mode Userspace supports on this host; omit it or use at most 1500", n.MTU)
	}
	if spec.Address != "" {
		if n.Server, err = n.parseHost("spec.network.address", spec.Address); err != nil {
			return Network{}, err
		}
	}
	return n, nil
}

// usable reports whether a network contains only addresses that operating systems
// accept for an interface (RFC 6890).
func usable(p netip.Prefix) bool {
	for _, special := range []string{"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"} {
		if p.Overlaps(netip.MustParsePrefix(special)) {
			return false
		}
	}
	return true
}

const (
	// manualAddresses are left for assignment by hand at the beginning of a network
	// of at least minManual addresses.
	manualAddresses = 10
	minManual       = 64
	// minBMCPart is the size of the smallest network in which BMCs have a part.
	minBMCPart = 1024
)

// size returns the number of addresses of a network.
func (n *Network) size() uint32 { return uint32(1) << (32 - n.Prefix.Bits()) }

// targetPart returns the part of the network in which targets get their addresses, by the
// numbers of its first address and of the first one after it. In a large network the part
// above it is kept for as many BMCs; the pool, wherever it is, belongs to no part.
func (n *Network) targetPart() (first, end uint32) {
	size := n.size()
	first, end = 1, size-1
	if size >= minManual {
		first = manualAddresses
	}
	if size >= minBMCPart {
		end = size / 8 * 3
	}
	return first, end
}

// setRange sets the pool for unknown machines: the declared one, else the upper
// quarter of the network.
func (n *Network) setRange(spec *v1alpha1.DHCPSpec) error {
	size := n.size()
	n.RangeStart, n.RangeEnd = host(n.Prefix, size/4*3), host(n.Prefix, size-2)
	if spec == nil {
		return n.rangeClearOfServer("the default pool")
	}
	if spec.LeaseTime.Duration != 0 {
		n.Lease = spec.LeaseTime.Duration
	}
	if spec.RangeStart == "" {
		return n.rangeClearOfServer("the default pool")
	}
	var err error
	if n.RangeStart, err = n.parseHost("spec.network.dhcp.rangeStart", string(spec.RangeStart)); err != nil {
		return err
	}
	if n.RangeEnd, err = n.parseHost("spec.network.dhcp.rangeEnd", string(spec.RangeEnd)); err != nil {
		return err
	}
	if n.RangeEnd.Less(n.RangeStart) {
		return invalid(v1alpha1.ReasonInvalid, "spec.network.dhcp: rangeEnd %s is lower than rangeStart %s", n.RangeEnd, n.RangeStart)
	}
	return n.rangeClearOfServer("spec.network.dhcp")
}

func (n *Network) rangeClearOfServer(field string) error {
	if n.inRange(n.Server) {
		return invalid(v1alpha1.ReasonInvalid,
			"%s %s-%s contains the server's address %s; change one of them", field, n.RangeStart, n.RangeEnd, n.Server)
	}
	return nil
}

func (n *Network) inRange(a netip.Addr) bool {
	return !a.Less(n.RangeStart) && !n.RangeEnd.Less(a)
}

// parseHost parses an address and checks that a machine of this network can use it.
func (n *Network) parseHost(field, text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil || !addr.Is4() {
		return netip.Addr{}, invalid(v1alpha1.ReasonInvalid, "%s: %q is not an IPv4 address", field, text)
	}
	size := n.size()
	if !n.Prefix.Contains(addr) {
		return netip.Addr{}, invalid(v1alpha1.ReasonAddressOutside, "%s %s is outside the lab network %s", field, addr, n.Prefix)
	}
	if addr == host(n.Prefix, 0) || addr == host(n.Prefix, size-1) {
		return netip.Addr{}, invalid(v1alpha1.ReasonAddressOutside,
			"%s %s is the network or broadcast address of %s", field, addr, n.Prefix)
	}
	return addr, nil
}

// host returns the i-th address of a network.
func host(prefix netip.Prefix, i uint32) netip.Addr {
	var out [4]byte
	binary.BigEndian.PutUint32(out[:], number(prefix.Masked().Addr())+i)
	return netip.AddrFrom4(out)
}

// number returns an IPv4 address as a number.
func number(a netip.Addr) uint32 {
	bytes := a.As4()
	return binary.BigEndian.Uint32(bytes[:])
}

// NetbootdConfig returns the network's part of netbootd's configuration.
func (n *Network) NetbootdConfig(labMAC string) netbootapi.Network {
	return netbootapi.Network{
		MAC:          labMAC,
		Address:      netip.PrefixFrom(n.Server, n.Prefix.Bits()),
		RangeStart:   n.RangeStart,
		RangeEnd:     n.RangeEnd,
		LeaseSeconds: int(n.Lease / time.Second),
		MTU:          n.MTU,
		NAT:          n.NAT,
		DNS:          n.DNS,
		Domain:       n.Domain,
	}
}
