// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"net"
	"os"

	"github.com/pxelab/pxelab/internal/process"
)

// CheckPeer returns an error unless the process at the other end of a UNIX socket
// belongs to the user of this one. The modes of the socket and of its directory ensure
// the same; this does not depend on them.
func CheckPeer(conn *net.UnixConn) error {
	uid, err := process.PeerUID(conn)
	if err != nil {
		return fmt.Errorf("identifying the user of the simulator's peer: %w", err)
	}
	if own := os.Geteuid(); uid != own {
		return fmt.Errorf("the simulator's peer belongs to user %d, not to user %d", uid, own)
	}
	return nil
}
