// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// SetUpLink finds the lab interface by its MAC address, sets its MTU and static
// address if they differ, brings it up and returns its name. It is idempotent,
// keeps other addresses, and needs CAP_NET_ADMIN only to change something. If the
// address has another prefix length, the new one is added before the old one is
// removed, so that connections to the address continue.
func SetUpLink(n *netbootapi.Network) (string, error) {
	mac, err := netbootapi.ParseMAC(n.MAC)
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
	raiseNeighbours(neighbourLimits)
	return name, setAddress(link, n)
}

// neighbourLimits is the directory of the limits of the kernel's ARP table, which are for
// all interfaces together.
const neighbourLimits = "/proc/sys/net/ipv4/neigh/default"

// raiseNeighbours raises the limits in a directory so that the ARP table has room for the
// most machines that a server can have and as many other clients. By default it has room
// for 1024, and the kernel begins to remove entries early at 512. A kernel that does not
// allow it, or a container that does not have the directory, keeps its limits: a server of
// fewer machines needs no more.
func raiseNeighbours(dir string) {
	for name, least := range map[string]int{
		"gc_thresh1": netbootapi.MaxMachines, "gc_thresh2": 2 * netbootapi.MaxMachines, "gc_thresh3": 2 * netbootapi.MaxMachines,
	} {
		path := filepath.Join(dir, name)
		raw, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if now, err := strconv.Atoi(strings.TrimSpace(string(raw))); err == nil && now < least {
			_ = os.WriteFile(path, []byte(strconv.Itoa(least)+"\n"), 0o644)
		}
	}
}

func linkByMAC(mac net.HardwareAddr) (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	for _, l := range links {
		switch l.Type() {
		case "bridge", "bond", "vlan", "macvlan", "macvtap", "ipvlan":
			// A virtual interface on top of a NIC has the NIC's MAC address.
			continue
		}
		if bytes.Equal(l.Attrs().HardwareAddr, mac) {
			return l, nil
		}
	}
	return nil, fmt.Errorf("no network interface has the lab's MAC address %s", mac)
}

func setAddress(link netlink.Link, n *netbootapi.Network) error {
	name := link.Attrs().Name
	addresses, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("listing addresses of %s: %w", name, err)
	}
	want := &net.IPNet{
		IP:   n.Address.Addr().AsSlice(),
		Mask: net.CIDRMask(n.Address.Bits(), 32),
	}
	present := false
	var former []netlink.Addr
	for _, a := range addresses {
		switch {
		case !a.IPNet.IP.Equal(want.IP):
		case bytes.Equal(a.Mask, want.Mask):
			present = true
		default:
			former = append(former, a)
		}
	}
	if !present {
		err = netlink.AddrAdd(link, &netlink.Addr{IPNet: want})
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("adding the address %s to %s: %w", n.Address, name, err)
		}
	}
	for i := range former {
		err := netlink.AddrDel(link, &former[i])
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("removing the former address %s of %s: %w", former[i].IPNet, name, err)
		}
	}
	return nil
}
