// SPDX-License-Identifier: Apache-2.0

package ownership

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
	// LeaseName is the name of the Lease that records a cluster's owner.
	LeaseName = "manager.pxelab.io"
	// DefaultNamespace is the namespace of the Lease of a manager outside a cluster.
	DefaultNamespace = "kube-system"
	// locationAnnotation is the location of the data directory that owns the cluster.
	locationAnnotation = "pxelab.io/data-directory"
	// hostAnnotation identifies the host of the data directory, instanceAnnotation the
	// directory on it.
	hostAnnotation     = "pxelab.io/host"
	instanceAnnotation = "pxelab.io/directory-instance"
	// ephemeralAnnotation is "true" if the machines end with the manager.
	ephemeralAnnotation = "pxelab.io/machines-end"
)

// ErrTaken means that another data directory owns the cluster. Errors that wrap it
// contain the owner and what to do.
var ErrTaken = errors.New("the cluster is managed from another data directory")

// ClusterOptions configures AcquireCluster.
type ClusterOptions struct {
	// Client must not read from a cache.
	Client    client.Client
	Namespace string
	Directory *Directory
	// Ephemeral means that the machines end with the manager, as in a pod.
	// Another directory may then take the cluster when the Lease has expired, and
	// a manager waits for that instead of returning ErrTaken.
	Ephemeral bool
	Log       logr.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// RenewInterval is the interval at which the Lease is renewed, and an upper bound for
	// the retry interval of AcquireCluster; 0 means 20 s.
	RenewInterval time.Duration
}

// Cluster is a cluster that is owned by this process's data directory.
type Cluster struct {
	o ClusterOptions
	// id and epoch are written before AcquireCluster returns.
	id    string
	epoch int64
	// seen is when the Lease of a directory with the same ID was renewed last, at first
	// sight. Only AcquireCluster uses it.
	seen *time.Time
}

// ID identifies the cluster: it differs after the cluster's data was lost. It is the UID
// that the Lease had when this process acquired the cluster.
func (c *Cluster) ID() string { return c.id }

// Epoch is a number that increases with each process that acquires the cluster. What the
// processes control refuses the requests of an earlier one by it. It is the time at which
// the Lease was acquired, in microseconds since 1970, or one more than that of the process
// before if the clock was set back. The data directory records it as well as the Lease, so
// that it increases even if the Lease is deleted.
func (c *Cluster) Epoch() int64 { return c.epoch }

// AcquireCluster takes ownership of the cluster. It retries until ctx ends while the
// cluster is not reachable or its namespace does not exist yet, and while the Lease of a
// manager that may have ended has not expired. It returns ErrTaken if another data
// directory owns the cluster, and other errors if access is denied.
func AcquireCluster(ctx context.Context, o ClusterOptions) (*Cluster, error) {
	c := &Cluster{o: withDefaults(o)}
	for {
		err := c.renew(ctx)
		if err == nil {
			return c, nil
		}
		if errors.Is(err, ErrTaken) || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
			return nil, err
		}
		o.Log.Info("Waiting for the cluster", "error", err.Error())
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the cluster: %w", errors.Join(err, context.Cause(ctx)))
		case <-time.After(min(c.o.RenewInterval, 5*time.Second)):
		}
	}
}

func withDefaults(o ClusterOptions) ClusterOptions {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.RenewInterval == 0 {
		o.RenewInterval = 20 * time.Second
	}
	return o
}

// Start renews the Lease until ctx ends. It returns ErrTaken if another data
// directory has taken the cluster over; the manager must then stop. Other errors are
// logged and retried. It implements manager.Runnable.
func (c *Cluster) Start(ctx context.Context) error {
	tick := time.NewTicker(c.o.RenewInterval)
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
			c.o.Log.Info("Failed to renew the ownership lease; retrying", "error", err.Error())
		}
	}
}

