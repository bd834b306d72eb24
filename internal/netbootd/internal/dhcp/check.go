// SPDX-License-Identifier: Apache-2.0

package dhcp

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// checkMAC is the client address of the probe in Check. It is locally
// administered; its DHCPINFORM changes no lease.
var checkMAC = net.HardwareAddr{0x02, 0, 0, 0, 0, 0x43}

// Check returns an error if the server is not responsive: if it has been handling
// one request for longer than limit, or does not answer a DHCPINFORM that Check
// makes itself. It blocks for as long as a hung server holds its lock, so a
// watchdog must call it where blocking is harmless.
func (s *Server) Check(limit time.Duration) error {
	if since := s.busySince.Load(); since >= 0 {
		if busy := time.Since(s.started) - time.Duration(since); busy > limit {
			return fmt.Errorf("dhcp: handling one request for %s", busy.Round(time.Second))
		}
	}
	probe, err := dhcpv4.NewInform(checkMAC, s.resp.serverAddr())
	if err != nil {
		return fmt.Errorf("dhcp: creating a self-check request: %w", err)
	}
	if reply, _ := s.resp.Reply(probe, s.opts.Clock()); reply == nil {
		return errors.New("dhcp: no reply to the self-check request")
	}
	return nil
}
