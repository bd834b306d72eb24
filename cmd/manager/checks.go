// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"net/netip"
)

// checkHousekeeping refuses negative periods and sizes.
func checkHousekeeping(o options) error {
	switch {
	case o.artifactGrace < 0:
		return fmt.Errorf("--artifact-grace=%s is negative; use a period such as 24h, or 0", o.artifactGrace)
	case o.artifactFloor.Sign() < 0:
		return fmt.Errorf("--artifact-floor=%s is negative; use a size such as 2Gi, or 0", o.artifactFloor.String())
	case o.orphanGrace < 0:
		return fmt.Errorf("--orphan-grace=%s is negative; use a period such as 1h, or 0", o.orphanGrace)
	default:
		return nil
	}
}

// checkPprof refuses addresses that other hosts can reach: profiles reveal the
// manager's memory, and anyone who can connect can request them.
func checkPprof(address string) error {
	if address == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("parsing --pprof-bind-address=%s: %w; use HOST:PORT, such as 127.0.0.1:6060", address, err)
	}
	ip, err := netip.ParseAddr(host)
	if host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return fmt.Errorf("--pprof-bind-address=%s is not a loopback address; use 127.0.0.1:PORT, [::1]:PORT or localhost:PORT", address)
	}
	return nil
}
