// SPDX-License-Identifier: Apache-2.0

package ownership

import (
	"errors"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
)

// claim is what a manager may do with a Lease that has a holder.
type claim int

const (
	// claimNow means that the Lease is this directory's.
	claimNow claim = iota
	// claimLater means that the Lease is this directory's once it has expired: its holder
	// may be a copy of the directory, on this host or another one.
	claimLater
	// claimNever means that the Lease is another directory's.
	claimNever
)

// claimOn decides by what a directory has in common with the holder of a Lease. active
// means that the Lease has not expired, which is so for a moment after its holder ended.
//
// Neither the ID nor the location suffices while the Lease is active: a copied directory or
// a cloned host has the same ID, and many hosts have one name. Only a manager on the very
// same directory is excluded, by the lock of the directory.
func (d *Directory) claimOn(l *coordinationv1.Lease, active, ephemeral bool) claim {
	held := l.Spec.HolderIdentity
	sameID := held != nil && *held == d.ID
	switch {
	case held == nil || *held == "":
		return claimNow
	case sameID && (!active || l.Annotations[instanceAnnotation] == d.Instance):
		return claimNow
	case sameID:
		return claimLater
	case !active && (d.replaces(l) || l.Annotations[ephemeralAnnotation] == "true"):
		return claimNow
	case ephemeral && l.Annotations[ephemeralAnnotation] == "true":
		return claimLater
	default:
		return claimNever
	}
}

// replaces reports whether a Lease has the directory's location, on this very host: the
// former directory was deleted.
func (d *Directory) replaces(l *coordinationv1.Lease) bool {
	return l.Annotations[locationAnnotation] == d.Location && d.Host != "" && l.Annotations[hostAnnotation] == d.Host
}

// errWait means that the Lease will be this directory's unless its holder renews it.
var errWait = errors.New("waiting until the lease expires")

// refusal returns why the Lease cannot be taken now.
func (c *Cluster) refusal(l *coordinationv1.Lease, can claim) error {
	ago, active := c.lastRenewal(l)
	place := l.Annotations[locationAnnotation]
	if place == "" {
		place = *l.Spec.HolderIdentity
	}
	sameID := *l.Spec.HolderIdentity == c.o.Directory.ID
	switch {
	case can == claimLater && sameID && c.renewedWhileWaiting(l):
		return fmt.Errorf("%w: %s, whose manager is running (lease renewed %s ago); it has the same ID %s, so one directory or host is "+
			"a copy of the other: use another cluster, or delete the file %q of the copy to give it another ID", ErrTaken, place, ago,
			c.o.Directory.ID, idName)
	case can == claimLater:
		return fmt.Errorf("%w: the manager of %s was running %s ago", errWait, place, ago)
	case active:
		return fmt.Errorf("%w: %s, whose manager is running (lease renewed %s ago); stop it first, or use another cluster", ErrTaken, place, ago)
	}
	return fmt.Errorf("%w: %s (lease not renewed for %s), where its machines may still be running; "+
		"start the manager with that directory, or take its lab down and delete the lease: kubectl -n %s delete lease %s",
		ErrTaken, place, ago, c.o.Namespace, LeaseName)
}

// renewedWhileWaiting reports whether the Lease was renewed since it was first seen.
func (c *Cluster) renewedWhileWaiting(l *coordinationv1.Lease) bool {
	renewed := time.Time{}
	if l.Spec.RenewTime != nil {
		renewed = l.Spec.RenewTime.Time
	}
	if c.seen == nil {
		c.seen = &renewed
	}
	return !renewed.Equal(*c.seen)
}
