// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

func TestSSHPauseGrows(t *testing.T) {
	seconds := func(n time.Duration) time.Duration { return n * time.Second }
	want := []time.Duration{sshAgain, seconds(1), seconds(2), seconds(4), seconds(8), seconds(16), sshMaxRetry, sshMaxRetry}
	var got []time.Duration
	for failures := range want {
		got = append(got, sshPause(failures))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pauses by number of failures (-want +got):\n%s", diff)
	}
	if got := sshPause(1 << 30); got != sshMaxRetry {
		t.Errorf("after very many failures: got %v, want %v", got, sshMaxRetry)
	}
}

func TestNextProbes(t *testing.T) {
	const sec = time.Second
	now := time.Unix(1000, 0)
	// asked returns a machine that was probed some time ago in its current round.
	asked := func(uid string, ago time.Duration, failures int) sshCandidate {
		return sshCandidate{machine: &netbootapi.Machine{UID: uid}, last: probed{at: now.Add(-ago), failures: failures}}
	}
	fresh := func(uid string) sshCandidate {
		return sshCandidate{machine: &netbootapi.Machine{UID: uid}, round: sshRound{attempt: "1"}}
	}
	renewed := func(c sshCandidate) sshCandidate {
		c.round.powerOn = "p2"
		return c
	}
	for name, c := range map[string]struct {
		candidates      []sshCandidate
		places, failing int
		want            []string
	}{
		"none":                        {nil, 16, 8, nil},
		"never probed":                {[]sshCandidate{fresh("b"), fresh("a")}, 16, 8, []string{"a", "b"}},
		"up and due":                  {[]sshCandidate{asked("a", sshAgain, 0)}, 16, 8, []string{"a"}},
		"up and not due":              {[]sshCandidate{asked("a", sshAgain-1, 0)}, 16, 8, nil},
		"failed once and due":         {[]sshCandidate{asked("a", sec, 1)}, 16, 8, []string{"a"}},
		"failed once and not due":     {[]sshCandidate{asked("a", sec-1, 1)}, 16, 8, nil},
		"failed often and not due":    {[]sshCandidate{asked("a", sshMaxRetry-1, 100)}, 16, 8, nil},
		"the longest ago first":       {[]sshCandidate{asked("a", 40*sec, 0), asked("b", 60*sec, 3), fresh("c")}, 16, 8, []string{"c", "b", "a"}},
		"no place":                    {[]sshCandidate{fresh("a")}, 0, 8, nil},
		"as many as places":           {[]sshCandidate{asked("a", 40*sec, 0), asked("b", 50*sec, 0), fresh("c")}, 2, 8, []string{"c", "b"}},
		"failing ones leave places":   {[]sshCandidate{asked("a", 70*sec, 9), asked("b", 60*sec, 9), asked("c", 40*sec, 0)}, 9, 1, []string{"a", "c"}},
		"no place for a failing one":  {[]sshCandidate{asked("a", 70*sec, 9), asked("c", 40*sec, 0)}, 16, 0, []string{"c"}},
		"another boot is not failing": {[]sshCandidate{renewed(asked("a", 0, 9)), asked("b", 70*sec, 1)}, 16, 0, []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, next := range nextProbes(c.candidates, now, c.places, c.failing) {
				got = append(got, next.machine.UID)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("probed now (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSSHRoundChanges(t *testing.T) {
	type given struct {
		machine netbootapi.Machine
		state   netbootapi.MachineState
	}
	base := func() given {
		m := machineAt("1", "p1")
		m.Address = netip.MustParseAddr("10.0.0.1")
		return given{m, netbootapi.MachineState{}}
	}
	round := func(g given) sshRound { return sshRoundOf(&g.machine, g.state) }
	for name, c := range map[string]struct {
		change func(*given)
		want   bool
	}{
		"attempt":         {func(g *given) { g.machine.Attempt = "2" }, true},
		"power-on":        {func(g *given) { g.machine.PowerOn = "p2" }, true},
		"address":         {func(g *given) { g.machine.Address = netip.MustParseAddr("10.0.0.2") }, true},
		"phone-home":      {func(g *given) { g.state.PhoneHome = &netbootapi.PhoneHome{At: time.Unix(1, 0)} }, true},
		"cloud-init":      {func(g *given) { g.state.CloudInit = &netbootapi.CloudInitState{Stage: "modules-final"} }, true},
		"result of probe": {func(g *given) { g.state.SSH.Error = "no answer" }, false},
		"warning":         {func(g *given) { g.state.Warnings = []netbootapi.Warning{{Reason: "R"}} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := base()
			c.change(&g)
			if got := round(g) != round(base()); got != c.want {
				t.Errorf("another round: got %t, want %t", got, c.want)
			}
		})
	}
}
