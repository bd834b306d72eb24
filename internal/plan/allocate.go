// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"crypto/sha256"
	"fmt"
	"net/netip"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// AddressAllocation is the MAC address and IP address allocated to a target.
type AddressAllocation struct {
	Name    string
	MAC     string
	Address netip.Addr
}

// AllocationOf returns the allocation in a target's status; ok is false if the status
// has none.
func AllocationOf(t *v1alpha1.BareMetalTarget) (allocation AddressAllocation, ok bool) {
	nic := t.BootNICStatus()
	addr, err := netip.ParseAddr(nic.Address())
	if err != nil || nic.MAC == "" {
		return AddressAllocation{}, false
	}
	return AddressAllocation{Name: t.Name, MAC: nic.MAC, Address: addr}, true
}

// MAC returns a stable, locally administered MAC address in QEMU's range for a
// NIC of a machine. salt distinguishes the NICs of one machine and resolves
// collisions.
func MAC(uid, salt string) string {
	sum := sha256.Sum256([]byte(uid + "/" + salt))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", sum[0], sum[1], sum[2])
}

// Allocate returns a target's MAC address and IP address: the declared ones, else
// the ones it holds, else new ones, where the MAC address is stable. others are
// the allocations of the network's other machines, including the server's. The
// error is an *InvalidError.
func Allocate(n Network, target *v1alpha1.BareMetalTarget, held AddressAllocation, others []AddressAllocation) (AddressAllocation, error) {
	allocation := AddressAllocation{Name: target.Name}
	nic := target.Spec.Machine.BootNIC()
	macs, addrs := map[string]string{}, map[netip.Addr]string{n.Server: "the provisioning server"}
	for _, o := range others {
		macs[o.MAC] = o.Name
		addrs[o.Address] = o.Name
	}
	switch {
	case nic.MAC != "":
		// All other MAC addresses are in this form.
		mac, err := netbootapi.ParseMAC(nic.MAC)
		if err != nil {
			return AddressAllocation{}, invalid(v1alpha1.ReasonInvalid, "spec.machine.nics[%s].mac: %v", nic.Name, err)
		}
		allocation.MAC = mac.String()
		if owner, taken := macs[allocation.MAC]; taken {
			return AddressAllocation{}, invalid(v1alpha1.ReasonAddressConflict,
				"spec.machine.nics[%s].mac %s is used by %s already, and must be unique in the network; create one of the two again with another",
				nic.Name, allocation.MAC, owner)
		}
	case held.MAC != "" && macs[held.MAC] == "":
		allocation.MAC = held.MAC
	default:
		allocation.MAC = freeMAC(string(target.UID), macs)
	}
	switch {
	case len(nic.Addresses) > 0:
		addr, err := n.parseHost(fmt.Sprintf("spec.machine.nics[%s].addresses", nic.Name), string(nic.Addresses[0]))
		if err != nil {
			return AddressAllocation{}, err
		}
		if owner, taken := addrs[addr]; taken {
			return AddressAllocation{}, invalid(v1alpha1.ReasonAddressConflict,
				"spec.machine.nics[%s].addresses %s is used by %s already; change it on one of the two", nic.Name, addr, owner)
		}
		allocation.Address = addr
	case held.Address.IsValid() && n.Prefix.Contains(held.Address) && addrs[held.Address] == "":
		allocation.Address = held.Address
	default:
		addr, ok := freeAddress(n, addrs)
		if !ok {
			return AddressAllocation{}, invalid(v1alpha1.ReasonAddressConflict,
				"no address is free in %s outside the DHCP pool %s-%s; widen spec.network.cidr of the server or shrink spec.network.dhcp",
				n.Prefix, n.RangeStart, n.RangeEnd)
		}
		allocation.Address = addr
	}
	return allocation, nil
}

func freeMAC(uid string, taken map[string]string) string {
	for i := 0; ; i++ {
		mac := MAC(uid, fmt.Sprintf("lab-%d", i))
		if _, used := taken[mac]; !used {
			return mac
		}
	}
}

// freeAddress returns the lowest free address outside the pool. In a network of
// 64 addresses or more it skips the first ten, which users may assign manually.
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
