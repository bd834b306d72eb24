// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"net"

	"golang.org/x/sys/unix"
)

const (
	// A connection is lossy when it retransmits more than lossyPercentage of its
	// segments, measured over at least enoughSegments.
	enoughSegments  = 64
	lossyPercentage = 1
	// lossTolerant paces by the measured delivery rate. The usual algorithms back
	// off at each loss: at 5 % loss and 200 ms they reach about 40 KB/s, an hour
	// for an image. In most kernels it is a module that is loaded on first use.
	lossTolerant = "bbr"
)

// adaptToLoss switches a connection that loses packets to the loss-tolerant
// congestion control, where the kernel has it. Others keep the default, which
// costs less on a fast network. It reports whether the choice is final.
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

func lossy(retransmitted, sent uint32) bool {
	return sent >= enoughSegments && uint64(retransmitted)*100 > uint64(sent)*lossyPercentage
}
