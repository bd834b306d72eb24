// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// LeaseName is the Lease of a cluster's manager.
	LeaseName = "manager.pxelab.io"
	// placeAnnotation says where the data directory is that has the cluster.
	placeAnnotation = "pxelab.io/data-directory"
	// endAnnotation is "true" when the machines end with the manager.
	endAnnotation = "pxelab.io/machines-end"
)

// ErrTaken is a cluster that belongs to another data directory, wrapped in who
// has it and what to do.
var ErrTaken = errors.New("the cluster is managed from another data directory")

// ClusterOptions are what a Cluster needs.
type ClusterOptions struct {
	// Client reads without a cache.
	Client    client.Client
	Namespace string
	Directory *Directory
	// MachinesEnd: the machines end with the manager, as in a pod. Another
	// directory may then have the cluster once nothing is heard of this one, and
	// waits for that instead of being refused.
	MachinesEnd bool
	Log         logr.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Every is how often the claim is renewed, and how long to wait before a
	// cluster that does not answer is asked again; 0 means 20 s.
	Every time.Duration
}

// Cluster is a cluster claimed for a data directory.
type Cluster struct{ o ClusterOptions }

// TakeCluster claims the cluster. A cluster that does not answer, or is so young
// that the namespace is not there, is waited for until ctx ends; one that another data directory has is ErrTaken.
func TakeCluster(ctx context.Context, o ClusterOptions) (*Cluster, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Every == 0 {
		o.Every = 20 * time.Second
	}
	c := &Cluster{o}
	for {
		err := c.renew(ctx)
		if err == nil {
			return c, nil
		}
		if errors.Is(err, ErrTaken) && !o.MachinesEnd || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
			return nil, err
		}
		o.Log.Info("Waiting for the cluster", "error", err.Error())
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the cluster: %w", errors.Join(err, context.Cause(ctx)))
		case <-time.After(min(o.Every, 5*time.Second)):
		}
	}
}

// Start renews the claim until ctx ends. It fails when somebody has taken the
// cluster over, and the manager must end; a cluster that is away is waited for.
// It implements manager.Runnable.
func (c *Cluster) Start(ctx context.Context) error {
	tick := time.NewTicker(c.o.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := c.renew(ctx)
		if errors.Is(err, ErrTaken) {
			return err
		}
		if err != nil && ctx.Err() == nil {
			c.o.Log.Info("The claim on the cluster could not be renewed; trying again", "error", err.Error())
		}
	}
}

// renew writes the Lease if it is this directory's, or nobody's.
func (c *Cluster) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, max(c.o.Every, 10*time.Second))
	defer cancel()
	lease := &coordinationv1.Lease{}
	err := c.o.Client.Get(ctx, client.ObjectKey{Namespace: c.o.Namespace, Name: LeaseName}, lease)
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return fmt.Errorf("reading the lease %s/%s: %w", c.o.Namespace, LeaseName, err)
	}
	if !missing && !c.ours(lease) {
		return c.taken(lease)
	}
	c.sign(lease)
	if missing {
		lease.Name, lease.Namespace = LeaseName, c.o.Namespace
		err = c.o.Client.Create(ctx, lease)
	} else {
		err = c.o.Client.Update(ctx, lease)
	}
	if err != nil {
		return fmt.Errorf("writing the lease %s/%s: %w", c.o.Namespace, LeaseName, err)
	}
	return nil
}

// ours reports whether the Lease is of this data directory: of its ID wherever
// it is now, or of its place, where one that was removed may have been before.
func (c *Cluster) ours(l *coordinationv1.Lease) bool {
	if l.Spec.HolderIdentity == nil || *l.Spec.HolderIdentity == "" {
		return true
	}
	if *l.Spec.HolderIdentity == c.o.Directory.ID || l.Annotations[placeAnnotation] == c.o.Directory.Place {
		return true
	}
	_, heard := c.heard(l)
	return !heard && l.Annotations[endAnnotation] == "true"
}

// heard tells how long ago the Lease was renewed, and whether its holder counts
// as running.
func (c *Cluster) heard(l *coordinationv1.Lease) (ago time.Duration, runs bool) {
	if l.Spec.RenewTime == nil || l.Spec.LeaseDurationSeconds == nil {
		return 0, false
	}
	ago = c.o.Now().Sub(l.Spec.RenewTime.Time).Round(time.Second)
	return ago, ago < time.Duration(*l.Spec.LeaseDurationSeconds)*time.Second
}

func (c *Cluster) sign(l *coordinationv1.Lease) {
	now := metav1.NewMicroTime(c.o.Now())
	seconds := int32(3 * max(c.o.Every, time.Second) / time.Second)
	if l.Spec.HolderIdentity == nil || *l.Spec.HolderIdentity != c.o.Directory.ID {
		l.Spec.AcquireTime = &now
	}
	l.Spec.HolderIdentity, l.Spec.RenewTime, l.Spec.LeaseDurationSeconds = &c.o.Directory.ID, &now, &seconds
	if l.Annotations == nil {
		l.Annotations = map[string]string{}
	}
	l.Annotations[placeAnnotation] = c.o.Directory.Place
	l.Annotations[endAnnotation] = strconv.FormatBool(c.o.MachinesEnd)
}

// taken says who has the cluster and what to do about it.
func (c *Cluster) taken(l *coordinationv1.Lease) error {
	place := l.Annotations[placeAnnotation]
	if place == "" {
		place = *l.Spec.HolderIdentity
	}
	ago, runs := c.heard(l)
	if runs {
		return fmt.Errorf("%w: %s, whose manager runs (heard %s ago); stop it first, or use another cluster", ErrTaken, place, ago)
	}
	return fmt.Errorf("%w: %s (not heard for %s); its machines may still run there. Start the manager with that directory, or take its lab down and delete the lease: kubectl -n %s delete lease %s",
		ErrTaken, place, ago, c.o.Namespace, LeaseName)
}