// renew creates or updates the Lease, unless another data directory owns it.
func (c *Cluster) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, max(c.o.RenewInterval, 10*time.Second))
	defer cancel()
	lease := &coordinationv1.Lease{}
	err := c.o.Client.Get(ctx, client.ObjectKey{Namespace: c.o.Namespace, Name: LeaseName}, lease)
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return fmt.Errorf("reading lease %s/%s: %w", c.o.Namespace, LeaseName, err)
	}
	if !missing && c.epoch == 0 {
		_, active := c.lastRenewal(lease)
		if can := c.o.Directory.claimOn(lease, active, c.o.Ephemeral); can != claimNow {
			return c.refusal(lease, can)
		}
	} else if !missing && !c.holds(lease) {
		return c.refusal(lease, claimNever)
	}
	last, err := c.o.Directory.lastEpoch()
	if err != nil {
		return err
	}
	c.fill(lease, last)
	if missing {
		lease.Name, lease.Namespace = LeaseName, c.o.Namespace
		err = c.o.Client.Create(ctx, lease)
	} else {
		err = c.o.Client.Update(ctx, lease)
	}
	if err != nil {
		return fmt.Errorf("writing lease %s/%s: %w", c.o.Namespace, LeaseName, err)
	}
	if c.id == "" {
		c.id = string(lease.UID)
		c.epoch = lease.Spec.AcquireTime.UnixMicro()
		if err := c.o.Directory.recordEpoch(c.epoch); err != nil {
			// The Lease has it. A full disk must not prevent the manager from starting.
			c.o.Log.Error(err, "Continuing without a record of the epoch")
		}
	}
	return nil
}

// holds reports whether this process, which has acquired the cluster, still holds the
// Lease, or could take it again from no one.
func (c *Cluster) holds(l *coordinationv1.Lease) bool {
	held := l.Spec.HolderIdentity
	if held == nil || *held == "" {
		return true
	}
	return *held == c.o.Directory.ID && (l.Spec.AcquireTime == nil || l.Spec.AcquireTime.UnixMicro() == c.epoch)
}

// Owns reports whether the directory owns a cluster, whose Lease is in a namespace. No
// directory owns a cluster that no manager has acquired.
func (d *Directory) Owns(ctx context.Context, c client.Reader, namespace string) (bool, error) {
	lease := &coordinationv1.Lease{}
	if err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: LeaseName}, lease); err != nil {
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return false, fmt.Errorf("reading lease %s/%s: %w", namespace, LeaseName, err)
	}
	held := lease.Spec.HolderIdentity
	return held != nil && *held == d.ID || d.replaces(lease), nil
}

// lastRenewal returns how long ago the Lease was renewed, and whether it is still
// valid, which means that its holder is running.
func (c *Cluster) lastRenewal(l *coordinationv1.Lease) (ago time.Duration, active bool) {
	if l.Spec.RenewTime == nil || l.Spec.LeaseDurationSeconds == nil {
		return 0, false
	}
	ago = c.o.Now().Sub(l.Spec.RenewTime.Time).Round(time.Second)
	return ago, ago < time.Duration(*l.Spec.LeaseDurationSeconds)*time.Second
}

// fill sets this data directory as the holder of the Lease. last is the highest epoch
// before this process.
func (c *Cluster) fill(l *coordinationv1.Lease, last int64) {
	now := metav1.NewMicroTime(c.o.Now())
	seconds := int32(3 * max(c.o.RenewInterval, time.Second) / time.Second)
	if c.epoch == 0 {
		acquired := now
		if before := l.Spec.AcquireTime; before != nil && !before.Before(&acquired) {
			acquired = metav1.NewMicroTime(before.Add(time.Microsecond))
		}
		if acquired.UnixMicro() <= last {
			acquired = metav1.NewMicroTime(time.UnixMicro(last + 1).UTC())
		}
		l.Spec.AcquireTime = &acquired
	}
	l.Spec.HolderIdentity = &c.o.Directory.ID
	l.Spec.RenewTime = &now
	l.Spec.LeaseDurationSeconds = &seconds
	if l.Annotations == nil {
		l.Annotations = map[string]string{}
	}
	l.Annotations[locationAnnotation] = c.o.Directory.Location
	l.Annotations[hostAnnotation] = c.o.Directory.Host
	l.Annotations[instanceAnnotation] = c.o.Directory.Instance
	l.Annotations[ephemeralAnnotation] = strconv.FormatBool(c.o.Ephemeral)
}
