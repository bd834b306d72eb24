// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"context"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// savedIdentity holds the credentials that replace the seed's.
type savedIdentity struct {
	// Seed is the digest of the replaced credentials. A seed with another digest
	// is newer than the saved credentials; this needs no clock.
	Seed        string                       `json:"seed"`
	Credentials netbootapi.ServerCredentials `json:"credentials"`
}

// loadIdentity loads the seed's credentials, or those that replaced them.
func (s *Server) loadIdentity() (*netbootapi.Identity, error) {
	seed := s.options.Seed
	var saved savedIdentity
	there, err := s.store.load(fileIdentity, &saved)
	if err != nil {
		s.log.Error("starting with the seed's credentials", "error", err)
	}
	if err == nil && there && saved.Seed == seed.Digest() {
		if identity, err := netbootapi.NewIdentity(saved.Credentials, s.options.Clock); err == nil {
			return identity, nil
		}
	}
	return netbootapi.NewIdentity(seed, s.options.Clock)
}

// Renew saves the credentials before it serves with them. The manager trusts both
// during a renewal, so a restart in between is harmless.
func (b backend) Renew(_ context.Context, c netbootapi.ServerCredentials) error {
	s := b.s
	s.applying.Lock()
	defer s.applying.Unlock()
	if s.identity.Digest() == c.Digest() {
		return nil
	}
	if err := s.store.save(fileIdentity, savedIdentity{Seed: s.options.Seed.Digest(), Credentials: c}); err != nil {
		return err
	}
	if err := s.identity.Replace(c); err != nil {
		return err
	}
	s.state.setCredentials(c.Digest())
	s.log.Info("renewed the credentials")
	return nil
}

func (k *stateStore) setCredentials(digest string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.edit(func(state *netbootapi.State) { state.Credentials = digest })
	k.publish()
}
