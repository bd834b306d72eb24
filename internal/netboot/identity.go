// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"context"

	"github.com/pxelab/pxelab/internal/agent"
)

// savedIdentity is what the manager sent to replace the seed's credentials.
type savedIdentity struct {
	// Seed is the digest of the credentials that were replaced. A seed with
	// others is newer than what is saved here, by whatever clock.
	Seed        string                  `json:"seed"`
	Credentials agent.ServerCredentials `json:"credentials"`
}

// loadIdentity takes the seed's credentials, or those that replaced them.
func (s *Server) loadIdentity() (*agent.Identity, error) {
	seed := s.options.Seed
	var saved savedIdentity
	there, err := s.store.load(fileIdentity, &saved)
	if err != nil {
		s.log.Error("starting with the seed's credentials", "error", err)
	}
	if err == nil && there && saved.Seed == seed.Digest() {
		if identity, err := agent.NewIdentity(saved.Credentials, s.options.Clock); err == nil {
			return identity, nil
		}
	}
	return agent.NewIdentity(seed, s.options.Clock)
}

// Renew keeps the credentials first and serves with them then: a restart in
// between finds what the manager goes by, which knows both.
func (b backend) Renew(_ context.Context, c agent.ServerCredentials) error {
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
	s.keeper.setCredentials(c.Digest())
	s.log.Info("the credentials were renewed")
	return nil
}

func (k *keeper) setCredentials(digest string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state.Credentials = digest
	k.publish()
}
