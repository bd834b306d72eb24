// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"
	"time"
)

func TestCredentials(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	before, after := now.Add(-time.Hour), now.Add(time.Hour)
	tests := map[string]struct {
		o    CredentialsObservation
		want CredentialsStep
	}{
		"fresh, off":       {CredentialsObservation{RenewAt: after}, CredentialsKeep},
		"fresh, runs":      {CredentialsObservation{RenewAt: after, Alive: true}, CredentialsKeep},
		"due, runs":        {CredentialsObservation{RenewAt: before, Alive: true}, CredentialsPrepare},
		"due this instant": {CredentialsObservation{RenewAt: now, Alive: true}, CredentialsPrepare},
		"due, off":         {CredentialsObservation{RenewAt: before}, CredentialsReplace},
		"offered":          {CredentialsObservation{RenewAt: before, NextRenewAt: after, Alive: true}, CredentialsKeep},
		"taken": {
			CredentialsObservation{RenewAt: before, NextRenewAt: after, Alive: true, NextInForce: true}, CredentialsPromote,
		},
		"off in between":           {CredentialsObservation{RenewAt: before, NextRenewAt: after}, CredentialsPromote},
		"off until both are due":   {CredentialsObservation{RenewAt: before, NextRenewAt: before}, CredentialsReplace},
		"both are due and it runs": {CredentialsObservation{RenewAt: before, NextRenewAt: before, Alive: true}, CredentialsKeep},
		"refused while it boots": {
			CredentialsObservation{RenewAt: after, Alive: true, Untrusted: true, StartedAt: now.Add(-time.Minute)},
			CredentialsKeep,
		},
		"refused for good": {
			CredentialsObservation{RenewAt: after, Alive: true, Untrusted: true, StartedAt: before}, CredentialsRestart,
		},
		"refused, and stopped for that": {CredentialsObservation{RenewAt: after, Untrusted: true}, CredentialsReplace},
		"ended while the manager slept": {
			CredentialsObservation{RenewAt: before, NextRenewAt: before, Alive: true, Untrusted: true, StartedAt: before},
			CredentialsRestart,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.o.Now = now
			if got := Credentials(tt.o); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
