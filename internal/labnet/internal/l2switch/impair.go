// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// newRand returns the random source of a port.
func newRand(seed uint64, port string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(port))
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

// due returns when a frame that arrives now may leave; zero means immediately. No
// frame leaves before one that arrived earlier. It requires p.mu.
func (p *port) due(now time.Time, i *Impairment) time.Time {
	if i.Latency <= 0 && i.Jitter <= 0 {
		if now.After(p.lastDue) {
			p.lastDue = time.Time{} // all delayed frames have left
		}
		return time.Time{}
	}
	delay := i.Latency
	if i.Jitter > 0 {
		delay += time.Duration((2*p.rand.Float64() - 1) * float64(i.Jitter))
	}
	at := now.Add(max(0, delay))
	if at.Before(p.lastDue) {
		at = p.lastDue
	}
	p.lastDue = at
	return at
}
