// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// A port that was up counts as down after several consecutive failed probes; one
// that was never up is reported at once.
func TestSSHIsDownAfterSeveralFailedProbes(t *testing.T) {
	k := newStateStore("test", time.Now)
	config := labConfig()
	m := &config.Machines[0]
	m.Boot = netbootapi.BootDisk
	m.PowerOn = "p1"
	k.setConfig(config)
	answers := false
	p := newSSHProber(k, func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
		if answers {
			return sshServer(ctx, a)
		}
		return nil, errors.New("no route")
	}, 22)
	ask := func(answer, up bool) {
		t.Helper()
		answers = answer
		before, _ := k.observe()
		p.probe(t.Context(), sshCandidate{machine: m, round: sshRoundOf(m, before.Machines[m.UID]), last: p.last[m.UID]})
		state, _ := k.observe()
		got := state.Machines[m.UID].SSH
		if got.Up != up {
			t.Errorf("after a probe with success %t: got up %t, want %t", answer, got.Up, up)
		}
		if (got.Error == "") != up {
			t.Errorf("after a probe with success %t: got error %q, want one: %t", answer, got.Error, !up)
		}
	}
	ask(false, false)
	ask(true, true)
	ask(false, true)
	ask(false, true)
	ask(true, true) // resets the count
	for range sshFailures - 1 {
		ask(false, true)
	}
	ask(false, false)
	ask(true, true)
}

// Machines whose SSH port is silent do not keep others from being probed.
func TestSilentSSHPortsDoNotDelayOthers(t *testing.T) {
	for name, c := range map[string]struct {
		silent int
		// first is when all others must have answered once.
		first time.Duration
	}{
		"as many as places":        {sshPlaces, 2 * sshPatience},
		"far more than all places": {80, 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newStateStore("test", time.Now)
				config := labConfig()
				config.Machines = nil
				var others []string
				for i := range c.silent + 4 {
					m := anotherMachine(byte(i))
					m.UID = fmt.Sprintf("uid-%03d", i) // the silent ones come first
					m.Boot, m.PowerOn = netbootapi.BootDisk, "p1"
					config.Machines = append(config.Machines, m)
					if i >= c.silent {
						others = append(others, m.UID)
					}
				}
				answering := map[netip.Addr]bool{}
				for _, m := range config.Machines[c.silent:] {
					answering[m.Address] = true
				}
				k.setConfig(config)
				p := newSSHProber(k, func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
					if answering[a.Addr()] {
						return sshServer(ctx, a)
					}
					<-ctx.Done()
					return nil, ctx.Err()
				}, 22)
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					p.run(ctx)
				}()
				time.Sleep(c.first)
				for range 20 {
					state, _ := k.observe()
					for _, uid := range others {
						got := state.Machines[uid].SSH
						if age := time.Since(got.CheckedAt); !got.Up || age > sshAgain+2*sshTick {
							t.Errorf("%s answers at once: got up %t, last probed %v ago; want up, probed at most %v ago", uid, got.Up, age, sshAgain+2*sshTick)
						}
					}
					time.Sleep(sshMaxRetry / 4)
				}
				cancel()
				<-ended
			})
		})
	}
}
