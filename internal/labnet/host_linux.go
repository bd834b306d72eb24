// SPDX-License-Identifier: Apache-2.0

package labnet

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
)

const jumboFrames = true

// ensureTap makes a tap that QEMU may open and puts it on the bridge. Needs
// CAP_NET_ADMIN.
func ensureTap(name, bridge string, mtu int) error {
	if err := checkBridgeFilter(bridge); err != nil {
		return err
	}
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("bridge %s: %w; make it first: ip link add %s type bridge && ip link set %s up", bridge, err, bridge, bridge)
	}
	tap, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = name, mtu
		link := &netlink.Tuntap{
			LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP,
			Flags: netlink.TUNTAP_VNET_HDR | netlink.TUNTAP_NO_PI, Owner: uint32(os.Getuid()),
		}
		if err := netlink.LinkAdd(link); err != nil {
			return fmt.Errorf("making tap %s: %w; this mode needs CAP_NET_ADMIN, mode Userspace needs no rights", name, err)
		}
		tap = link
	case err != nil:
		return fmt.Errorf("looking for tap %s: %w", name, err)
	}
	if err := netlink.LinkSetMaster(tap, master); err != nil {
		return fmt.Errorf("putting tap %s on the bridge: %w", name, err)
	}
	if err := netlink.LinkSetUp(tap); err != nil {
		return fmt.Errorf("setting tap %s up: %w", name, err)
	}
	return nil
}

// checkBridgeFilter finds the case in which frames between two taps of one
// bridge are dropped in silence: Docker sets the FORWARD policy to drop and has
// bridged frames pass it.
func checkBridgeFilter(bridge string) error {
	filter, err := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-iptables")
	if err != nil || !bytes.HasPrefix(filter, []byte("1")) {
		return nil //nolint:nilerr // without the module no bridged frame is filtered
	}
	if _, err := netlink.LinkByName("docker0"); err != nil {
		return nil //nolint:nilerr // no Docker, no drop policy of its making
	}
	if os.Getenv("PXELAB_BRIDGE_FILTERED") == "accepted" {
		return nil
	}
	return fmt.Errorf("frames are filtered: Docker runs here and drops frames bridged between machines: "+
		"allow them with «iptables -I DOCKER-USER -i %s -o %s -j ACCEPT» and set PXELAB_BRIDGE_FILTERED=accepted for the manager, or use mode Userspace", bridge, bridge)
}

func removeTap(name string) error {
	tap, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for tap %s: %w", name, err)
	}
	if err := netlink.LinkDel(tap); err != nil {
		return fmt.Errorf("removing tap %s: %w", name, err)
	}
	return nil
}
