// SPDX-License-Identifier: Apache-2.0

package dhcp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// linkConn receives over UDP and sends complete frames: a client without an
// address does not answer ARP, and the kernel would choose the source address.
type linkConn struct {
	udp   *net.UDPConn
	raw   *os.File
	mac   net.HardwareAddr
	index int
}

// Listen opens the DHCP server port on one Ethernet interface. It requires
// CAP_NET_RAW and CAP_NET_BIND_SERVICE.
func Listen(iface string) (Conn, error) {
	ifi, err := net.InterfaceByName(iface)
	if err != nil {
		return nil, fmt.Errorf("dhcp: interface %s: %w", iface, err)
	}
	if len(ifi.HardwareAddr) != 6 {
		return nil, fmt.Errorf("dhcp: interface %s is not an Ethernet interface", iface)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
				unix.BindToDevice(int(fd), iface),
			)
		})
		return errors.Join(err, failed)
	}}
	udp, err := lc.ListenPacket(context.Background(), "udp4", ":"+strconv.Itoa(serverPort))
	if err != nil {
		return nil, fmt.Errorf("dhcp: listening on %s: %w", iface, err)
	}
	// Protocol 0: the socket only sends.
	raw, err := packetSocket(ifi.Index, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("dhcp: packet socket on %s: %w", iface, err), udp.Close())
	}
	return &linkConn{udp: udp.(*net.UDPConn), raw: raw, mac: ifi.HardwareAddr, index: ifi.Index}, nil
}

func packetSocket(index int, protocol uint16) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index, Protocol: networkOrder(protocol)}); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "packet socket"), nil
}

func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func (c *linkConn) ReadFrom(b []byte) (int, netip.AddrPort, error) {
	n, from, err := c.udp.ReadFromUDPAddrPort(b)
	return n, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), err
}

func (c *linkConn) WriteTo(b []byte, to Peer) error {
	if to.MAC == nil {
		_, err := c.udp.WriteToUDPAddrPort(b, to.Addr)
		return err
	}
	_, err := c.raw.Write(udpFrame(c.mac, to.MAC, netip.AddrPortFrom(to.Source, serverPort), to.Addr, b))
	if err == nil || errors.Is(err, os.ErrClosed) {
		return err
	}
	// Every client accepts a broadcast.
	_, fallback := c.udp.WriteToUDPAddrPort(b, netip.AddrPortFrom(broadcastIP, clientPort))
	if fallback == nil {
		return nil
	}
	return errors.Join(err, fallback)
}

func (c *linkConn) Close() error { return errors.Join(c.udp.Close(), c.raw.Close()) }

// probeTime is how long a user of the address has to answer a probe: machines on
// one link take milliseconds, and firmware is waiting for its offer.
const probeTime = 250 * time.Millisecond

type arpProber struct {
	index int
	mac   net.HardwareAddr
}

// NewARPProber returns a Prober that sends ARP probes (RFC 5227) on an
// interface. It requires CAP_NET_RAW.
func NewARPProber(iface string) (Prober, error) {
	ifi, err := net.InterfaceByName(iface)
	if err != nil {
		return nil, fmt.Errorf("dhcp: interface %s: %w", iface, err)
	}
	if len(ifi.HardwareAddr) != 6 {
		return nil, fmt.Errorf("dhcp: interface %s is not an Ethernet interface", iface)
	}
	return arpProber{ifi.Index, ifi.HardwareAddr}, nil
}

// InUse sends one ARP probe and waits a quarter of a second for an answer.
func (p arpProber) InUse(ctx context.Context, a netip.Addr) (bool, error) {
	sock, err := packetSocket(p.index, unix.ETH_P_ARP)
	if err != nil {
		return false, fmt.Errorf("dhcp: opening a packet socket to probe %s: %w", a, err)
	}
	defer sock.Close()
	if err := sock.SetReadDeadline(time.Now().Add(probeTime)); err != nil {
		return false, fmt.Errorf("dhcp: probing %s: %w", a, err)
	}
	defer context.AfterFunc(ctx, func() { _ = sock.SetReadDeadline(time.Unix(1, 0)) })()
	if _, err := sock.Write(arpProbe(p.mac, a)); err != nil {
		return false, fmt.Errorf("dhcp: probing %s: %w", a, err)
	}
	buf := make([]byte, 128)
	for {
		n, err := sock.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("dhcp: probing %s: %w", a, err)
		}
		if arpFrom(buf[:n]) == a {
			return true, nil
		}
	}
}
