// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"
)

// policy is a [Policy] made ready for comparing.
type policy struct {
	mac            mac
	locked         bool
	denyDHCPServer bool
}

func parsePolicy(p Policy) (policy, error) {
	pol := policy{denyDHCPServer: p.DenyDHCPServer}
	if len(p.MAC) == 0 {
		return pol, nil
	}
	if len(p.MAC) != len(pol.mac) || p.MAC[0]&1 != 0 {
		return policy{}, fmt.Errorf("%s is not the MAC of a machine", p.MAC)
	}
	pol.mac, pol.locked = mac(p.MAC), true
	return pol, nil
}

// forward takes one frame from p's machine to where it belongs. It does not
// keep the frame.
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
	// Recorded before any policy, so that what was dropped can be looked at.
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
	if pol.denyDHCPServer && fromDHCPServer(frame) {
		p.drops.dhcpServer.Add(1)
		return
	}
	switch s.table.learn(p, src, now) {
	case spoofed:
		p.drops.spoofed.Add(1)
		return
	case unlearned:
		p.unlearned.Add(1)
	}
	if !dst.group() {
		if to := s.table.lookup(dst, now); to != nil {
			if to != p {
				s.deliver(to, frame, now)
			}
			return
		}
	}
	for _, to := range *s.ports.Load() {
		if to != p {
			s.deliver(to, frame, now)
		}
	}
}

func (s *Switch) deliver(to *port, frame []byte, now time.Time) {
	i := s.impair.Load()
	if i.Loss > 0 && rand.Float64() < i.Loss {
		to.drops.impaired.Add(1)
		return
	}
	if i.Latency > 0 {
		to.send(frame, now.Add(i.Latency))
		return
	}
	to.send(frame, time.Time{})
}

const (
	typeIPv4    = 0x0800
	typeVLAN    = 0x8100
	typeQinQ    = 0x88a8
	protoUDP    = 17
	dhcpServer  = 67
	fragOffset  = 0x1fff
	minIPHeader = 20
)

// fromDHCPServer says whether a frame is UDP over IPv4 from port 67. A later
// fragment carries no port; it is harmless without its first.
func fromDHCPServer(frame []byte) bool {
	at := 12
	kind := binary.BigEndian.Uint16(frame[at:])
	for kind == typeVLAN || kind == typeQinQ {
		at += 4
		if len(frame) < at+2 {
			return false
		}
		kind = binary.BigEndian.Uint16(frame[at:])
	}
	ip := frame[at+2:]
	if kind != typeIPv4 || len(ip) < minIPHeader || ip[9] != protoUDP {
		return false
	}
	head := int(ip[0]&0x0f) * 4
	if head < minIPHeader || len(ip) < head+2 || binary.BigEndian.Uint16(ip[6:])&fragOffset != 0 {
		return false
	}
	return binary.BigEndian.Uint16(ip[head:]) == dhcpServer
}
