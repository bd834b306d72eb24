// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

func TestRenewedIdentityIsKeptUntilTheSeedChanges(t *testing.T) {
	dir := t.TempDir()
	credentials := func() netbootapi.ServerCredentials {
		c, err := netbootapi.NewCredentials(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return c.Server()
	}
	open := func(seed netbootapi.ServerCredentials) *Server {
		store, err := openStore(dir)
		if err != nil {
			t.Fatal(err)
		}
		s := &Server{
			options: Options{Seed: seed, Clock: time.Now}, store: store, log: slog.New(slog.DiscardHandler),
			state: newStateStore("test", time.Now),
		}
		if s.identity, err = s.loadIdentity(); err != nil {
			t.Fatal(err)
		}
		s.state.setCredentials(s.identity.Digest())
		return s
	}
	seed, second, third, later := credentials(), credentials(), credentials(), credentials()
	inForce := func(what string, s *Server, want netbootapi.ServerCredentials) {
		t.Helper()
		if got := s.identity.Digest(); got != want.Digest() {
			t.Errorf("%s: got credentials %s in force, want %s", what, got, want.Digest())
		}
	}
	s := open(seed)
	inForce("first start", s, seed)
	for _, next := range []netbootapi.ServerCredentials{second, third, third} {
		if err := (backend{s}).Renew(t.Context(), next); err != nil {
			t.Fatal(err)
		}
		state, _ := s.state.observe()
		inForce("renewed", s, next)
		if state.Credentials != next.Digest() {
			t.Errorf("renewed: got credentials %s in the state, want %s", state.Credentials, next.Digest())
		}
		s = open(seed)
		inForce("renewed, after a restart", s, next)
	}
	info, err := os.Stat(filepath.Join(dir, fileIdentity))
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("file of the key: got mode %v, want 0600", mode)
	}
	inForce("new seed", open(later), later)
	// A damaged file is ignored.
	if err := os.WriteFile(filepath.Join(dir, fileIdentity), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	inForce("damaged file", open(seed), seed)
}
