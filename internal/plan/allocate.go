// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"crypto/sha256"
	"fmt"
	"net/netip"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// AddressAllocation is the MAC address, IP address and host name allocated to a target.
type AddressAllocation struct {
	Name    string
	MAC     string
	Address netip.Addr
	// Hostname is empty for the server, which is not installed.
	Hostname string
}

// AllocationOf returns the allocation in a target's status; ok is false if the status
// has none.
func AllocationOf(t *v1alpha1.BareMetalTarget) (allocation AddressAllocation, ok bool) {
	nic := t.BootNICStatus()
	addr, err := netip.ParseAddr(nic.Address())
	if err != nil || nic.MAC == "" {
		return AddressAllocation{}, false
	}
	return AddressAllocation{Name: t.Name, MAC: nic.MAC, Address: addr, Hostname: Hostname(t)}, true
}

// MAC returns a stable, locally administered MAC address in QEMU's range for a
// NIC of a machine. salt distinguishes the NICs of one machine and resolves
// collisions.
func MAC(uid, salt string) string {
	sum := sha256.Sum256([]byte(uid + "/" + salt))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", sum[0], sum[1], sum[2])
}

// Addresses are the MAC and IP addresses and host names that the machines of one network have. Finding
// a free one takes the same time whatever their number. It is not safe for concurrent
// use; create it with NewAddresses.
type Addresses struct {
	held   map[types.UID]AddressAllocation
	byMAC  map[string]types.UID
	byAddr map[netip.Addr]types.UID
	byName map[string]types.UID
	// scanned is where the search for a free address begins: the part of the network
	// below it is in use.
	scanned addressScan
}

// addressScan is a position in the part of a network in which targets get addresses.
type addressScan struct {
	first, rangeStart, rangeEnd netip.Addr
	next                        uint32
}

// released moves the position back to an address that became free.
func (s *addressScan) released(a netip.Addr) {
	if a.Is4() && s.first.Is4() && s.first.Compare(a) <= 0 {
		s.next = min(s.next, number(a)-number(s.first))
	}
}

// NewAddresses returns the addresses of a network on which only its server is. server is
// the server's UID.
func NewAddresses(server types.UID, n Network) *Addresses {
	a := &Addresses{
		held: map[types.UID]AddressAllocation{}, byMAC: map[string]types.UID{}, byAddr: map[netip.Addr]types.UID{}, byName: map[string]types.UID{},
	}
	a.Hold(server, AddressAllocation{Name: "the provisioning server", MAC: MAC(string(server), DeviceLab), Address: n.Server})
	return a
}

// Hold records what a machine has. What another machine had before remains that one's.
func (a *Addresses) Hold(uid types.UID, allocation AddressAllocation) {
	a.Release(uid)
	a.held[uid] = allocation
	if _, taken := a.byMAC[allocation.MAC]; !taken {
		a.byMAC[allocation.MAC] = uid
	}
	if _, taken := a.byAddr[allocation.Address]; !taken {
		a.byAddr[allocation.Address] = uid
	}
	if _, taken := a.byName[allocation.Hostname]; !taken && allocation.Hostname != "" {
		a.byName[allocation.Hostname] = uid
	}
}

// Release forgets what a machine has.
func (a *Addresses) Release(uid types.UID) {
	held, ok := a.held[uid]
	if !ok {
		return
	}
	delete(a.held, uid)
	if a.byName[held.Hostname] == uid {
		delete(a.byName, held.Hostname)
	}
	if a.byMAC[held.MAC] == uid {
		delete(a.byMAC, held.MAC)
	}
	if a.byAddr[held.Address] == uid {
		delete(a.byAddr, held.Address)
		a.scanned.released(held.Address)
	}
}

// Len returns the number of machines, with the server.
func (a *Addresses) Len() int { return len(a.held) }

