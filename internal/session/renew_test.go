// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/agent/agenttest"
)

func newCredentials(t *testing.T) *agent.Credentials {
	t.Helper()
	c, err := agent.NewCredentials(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func serves(c *agent.Credentials) func(Observation) bool {
	return func(o Observation) bool { return o.Connected && o.State.Credentials == c.Server().Digest() }
}

// TestCredentialsAreRenewed goes the way of a renewal, with another manager
// after each step, as if every one of them had died.
func TestCredentialsAreRenewed(t *testing.T) {
	server := agenttest.Start(t, agenttest.Options{})
	old, next := server.Credentials(), newCredentials(t)
	with := func(trust agent.Trust, what string, ok func(Observation) bool) Observation {
		h, w := newHub(t)
		defer h.Close()
		if err := h.Connect("s", server.Address(), trust); err != nil {
			t.Fatal(err)
		}
		return w.until(t, h, what, ok)
	}
	both := agent.Trust{Current: old, Next: next}
	with(agent.Trust{Current: old}, "connected with the old", serves(old))

	server.RefuseRenewal(errors.New("the disk is full"))
	o := with(both, "a failed renewal", func(o Observation) bool { return o.RenewError != nil })
	if !o.Connected || !strings.Contains(o.RenewError.Error(), "the disk is full") {
		t.Errorf("connected %v, error %v", o.Connected, o.RenewError)
	}
	server.RefuseRenewal(nil)
	with(both, "renewed", serves(next))
	with(both, "renewed already", serves(next))
	with(agent.Trust{Current: next}, "connected with the new", serves(next))

	if o := with(agent.Trust{Current: old}, "refused", func(o Observation) bool { return o.Error != nil }); !o.Untrusted {
		t.Errorf("the old credentials end with %v, which does not count as untrusted", o.Error)
	}
}

// TestStrangersAreUntrusted tells certificates apart from a server that is away.
func TestStrangersAreUntrusted(t *testing.T) {
	server := agenttest.Start(t, agenttest.Options{})
	// The manager trusts the server, and not the other way round.
	half := *newCredentials(t)
	half.CA = append(append([]byte{}, half.CA...), server.Credentials().CA...)
	h, w := newHub(t)
	if err := h.Connect("s", server.Address(), agent.Trust{Current: &half}); err != nil {
		t.Fatal(err)
	}
	w.until(t, h, "untrusted", func(o Observation) bool { return o.Error != nil && o.Untrusted })
	server.Stop()
	w.until(t, h, "away", func(o Observation) bool { return o.Error != nil && !o.Untrusted })
}
