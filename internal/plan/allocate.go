// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"crypto/sha256"
	"fmt"
	"net/netip"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// Claim is the MAC and address that a target of a network holds.
type Claim struct {
	Name    string
	MAC     string
	Address netip.Addr
}

// ClaimOf is what a target's status says that it holds.
func ClaimOf(t *v1alpha1.BareMetalTarget) (Claim, bool) {
	addr, err := netip.ParseAddr(t.Status.Address)
	if err != nil || t.Status.MACAddress == "" {
		return Claim{}, false
	}
	return Claim{Name: t.Name, MAC: t.Status.MACAddress, Address: addr}, true
}

// MAC is a stable, locally administered MAC address in QEMU's own range for a
// NIC of a machine. salt tells the NICs of one machine apart and resolves
// collisions.
func MAC(uid, salt string) string {
	sum := sha256.Sum256([]byte(uid + "/" + salt))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", sum[0], sum[1], sum[2])
}

// Allocate gives a target its MAC and address: those it declares, else those
// it holds, else stable new ones. others are the claims of the network's other
// machines, the server included. The error is an *InvalidError.
func Allocate(n Network, target *v1alpha1.BareMetalTarget, held Claim, others []Claim) (Claim, error) {
	claim := Claim{Name: target.Name}
	macs, addrs := map[string]string{}, map[netip.Addr]string{n.Server: "the provisioning server"}
	for _, o := range others {
		macs[o.MAC] = o.Name
		addrs[o.Address] = o.Name
	}
	switch {
	case target.Spec.MACAddress != "":
		claim.MAC = target.Spec.MACAddress
		if owner, taken := macs[claim.MAC]; taken {
			return Claim{}, invalid(v1alpha1.ReasonAddressConflict, "spec.macAddress %s is used by %s already; a network needs each MAC once: give one of the two another", claim.MAC, owner)
		}
	case held.MAC != "" && macs[held.MAC] == "":
		claim.MAC = held.MAC
	default:
		claim.MAC = freeMAC(string(target.UID), macs)
	}
	switch {
	case target.Spec.Address != "":
		addr, err := n.parseHost("spec.address", string(target.Spec.Address))
		if err != nil {
			return Claim{}, err
		}
		if owner, taken := addrs[addr]; taken {
			return Claim{}, invalid(v1alpha1.ReasonAddressConflict, "spec.address %s is used by %s already; give one of the two another", addr, owner)
		}
		claim.Address = addr
	case held.Address.IsValid() && n.Prefix.Contains(held.Address) && addrs[held.Address] == "":
		claim.Address = held.Address
	default:
		addr, ok := freeAddress(n, addrs)
		if !ok {
			return Claim{}, invalid(v1alpha1.ReasonAddressConflict, "no address is free in %s outside the pool %s-%s; make the network wider or the pool smaller", n.Prefix, n.RangeStart, n.RangeEnd)
		}
		claim.Address = addr
	}
	return claim, nil
}

func freeMAC(uid string, taken map[string]string) string {
	for i := 0; ; i++ {
		mac := MAC(uid, fmt.Sprintf("lab-%d", i))
		if _, used := taken[mac]; !used {
			return mac
		}
	}
}

// freeAddress is the lowest free address outside the pool. The first ten of a
// network of 64 or more are left for people.
func freeAddress(n Network, taken map[netip.Addr]string) (netip.Addr, bool) {
	size := uint32(1) << (32 - n.Prefix.Bits())
	first := uint32(1)
	if size >= 64 {
		first = 10
	}
	for i := first; i < size-1; i++ {
		addr := host(n.Prefix, i)
		if _, used := taken[addr]; !used && !n.inRange(addr) {
			return addr, true
		}
	}
	return netip.Addr{}, false
}
