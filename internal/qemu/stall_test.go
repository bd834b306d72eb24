// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"testing"
	"time"
)

// A write that wants more than what seemed enough stops the guest again and
// again, with room: that costs two tries and then one every half minute.
func TestPatience(t *testing.T) {
	const mb = 1 << 20
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var p patience
	stop := func(free int64) *Stall {
		s := &Stall{NoSpace: true, Free: free, Needed: roomToGoOn, Growth: 10 << 30}
		p.stopped(s, now)
		return s
	}
	try := func(s *Stall, want bool) {
		t.Helper()
		if got := p.goesOn(s, now); got != want {
			t.Errorf("goes on: %t, with %+v after %+v", got, s, p)
		}
		if want {
			p.triedAt = now
		}
	}

	try(stop(10*mb), false)
	now = now.Add(time.Hour)
	try(stop(10*mb), false) // however long: nothing has changed
	try(stop(200*mb), true)
	now = now.Add(time.Millisecond)
	s := stop(200 * mb)
	try(s, false)
	if s.Missing() != roomToGoOn {
		t.Errorf("%d bytes are missing of %+v", s.Missing(), s)
	}
	s.Free += roomToGoOn
	try(s, true)
	now = now.Add(time.Second)
	s = stop(s.Free)
	try(s, false)
	now = now.Add(failureRetry)
	try(s, true)

	// Much later it is another write.
	now = now.Add(time.Hour)
	try(stop(200*mb), true)
	// A disk that fails is tried again now and then, whatever room there is.
	now = now.Add(time.Second)
	broken := &Stall{Free: 1 << 40}
	p.stopped(broken, now)
	try(broken, false)
	now = now.Add(failureRetry)
	try(broken, true)
}
