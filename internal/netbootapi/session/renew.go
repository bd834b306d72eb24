// SPDX-License-Identifier: Apache-2.0

package session

import "context"

// renew sends netbootd its new credentials, if there are any. netbootd's state
// shows when it serves with them; the reconciler that created them then completes
// the renewal.
func (l *link) renew(ctx context.Context) {
	if l.trust.Next == nil {
		return
	}
	s := l.server
	next := l.trust.Next.Server()
	for wait(ctx, l.renewal) {
		if !s.lacks(next.Digest()) {
			continue
		}
		err := l.client.PutCredentials(ctx, next)
		if ctx.Err() != nil {
			return
		}
		s.renewed(l, err)
		if err != nil {
			s.log.Error(err, "Renewing the credentials failed")
			pause(ctx, maxUploadPause)
			nudge(l.renewal)
		}
	}
}

func (s *server) renewed(l *link, err error) {
	s.mu.Lock()
	var c changes
	if s.link == l {
		s.renewErr = err
		c.server = err != nil
	}
	s.mu.Unlock()
	s.report(c)
}

// lacks reports whether netbootd serves with credentials other than those with
// this digest. A netbootd that reports no digest does not support renewal.
func (s *server) lacks(digest string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.observed.State.Credentials
	return s.connected && now != "" && now != digest
}
