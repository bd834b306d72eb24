// SPDX-License-Identifier: Apache-2.0

package plan

import "time"

// CredentialsStep is what is to be done about the credentials that the manager
// and a server's netbootd trust each other by.
type CredentialsStep string

// The steps of a renewal. Each is one write to the server's Secret; whoever dies
// in between is followed by one who sees what is and takes the next.
const (
	// CredentialsKeep: nothing.
	CredentialsKeep CredentialsStep = "Keep"
	// CredentialsPrepare: make successors, which are offered to netbootd.
	CredentialsPrepare CredentialsStep = "Prepare"
	// CredentialsPromote: the successors are in force, forget what they replaced.
	CredentialsPromote CredentialsStep = "Promote"
	// CredentialsReplace: make new ones at once; the machine gets them by its seed.
	CredentialsReplace CredentialsStep = "Replace"
	// CredentialsRestart: no connection will ever come about; stop the machine,
	// so that it is started with a seed that has new ones.
	CredentialsRestart CredentialsStep = "Restart"
)

// CredentialsObservation is what the step follows from.
type CredentialsObservation struct {
	// RenewAt is when to renew the credentials in force, NextRenewAt their
	// successors; zero when there are none.
	RenewAt, NextRenewAt time.Time
	// NextInForce: netbootd says that it serves with the successors.
	NextInForce bool
	// Alive tells whether the machine runs, and since when.
	Alive     bool
	StartedAt time.Time
	// Untrusted: netbootd answers and one side refuses the other's certificate.
	Untrusted bool
	Now       time.Time
}

// Credentials computes the step.
func Credentials(o CredentialsObservation) CredentialsStep {
	hasNext := !o.NextRenewAt.IsZero()
	newest := o.RenewAt
	if hasNext {
		newest = o.NextRenewAt
	}
	switch {
	case !o.Alive && (o.Untrusted || !o.Now.Before(newest)):
		return CredentialsReplace
	case !o.Alive && hasNext:
		return CredentialsPromote
	case !o.Alive:
		return CredentialsKeep
	// A guest that boots serves with what it had before until it has read its
	// seed.
	case o.Untrusted && o.Now.Sub(o.StartedAt) > bootPatience:
		return CredentialsRestart
	case hasNext && o.NextInForce:
		return CredentialsPromote
	case !hasNext && !o.Now.Before(o.RenewAt):
		return CredentialsPrepare
	default:
		return CredentialsKeep
	}
}
