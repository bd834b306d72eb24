// SPDX-License-Identifier: Apache-2.0

package plan

import "time"

// CredentialsStep is the next step of renewing the credentials with which the
// manager and a server's netbootd authenticate each other.
type CredentialsStep string

// The steps of a renewal. Each is one write to the server's Secret, so that a
// manager that restarts in between continues from the observed state.
const (
	// CredentialsKeep changes nothing.
	CredentialsKeep CredentialsStep = "Keep"
	// CredentialsPrepare creates successors, which are then sent to netbootd.
	CredentialsPrepare CredentialsStep = "Prepare"
	// CredentialsPromote makes the successors current and deletes their
	// predecessors.
	CredentialsPromote CredentialsStep = "Promote"
	// CredentialsReplace creates new credentials immediately; the machine reads
	// them from its seed.
	CredentialsReplace CredentialsStep = "Replace"
	// CredentialsRestart stops the machine, because a connection has become
	// impossible; it is then started with a seed that has new credentials.
	CredentialsRestart CredentialsStep = "Restart"
)

// CredentialsObservation is what [Credentials] computes the step from.
type CredentialsObservation struct {
	// RenewAt is when to renew the current credentials, NextRenewAt their
	// successors; zero if they do not exist.
	RenewAt, NextRenewAt time.Time
	// NextInForce reports whether netbootd uses the successors.
	NextInForce bool
	// Alive reports whether the machine is running.
	Alive bool
	// StartedAt is when the machine started, if it is running.
	StartedAt time.Time
	// Untrusted reports that netbootd responds but one side rejects the other's
	// certificate.
	Untrusted bool
	Now       time.Time
}

// Credentials returns the next step of the renewal.
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
	// A booting guest uses its previous credentials until it has read its seed.
	case o.Untrusted && o.Now.Sub(o.StartedAt) > bootTimeout:
		return CredentialsRestart
	case hasNext && o.NextInForce:
		return CredentialsPromote
	case !hasNext && !o.Now.Before(o.RenewAt):
		return CredentialsPrepare
	default:
		return CredentialsKeep
	}
}
