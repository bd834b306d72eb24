// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/netbootdtest"
)

func newCredentials(t *testing.T) *netbootapi.Credentials {
	t.Helper()
	c, err := netbootapi.NewCredentials(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func serves(c *netbootapi.Credentials) func(Observation) bool {
	return func(o Observation) bool { return o.Connected && o.State.Credentials == c.Server().Digest() }
}

// TestCredentialsAreRenewed uses a new Hub for each step of a renewal, as if the
// manager had been restarted in between.
func TestCredentialsAreRenewed(t *testing.T) {
	server := netbootdtest.Start(t, netbootdtest.Options{})
	old, next := server.Credentials(), newCredentials(t)
	with := func(trust netbootapi.Trust, what string, ok func(Observation) bool) Observation {
		h, w := newHub(t)
		defer h.Close()
		if err := h.Connect("s", server.Address(), trust); err != nil {
			t.Fatal(err)
		}
		return w.until(t, h, what, ok)
	}
	both := netbootapi.Trust{Current: old, Next: next}
	with(netbootapi.Trust{Current: old}, "connected with the old", serves(old))

	server.RefuseRenewal(errors.New("the disk is full"))
	o := with(both, "a failed renewal", func(o Observation) bool { return o.RenewError != nil })
	if !o.Connected {
		t.Error("after a failed renewal: got no connection, want one")
	}
	if !strings.Contains(o.RenewError.Error(), "the disk is full") {
		t.Errorf("after a failed renewal: got error %v, want the server's, \"the disk is full\"", o.RenewError)
	}
	server.RefuseRenewal(nil)
	with(both, "renewed", serves(next))
	with(both, "renewed already", serves(next))
	with(netbootapi.Trust{Current: next}, "connected with the new", serves(next))

	if o := with(netbootapi.Trust{Current: old}, "refused", func(o Observation) bool { return o.Error != nil }); !o.Untrusted {
		t.Errorf("old credentials: got error %v, want one that counts as untrusted", o.Error)
	}
}

// TestUntrustedIsNotUnreachable distinguishes a refused certificate from an
// unreachable server.
func TestUntrustedIsNotUnreachable(t *testing.T) {
	server := netbootdtest.Start(t, netbootdtest.Options{})
	// The manager trusts the server, but the server does not trust the manager.
	half := *newCredentials(t)
	half.CA = append(append([]byte{}, half.CA...), server.Credentials().CA...)
	h, w := newHub(t)
	if err := h.Connect("s", server.Address(), netbootapi.Trust{Current: &half}); err != nil {
		t.Fatal(err)
	}
	w.until(t, h, "untrusted", func(o Observation) bool { return o.Error != nil && o.Untrusted })
	server.Stop()
	w.until(t, h, "unreachable", func(o Observation) bool { return o.Error != nil && !o.Untrusted })
}
