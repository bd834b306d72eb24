// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/machine"
)

// TestResumePolicy resumes a guest whose write needs more than resumeReserve and
// which therefore stops again despite free space: two attempts, and then one per
// machine.WriteRetry.
func TestResumePolicy(t *testing.T) {
	const mb = 1 << 20
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var p resumePolicy
	stop := func(free int64) *machine.Stall {
		s := &machine.Stall{NoSpace: true, Free: free, Needed: resumeReserve, Growth: 10 << 30}
		p.stopped(s, now)
		return s
	}
	try := func(s *machine.Stall, want bool) {
		t.Helper()
		if got := p.shouldResume(s, now); got != want {
			t.Errorf("shouldResume: got %t, want %t, with %+v after %+v", got, want, s, p)
		}
		if want {
			p.triedAt = now
		}
	}

	try(stop(10*mb), false)
	now = now.Add(time.Hour)
	try(stop(10*mb), false) // the free space has not changed
	try(stop(200*mb), true)
	now = now.Add(time.Millisecond)
	s := stop(200 * mb)
	try(s, false)
	if s.Missing() != resumeReserve {
		t.Errorf("got %d missing bytes, want %d, of %+v", s.Missing(), resumeReserve, s)
	}
	s.Free += resumeReserve
	try(s, true)
	now = now.Add(time.Second)
	s = stop(s.Free)
	try(s, false)
	now = now.Add(machine.WriteRetry)
	try(s, true)

	// A stop much later is caused by another write.
	now = now.Add(time.Hour)
	try(stop(200*mb), true)
	// A disk that fails is retried once per machine.WriteRetry, whatever the free
	// space.
	now = now.Add(time.Second)
	broken := &machine.Stall{Free: 1 << 40}
	p.stopped(broken, now)
	try(broken, false)
	now = now.Add(machine.WriteRetry)
	try(broken, true)
}