// Allocate returns a target's MAC address and IP address, and holds them and its host
// name, which must be unique in the network: the declared ones, else the ones it holds, else those that the system on adopted disks has,
// else new ones, where the MAC address is stable. reserved
// reports whether another target declares an address, which is then not allocated. The
// error is an *InvalidError, and the target keeps what it holds; an error of reserved is
// returned as it is.
func (a *Addresses) Allocate(
	n Network, target *v1alpha1.BareMetalTarget, reserved func(netip.Addr) (bool, error),
) (AddressAllocation, error) {
	held := a.held[target.UID]
	allocation := AddressAllocation{Name: target.Name, Hostname: Hostname(target)}
	if owner := a.rival(a.byName[allocation.Hostname], target.UID); owner != "" {
		return AddressAllocation{}, invalid(v1alpha1.ReasonHostnameConflict,
			"host name %s is that of target %s already, and must be unique in the network; set spec.hostname of one of the two to another",
			allocation.Hostname, owner)
	}
	nic := target.Spec.Machine.BootNIC()
	adopted := v1alpha1.Adoption{}
	if target.Status.Adoption != nil {
		adopted = *target.Status.Adoption
	}
	switch {
	case nic.MAC != "":
		// All other MAC addresses are in this form.
		mac, err := netbootapi.ParseMAC(nic.MAC)
		if err != nil {
			return AddressAllocation{}, invalid(v1alpha1.ReasonInvalid, "spec.machine.nics[%s].mac: %v", nic.Name, err)
		}
		allocation.MAC = mac.String()
		if owner := a.rival(a.byMAC[allocation.MAC], target.UID); owner != "" {
			return AddressAllocation{}, invalid(v1alpha1.ReasonAddressConflict,
				"spec.machine.nics[%s].mac %s is used by %s already, and must be unique in the network; create one of the two again with another",
				nic.Name, allocation.MAC, owner)
		}
	case held.MAC != "" && a.byMAC[held.MAC] == target.UID:
		allocation.MAC = held.MAC
	case adopted.MAC != "":
		allocation.MAC = adopted.MAC
		if owner := a.rival(a.byMAC[allocation.MAC], target.UID); owner != "" {
			return AddressAllocation{}, invalid(v1alpha1.ReasonAddressConflict,
				"the system on the adopted disks is configured for the MAC address %s, which is used by %s; create one of the two again with another",
				allocation.MAC, owner)
		}
	default:
		allocation.MAC = a.freeMAC(target.UID)
	}
	switch {
	case len(nic.Addresses) > 0:
		addr, err := n.parseHost(fmt.Sprintf("spec.machine.nics[%s].addresses", nic.Name), string(nic.Addresses[0]))
		if err != nil {
			return AddressAllocation{}, err
		}
		if owner := a.rival(a.byAddr[addr], target.UID); owner != "" {
			return AddressAllocation{}, invalid(v1alpha1.ReasonAddressConflict,
				"spec.machine.nics[%s].addresses %s is used by %s already; change it on one of the two", nic.Name, addr, owner)
		}
		allocation.Address = addr
	case n.Prefix.Contains(held.Address) && a.byAddr[held.Address] == target.UID:
		allocation.Address = held.Address
	default:
		addr, err := a.adoptedAddress(n, adopted, reserved)
		if err == nil && !addr.IsValid() {
			addr, err = a.freeAddress(n, reserved)
		}
		if err != nil {
			return AddressAllocation{}, err
		}
		allocation.Address = addr
	}
	if allocation != held {
		a.Hold(target.UID, allocation)
	}
	return allocation, nil
}

// rival returns the name of the machine with the UID owner, or "" if there is none or it
// is the one that asks.
func (a *Addresses) rival(owner, asks types.UID) string {
	if owner == "" || owner == asks {
		return ""
	}
	return a.held[owner].Name
}

func (a *Addresses) freeMAC(uid types.UID) string {
	for i := 0; ; i++ {
		mac := MAC(string(uid), fmt.Sprintf("lab-%d", i))
		if owner := a.byMAC[mac]; owner == "" || owner == uid {
			return mac
		}
	}
}

// adoptedAddress returns the address for which the system on adopted disks is configured if
// it is free, and the zero Addr if it is not. Then the target gets another one, and the
// system has to be installed again (PendingInstall).
func (a *Addresses) adoptedAddress(n Network, adopted v1alpha1.Adoption, reserved func(netip.Addr) (bool, error)) (netip.Addr, error) {
	addr, invalid := n.parseHost("adoption", adopted.Address)
	if _, used := a.byAddr[addr]; invalid != nil || used || n.inRange(addr) {
		return netip.Addr{}, nil
	}
	if taken, err := reserved(addr); err != nil || taken {
		return netip.Addr{}, err
	}
	return addr, nil
}

// freeAddress returns the lowest free address of the targets' part, outside the pool.
func (a *Addresses) freeAddress(n Network, reserved func(netip.Addr) (bool, error)) (netip.Addr, error) {
	first, end := n.targetPart()
	scan := addressScan{n.Prefix.Addr(), n.RangeStart, n.RangeEnd, a.scanned.next}
	if scan != a.scanned {
		scan.next = first // another network or pool
	}
	scan.next = max(scan.next, first)
	for i := scan.next; i < end; i++ {
		addr := host(n.Prefix, i)
		if _, used := a.byAddr[addr]; used || n.inRange(addr) {
			if i == scan.next {
				scan.next++
			}
			continue
		}
		taken, err := reserved(addr)
		if err != nil {
			return netip.Addr{}, err
		}
		if !taken {
			a.scanned = scan
			return addr, nil
		}
	}
	a.scanned = scan
	return netip.Addr{}, invalid(v1alpha1.ReasonAddressConflict,
		"no address is free for targets in %s outside the DHCP pool %s-%s; widen spec.network.cidr of the server, shrink spec.network.dhcp, "+
			"or declare an address of another part of the network", n.Prefix, n.RangeStart, n.RangeEnd)
}
