// SPDX-License-Identifier: Apache-2.0

package process

import (
	"net"

	"golang.org/x/sys/unix"
)

// solLocal and localPeerPID are SOL_LOCAL and LOCAL_PEERPID of <sys/un.h>.
const (
	solLocal     = 0
	localPeerPID = 2
)

// PeerPID returns the PID of the process at the other end of a connection; at a client's
// end, of the one that called listen(2).
func PeerPID(conn *net.UnixConn) (pid int, err error) {
	controlErr := controlPeer(conn, func(fd int) { pid, err = unix.GetsockoptInt(fd, solLocal, localPeerPID) })
	if controlErr != nil {
		return 0, controlErr
	}
	return pid, err
}

// PeerUID returns the user of the process at the other end of a connection.
func PeerUID(conn *net.UnixConn) (int, error) {
	var cred *unix.Xucred
	var err error
	controlErr := controlPeer(conn, func(fd int) { cred, err = unix.GetsockoptXucred(fd, solLocal, unix.LOCAL_PEERCRED) })
	if controlErr != nil {
		return 0, controlErr
	}
	if err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}

func controlPeer(conn *net.UnixConn, use func(fd int)) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { use(int(fd)) })
}
