// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/agent"
)

// A port that answered counts as down only when it leaves several questions in a
// row open; one that never did is told of at once.
func TestSSHIsDownAfterSeveralQuestions(t *testing.T) {
	k := newKeeper("test", time.Now)
	config := labConfig()
	m := &config.Machines[0]
	m.Boot, m.PowerOn = agent.BootDisk, "p1"
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
		p.probe(t.Context(), m)
		state, _ := k.observe()
		if got := state.Machines[m.UID].SSH; got.Up != up || (got.Error == "") != up {
			t.Errorf("after an answer %t: %+v", answer, got)
		}
	}
	ask(false, false)
	ask(true, true)
	ask(false, true)
	ask(false, true)
	ask(true, true) // which begins the count anew
	for range sshFailures - 1 {
		ask(false, true)
	}
	ask(false, false)
	ask(true, true)
}
