// SPDX-License-Identifier: Apache-2.0

package process

import (
	"net"

	"golang.org/x/sys/unix"
)

// PeerPID returns the PID of the process at the other end of a connection; at a client's
// end, of the one that called listen(2).
func PeerPID(conn *net.UnixConn) (int, error) {
	cred, err := peerCredentials(conn)
	if err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// PeerUID returns the user of the process at the other end of a connection.
func PeerUID(conn *net.UnixConn) (int, error) {
	cred, err := peerCredentials(conn)
	if err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}

// peerCredentials reads SO_PEERCRED; see unix(7).
func peerCredentials(conn *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if controlErr != nil {
		return nil, controlErr
	}
	return cred, err
}
