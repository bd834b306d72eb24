// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"net"

	"golang.org/x/sys/unix"
)

// solLocal and localPeerPID are SOL_LOCAL and LOCAL_PEERPID of <sys/un.h>.
const (
	solLocal     = 0
	localPeerPID = 2
)

func peerPID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var pid int
	var pidErr error
	err = raw.Control(func(fd uintptr) {
		pid, pidErr = unix.GetsockoptInt(int(fd), solLocal, localPeerPID)
	})
	if err != nil {
		return 0, err
	}
	return pid, pidErr
}
