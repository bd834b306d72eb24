// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"errors"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Shield makes the kernel drop all packets for the netboot API that arrive on an interface,
// whatever addresses they have: nothing on it can connect, fill the queue of half-open
// connections or learn that the port is open. It replaces the interface of an earlier call,
// and needs no privileges.
func (s *Server) Shield(iface string) error {
	link, err := net.InterfaceByName(iface)
	if err != nil {
		return fmt.Errorf("shielding the netboot API: %w", err)
	}
	filter, err := dropFrom(link.Index)
	if err != nil {
		return fmt.Errorf("shielding the netboot API from %s: %w", iface, err)
	}
	conn, err := s.tcp.SyscallConn()
	if err != nil {
		return fmt.Errorf("shielding the netboot API from %s: %w", iface, err)
	}
	program := &unix.SockFprog{Len: uint16(len(filter)), Filter: unsafe.SliceData(filter)}
	var failed error
	err = conn.Control(func(fd uintptr) {
		failed = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, program)
	})
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("shielding the netboot API from %s: %w", iface, err)
	}
	return nil
}

// dropFrom returns a socket filter that drops the packets that arrive on an interface. The
// connections of a listening socket inherit its filter.
func dropFrom(index int) ([]unix.SockFilter, error) {
	const whole = 1<<32 - 1
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtInterfaceIndex},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(index), SkipTrue: 1},
		bpf.RetConstant{Val: whole},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, err
	}
	filter := make([]unix.SockFilter, 0, len(raw))
	for _, r := range raw {
		filter = append(filter, unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K})
	}
	return filter, nil
}
