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

// ensureTap creates a tap that QEMU may open and adds it to the bridge. It requires
// CAP_NET_ADMIN.
func ensureTap(name, bridge string, mtu int) error {
	if err := checkBridgeFilter(bridge); err != nil {
		return err
	}
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("looking up the bridge: %w; create it first: ip link add %s type bridge && ip link set %s up", err, bridge, bridge)
	}
	tap, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		attrs.MTU = mtu
		link := &netlink.Tuntap{
			LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP,
			Flags: netlink.TUNTAP_VNET_HDR | netlink.TUNTAP_NO_PI, Owner: uint32(os.Getuid()),
		}
		if err := netlink.LinkAdd(link); err != nil {
			return fmt.Errorf("creating tap %s: %w; mode Bridge requires CAP_NET_ADMIN, mode Userspace requires no privileges", name, err)
		}
		tap = link
	case err != nil:
		return fmt.Errorf("looking up tap %s: %w", name, err)
	}
	if err := netlink.LinkSetMaster(tap, master); err != nil {
		return fmt.Errorf("adding tap %s to the bridge: %w", name, err)
	}
	if err := netlink.LinkSetUp(tap); err != nil {
		return fmt.Errorf("setting tap %s up: %w", name, err)
	}
	return nil
}

// checkBridgeFilter returns an error if frames between two taps of a bridge would
// be dropped silently: Docker sets the FORWARD policy to DROP and enables iptables
// for bridged frames.
func checkBridgeFilter(bridge string) error {
	filter, err := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-iptables")
	if err != nil || !bytes.HasPrefix(filter, []byte("1")) {
		return nil //nolint:nilerr // without the module bridged frames are not filtered
	}
	if _, err := netlink.LinkByName("docker0"); err != nil {
		return nil //nolint:nilerr // without Docker there is no DROP policy
	}
	if os.Getenv("PXELAB_BRIDGE_FILTERED") == "accepted" {
		return nil
	}
	return fmt.Errorf("docker's iptables rules drop frames bridged between machines: "+
		"allow them with \"iptables -I DOCKER-USER -i %s -o %s -j ACCEPT\" "+
		"and set PXELAB_BRIDGE_FILTERED=accepted for the manager, or use mode Userspace", bridge, bridge)
}

func removeTap(name string) error {
	tap, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking up tap %s: %w", name, err)
	}
	if err := netlink.LinkDel(tap); err != nil {
		return fmt.Errorf("removing tap %s: %w", name, err)
	}
	return nil
}
