// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

const (
	// sshAgain is the pause after a successful probe.
	sshAgain = 15 * time.Second
	// sshRetry is the pause after the first failed probe. It doubles with each
	// further one, up to sshMaxRetry: a machine that boots answers soon, one that
	// drops packets holds a place for sshPatience each time.
	sshRetry    = time.Second
	sshMaxRetry = 30 * time.Second
	// sshFailures is the number of consecutive failed probes after which a port
	// that was up counts as down: a busy host answers late.
	sshFailures = 3
	// sshPlaces limits the concurrent probes, and sshFailingPlaces those of machines
	// whose last probe failed: however many they are, they do not delay the others.
	sshPlaces        = 16
	sshFailingPlaces = sshPlaces / 2
)

// sshRound identifies the circumstances of a probe. When they change, earlier
// failures do not count: another attempt, power-on or address is probed, or the
// machine has made progress.
type sshRound struct {
	attempt, powerOn string
	address          netip.Addr
	phonedHome       int64
	stage            string
}

func sshRoundOf(m *netbootapi.Machine, s netbootapi.MachineState) sshRound {
	r := sshRound{attempt: m.Attempt, powerOn: m.PowerOn, address: m.Address}
	if s.PhoneHome != nil {
		r.phonedHome = s.PhoneHome.At.UnixNano()
	}
	if s.CloudInit != nil {
		r.stage = s.CloudInit.Stage
	}
	return r
}

// probed records the last probe of a machine.
type probed struct {
	round sshRound
	// at is when the probe ended.
	at time.Time
	// failures counts the consecutive failed probes of the round.
	failures int
}

// sshCandidate is a machine whose SSH port is probed, without a probe in progress.
type sshCandidate struct {
	machine *netbootapi.Machine
	round   sshRound
	last    probed
}

// failures counts the consecutive failed probes of the current round.
func (c sshCandidate) failures() int {
	if c.last.round != c.round {
		return 0
	}
	return c.last.failures
}

func (c sshCandidate) failing() bool { return c.failures() > 0 }

func (c sshCandidate) due(now time.Time) bool {
	if c.last.round != c.round {
		return true
	}
	return now.Sub(c.last.at) >= sshPause(c.last.failures)
}

// sshPause returns the pause after a probe that is the given number of consecutive
// failures, or after a successful one.
func sshPause(failures int) time.Duration {
	if failures == 0 {
		return sshAgain
	}
	return min(sshRetry<<min(failures-1, 8), sshMaxRetry)
}

// nextProbes returns the candidates to probe now, those first whose last probe is
// the longest ago: at most places, and of those whose last probe failed at most
// failing.
func nextProbes(candidates []sshCandidate, now time.Time, places, failing int) []sshCandidate {
	var due []sshCandidate
	for _, c := range candidates {
		if c.due(now) {
			due = append(due, c)
		}
	}
	slices.SortStableFunc(due, func(a, b sshCandidate) int {
		return cmp.Or(a.last.at.Compare(b.last.at), cmp.Compare(a.machine.UID, b.machine.UID))
	})
	var next []sshCandidate
	for _, c := range due {
		if len(next) >= places {
			break
		}
		if c.failing() {
			if failing <= 0 {
				continue
			}
			failing--
		}
		next = append(next, c)
	}
	return next
}
