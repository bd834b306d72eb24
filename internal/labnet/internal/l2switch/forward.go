// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"fmt"
	"time"
)

// policy is a parsed [Policy].
type policy struct {
	mac        mac
	locked     bool
	denyServer bool
}

func parsePolicy(p Policy) (policy, error) {
	pol := policy{denyServer: p.DenyServer}
	if len(p.MAC) == 0 {
		return pol, nil
	}
	if len(p.MAC) != len(pol.mac) || p.MAC[0]&1 != 0 {
		return policy{}, fmt.Errorf("policy MAC %s is not a 6-byte unicast address", p.MAC)
	}
	pol.mac, pol.locked = mac(p.MAC), true
	return pol, nil
}

// forward delivers one frame from p's machine to its destination ports. It does
// not retain the frame.
func (s *Switch) forward(p *port, frame []byte) {
	now := time.Now()
	p.rxFrames.Add(1)
	p.rxBytes.Add(uint64(len(frame)))
	switch {
	case len(frame) < ethHeader:
		p.drops.runt.Add(1)
		return
	case len(frame) > s.maxFrame:
		p.drops.oversize.Add(1)
		return
	}
	// Captured before any policy applies, so that dropped frames are visible.
	for _, c := range *s.captures.Load() {
		c.add(frame, now)
	}
	dst, src := mac(frame[:6]), mac(frame[6:12])
	if src.group() || src == (mac{}) {
		p.drops.badSource.Add(1)
		return
	}
	pol := p.policy.Load()
	if pol.locked && src != pol.mac {
		p.drops.spoofed.Add(1)
		return
	}
	if pol.denyServer {
		switch snoop(frame) {
		case dhcpReply:
			p.drops.dhcpServer.Add(1)
			return
		case routerMessage:
			p.drops.router.Add(1)
			return
		}
	}
	switch s.table.learn(p, src, now) {
	case spoofed:
		p.drops.spoofed.Add(1)
		return
	case unlearned:
		p.unlearned.Add(1)
	}
	impair := s.impair.Load()
	if !dst.group() {
		if to := s.table.lookup(dst, now); to != nil {
			if to != p {
				to.send(frame, now, impair)
			}
			return
		}
	}
	for _, to := range *s.ports.Load() {
		if to != p {
			to.send(frame, now, impair)
		}
	}
}
