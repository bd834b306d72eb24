// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/agent"
)

func TestIdentityOutlivesTheProcessAndNotTheSeed(t *testing.T) {
	dir := t.TempDir()
	credentials := func() agent.ServerCredentials {
		c, err := agent.NewCredentials(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return c.Server()
	}
	open := func(seed agent.ServerCredentials) *Server {
		store, err := openStore(dir)
		if err != nil {
			t.Fatal(err)
		}
		s := &Server{options: Options{Seed: seed, Clock: time.Now}, store: store, log: slog.New(slog.DiscardHandler), keeper: newKeeper("test", time.Now)}
		if s.identity, err = s.loadIdentity(); err != nil {
			t.Fatal(err)
		}
		s.keeper.setCredentials(s.identity.Digest())
		return s
	}
	seed, second, third, later := credentials(), credentials(), credentials(), credentials()
	s := open(seed)
	if s.identity.Digest() != seed.Digest() {
		t.Error("the seed's credentials are not in force at first")
	}
	for _, next := range []agent.ServerCredentials{second, third, third} {
		if err := (backend{s}).Renew(t.Context(), next); err != nil {
			t.Fatal(err)
		}
		state, _ := s.keeper.observe()
		if s.identity.Digest() != next.Digest() || state.Credentials != next.Digest() {
			t.Error("renewed credentials are not in force")
		}
		if s = open(seed); s.identity.Digest() != next.Digest() {
			t.Error("renewed credentials did not outlive the process")
		}
	}
	info, err := os.Stat(filepath.Join(dir, fileIdentity))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", info, err)
	}
	if s := open(later); s.identity.Digest() != later.Digest() {
		t.Error("a new seed does not count")
	}
	// What is damaged is not insisted upon.
	if err := os.WriteFile(filepath.Join(dir, fileIdentity), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s := open(seed); s.identity.Digest() != seed.Digest() {
		t.Error("a damaged file keeps the seed's credentials off")
	}
}
