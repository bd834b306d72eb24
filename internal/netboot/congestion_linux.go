// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"net"

	"golang.org/x/sys/unix"
)

const (
	// A connection is lossy when more than one segment in a hundred had to be
	// sent again, among enough of them to tell.
	enoughSegments  = 64
	lossyPercentage = 1
	// lossTolerant takes its pace from the rate that gets through and not from
	// each loss, as the usual algorithms do: at 5 % loss and 200 ms they come to
	// some 40 KB/s, an hour for an image. It is a module of most kernels, which
	// loads when it is asked for.
	lossTolerant = "bbr"
)

// adaptToLoss gives a connection that loses packets the algorithm that gets on
// all the same, where the kernel has it. The usual one is kept for all others:
// it costs less on a fast network. It reports whether it is settled.
func adaptToLoss(conn net.Conn) (settled bool) {
	tcp, ok := conn.(*limitedConn)
	if !ok {
		return true
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return true
	}
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			settled = true
			return
		}
		if lossy(info.Total_retrans, info.Data_segs_out) {
			_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, lossTolerant)
			settled = true
		}
	})
	return settled
}

func lossy(again, sent uint32) bool {
	return sent >= enoughSegments && uint64(again)*100 > uint64(sent)*lossyPercentage
}
