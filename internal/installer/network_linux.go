// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// interfaceByMAC returns the name of the interface with a hardware address, or
// "". Bonds, bridges and VLANs, which would share it, do not exist this early.
func interfaceByMAC(sys string, mac net.HardwareAddr) string {
	files, _ := filepath.Glob(filepath.Join(sys, "class/net/*/address"))
	for _, file := range files {
		if strings.EqualFold(sysfsString(file), mac.String()) {
			return filepath.Base(filepath.Dir(file))
		}
	}
	return ""
}

// describeInterfaces lists the interfaces with their addresses for an error text.
func describeInterfaces(sys string) string {
	files, _ := filepath.Glob(filepath.Join(sys, "class/net/*/address"))
	var found []string
	for _, file := range files {
		if name := filepath.Base(filepath.Dir(file)); name != "lo" {
			found = append(found, name+" "+sysfsString(file))
		}
	}
	if len(found) == 0 {
		return "none"
	}
	return strings.Join(found, ", ")
}

// routes is an rtnetlink socket. It handles one request at a time.
type routes struct {
	fd  int
	seq uint32
}

func openRoutes(groups uint32) (*routes, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &routes{fd: fd}, nil
}

func (r *routes) close() { unix.Close(r.fd) }

var native = binary.NativeEndian

func attr(b []byte, kind uint16, value []byte) []byte {
	b = native.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = native.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// request sends one message and waits for its acknowledgement.
func (r *routes) request(kind, flags uint16, body []byte) error {
	r.seq++
	m := native.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	m = native.AppendUint16(m, kind)
	m = native.AppendUint16(m, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	m = native.AppendUint32(m, r.seq)
	m = native.AppendUint32(m, 0)
	m = append(m, body...)
	if err := unix.Sendto(r.fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 8192)
	for {
		n, _, err := unix.Recvfrom(r.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		for b := buf[:n]; len(b) >= unix.SizeofNlMsghdr; {
			size := int(native.Uint32(b))
			if size < unix.SizeofNlMsghdr || size > len(b) {
				return errors.New("malformed netlink message")
			}
			if native.Uint16(b[4:]) == unix.NLMSG_ERROR && native.Uint32(b[8:]) == r.seq && size >= unix.SizeofNlMsghdr+4 {
				if code := int32(native.Uint32(b[unix.SizeofNlMsghdr:])); code != 0 {
					return unix.Errno(-code)
				}
				return nil
			}
			b = b[min(len(b), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
		}
	}
}

func (r *routes) linkUp(index, mtu int) error {
	body := []byte{unix.AF_UNSPEC, 0, 0, 0}
	body = native.AppendUint32(body, uint32(index))
	body = native.AppendUint32(body, unix.IFF_UP)
	body = native.AppendUint32(body, unix.IFF_UP)
	if mtu > 0 {
		body = attr(body, unix.IFLA_MTU, native.AppendUint32(nil, uint32(mtu)))
	}
	return r.request(unix.RTM_NEWLINK, 0, body)
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (r *routes) addAddress(index int, p netip.Prefix) error {
	flags := byte(0)
	if p.Addr().Is6() {
		flags = unix.IFA_F_NODAD // iPXE already uses the address
	}
	body := []byte{family(p.Addr()), byte(p.Bits()), flags, unix.RT_SCOPE_UNIVERSE}
	body = native.AppendUint32(body, uint32(index))
	body = attr(body, unix.IFA_LOCAL, p.Addr().AsSlice())
	body = attr(body, unix.IFA_ADDRESS, p.Addr().AsSlice())
	err := r.request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// addRoute adds a route to dst through gateway; without a gateway dst is on-link.
func (r *routes) addRoute(index int, dst netip.Prefix, gateway netip.Addr) error {
	scope := byte(unix.RT_SCOPE_UNIVERSE)
	if !gateway.IsValid() {
		scope = unix.RT_SCOPE_LINK
	}
	body := []byte{family(dst.Addr()), byte(dst.Bits()), 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, scope, unix.RTN_UNICAST}
	body = native.AppendUint32(body, 0)
	if dst.Bits() > 0 {
		body = attr(body, unix.RTA_DST, dst.Addr().AsSlice())
	}
	if gateway.IsValid() {
		body = attr(body, unix.RTA_GATEWAY, gateway.AsSlice())
	}
	body = attr(body, unix.RTA_OIF, native.AppendUint32(nil, uint32(index)))
	err := r.request(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// configureInterface brings an interface up with the settings. It does not wait
// for the link; see waitCarrier.
func configureInterface(name string, s Settings) error {
	index := int(sysfsNumber("/sys/class/net/" + name + "/ifindex"))
	r, err := openRoutes(0)
	if err != nil {
		return fmt.Errorf("opening netlink: %w", err)
	}
	defer r.close()
	if err := r.linkUp(index, s.MTU); err != nil {
		// A driver may refuse the MTU; its default works too, but slower.
		if s.MTU == 0 || r.linkUp(index, 0) != nil {
			return fmt.Errorf("bringing %s up: %w", name, err)
		}
	}
	if err := r.addAddress(index, s.Address); err != nil {
		return fmt.Errorf("adding address %s to %s: %w", s.Address, name, err)
	}
	if !s.Gateway.IsValid() {
		return nil
	}
	if !s.Address.Masked().Contains(s.Gateway) {
		host := netip.PrefixFrom(s.Gateway, s.Gateway.BitLen())
		if err := r.addRoute(index, host, netip.Addr{}); err != nil {
			return fmt.Errorf("adding a route to gateway %s on %s: %w", s.Gateway, name, err)
		}
	}
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if s.Gateway.Is6() {
		all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	if err := r.addRoute(index, all, s.Gateway); err != nil {
		return fmt.Errorf("adding the default route through gateway %s on %s: %w", s.Gateway, name, err)
	}
	return nil
}

// waitCarrier waits until the link is up, limit has passed or ctx ends, and
// reports whether the link is up. It wakes on the kernel's notifications.
func waitCarrier(ctx context.Context, name string, limit time.Duration) bool {
	carrier := func() bool { return sysfsNumber("/sys/class/net/"+name+"/carrier") == 1 }
	if carrier() {
		return true
	}
	r, err := openRoutes(unix.RTMGRP_LINK)
	if err != nil {
		return false
	}
	defer r.close()
	buf := make([]byte, 8192)
	for end := time.Now().Add(limit); time.Now().Before(end) && ctx.Err() == nil; {
		if carrier() {
			return true
		}
		// Check at least once a second in case a notification is lost.
		fds := []unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 1000); err == nil && n > 0 {
			_, _, _ = unix.Recvfrom(r.fd, buf, unix.MSG_DONTWAIT)
		}
	}
	return carrier()
}
