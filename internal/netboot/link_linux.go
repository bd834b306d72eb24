// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"bytes"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/internal/agent"
)

// SetUpLink finds the lab interface by its MAC address, sets MTU and static
// address where the system has not, brings it up and returns its name. It is
// idempotent, leaves addresses of other networks alone, and needs
// CAP_NET_ADMIN only for what it changes.
func SetUpLink(n *agent.Network) (string, error) {
	mac, err := agent.ParseMAC(n.MAC)
	if err != nil {
		return "", err
	}
	link, err := linkByMAC(mac)
	if err != nil {
		return "", err
	}
	name := link.Attrs().Name
	if n.MTU > 0 && link.Attrs().MTU != n.MTU {
		if err := netlink.LinkSetMTU(link, n.MTU); err != nil {
			return "", fmt.Errorf("setting the MTU of %s to %d: %w", name, n.MTU, err)
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return "", fmt.Errorf("bringing up %s: %w", name, err)
		}
	}
	return name, setAddress(link, n)
}

func linkByMAC(mac net.HardwareAddr) (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	for _, l := range links {
		switch l.Type() {
		case "bridge", "bond", "vlan", "macvlan", "macvtap", "ipvlan":
			// What is built on top of a NIC has its MAC address, too.
			continue
		}
		if bytes.Equal(l.Attrs().HardwareAddr, mac) {
			return l, nil
		}
	}
	return nil, fmt.Errorf("no network interface has the lab's MAC address %s", mac)
}

func setAddress(link netlink.Link, n *agent.Network) error {
	name := link.Attrs().Name
	addresses, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("listing addresses of %s: %w", name, err)
	}
	want := &net.IPNet{
		IP:   n.Address.Addr().AsSlice(),
		Mask: net.CIDRMask(n.Address.Bits(), 32),
	}
	for _, a := range addresses {
		if a.IPNet.IP.Equal(want.IP) && bytes.Equal(a.Mask, want.Mask) {
			return nil
		}
	}
	err = netlink.AddrAdd(link, &netlink.Addr{IPNet: want})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("giving %s the address %s: %w", name, n.Address, err)
	}
	return nil
}
