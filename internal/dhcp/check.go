// SPDX-License-Identifier: Apache-2.0

package dhcp

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// checkMAC asks in Check. It is locally administered, and no request of it has
// a trace: an INFORM changes no lease.
var checkMAC = net.HardwareAddr{0x02, 0, 0, 0, 0, 0x43}

// Check says whether the server would answer: it has not been at work on one
// request for longer than limit, and the policy and the table of leases answer
// a question of its own. A server that hangs may block it for ever, so that who
// feeds a watchdog calls it from where that does no harm.
func (s *Server) Check(limit time.Duration) error {
	if since := s.busySince.Load(); since >= 0 {
		if busy := time.Since(s.started) - time.Duration(since); busy > limit {
			return fmt.Errorf("dhcp: at work on one request for %s", busy.Round(time.Second))
		}
	}
	question, err := dhcpv4.NewInform(checkMAC, s.resp.serverAddr())
	if err != nil {
		return fmt.Errorf("dhcp: making a question: %w", err)
	}
	if reply, _ := s.resp.Reply(question, s.opts.Clock()); reply == nil {
		return errors.New("dhcp: a question of its own is not answered")
	}
	return nil
}
