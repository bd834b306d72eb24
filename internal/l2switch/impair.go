// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// chance makes a port's own source of chance.
func chance(seed uint64, port string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(port))
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

// due is when a frame that comes now may leave, zero for at once. No frame
// leaves before one that came earlier. It needs p.mu.
func (p *port) due(now time.Time, i *Impairment) time.Time {
	if i.Latency <= 0 && i.Jitter <= 0 {
		if now.After(p.lastDue) {
			p.lastDue = time.Time{} // what was delayed has left
		}
		return time.Time{}
	}
	delay := i.Latency
	if i.Jitter > 0 {
		delay += time.Duration((2*p.chance.Float64() - 1) * float64(i.Jitter))
	}
	at := now.Add(max(0, delay))
	if at.Before(p.lastDue) {
		at = p.lastDue
	}
	p.lastDue = at
	return at
}
