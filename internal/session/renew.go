// SPDX-License-Identifier: Apache-2.0

package session

import "context"

// renew brings netbootd's credentials to their successors, where there are any.
// That it has them is seen by its state, and whoever made them decides what
// follows.
func (s *session) renew(ctx context.Context) {
	if s.trust.Next == nil {
		return
	}
	next := s.trust.Next.Server()
	for wait(ctx, s.renewal) {
		if !s.lacks(next.Digest()) {
			continue
		}
		err := s.client.PushCredentials(ctx, next)
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		s.seen.RenewError = err
		s.mu.Unlock()
		if err != nil {
			s.log.Error(err, "Renewing the credentials failed")
			s.changed(s.id, nil)
			pause(ctx, maxUploadPause)
			nudge(s.renewal)
		}
	}
}

// lacks reports whether netbootd serves with other credentials than these. One
// that does not say which cannot renew them.
func (s *session) lacks(digest string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.seen.State.Credentials
	return s.seen.Connected && now != "" && now != digest
}
