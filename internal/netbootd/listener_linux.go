// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// deferSeconds is about how long a connection whose client sends nothing is not accepted.
const deferSeconds = 10

// deferAccept makes a listening socket accept connections when data has arrived
// (TCP_DEFER_ACCEPT in tcp(7)). Until then a connection is only an entry in the queue of
// those that are not established.
func deferAccept(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, deferSeconds)
	})
	return errors.Join(err, failed)
}
