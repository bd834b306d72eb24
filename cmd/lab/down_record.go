// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/pxelab/pxelab/internal/labdown"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/ownership"
)

// objects is the cluster that has the lab's objects, as it was before the manager was
// stopped.
type objects struct {
	// kubeconfig is nil if there is no cluster to write to; missing is why, "" if none is
	// expected.
	kubeconfig *clientcmd.ClientConfigLoadingRules
	missing    string
	// server is the embedded control plane, or nil.
	server *record
}

// objectsOf returns the cluster that the manager used, or the control plane that runs if
// there is no record of a manager.
func (l *lab) objectsOf() objects {
	server, err := l.recorded(controlPlane)
	if err != nil {
		return objects{missing: err.Error()}
	}
	// A damaged record is reported when the manager is stopped.
	used, _ := l.recorded(manager)
	switch {
	case used != nil && !slices.Contains(used.Args, kubeconfigFlag) && l.ownCluster():
		return objects{missing: "the manager used another cluster; set KUBECONFIG to name it"}
	case used != nil && !slices.Contains(used.Args, kubeconfigFlag), used == nil && server == nil && !l.ownCluster():
		return objects{kubeconfig: l.kubeconfig()}
	case server == nil:
		return objects{} // the lab is stopped, or was never started
	}
	if r, _ := l.running(controlPlane); r == nil {
		return objects{missing: fmt.Sprintf("the control plane has exited; see %s", server.Log)}
	}
	if _, err := os.Stat(l.dirs.Kubeconfig()); err != nil {
		return objects{missing: fmt.Sprintf("the kubeconfig cannot be read: %v", err)}
	}
	return objects{kubeconfig: l.ownKubeconfig(), server: server}
}

// recordDown sets the status of the objects whose machines are off, and prints what it
// did. A failure is not one of stopping the lab: the next manager replaces the status.
func (l *lab) recordDown(ctx context.Context, d *ownership.Directory, machines machine.Runner, o objects) {
	if ctx.Err() != nil {
		return
	}
	result, err := l.record(ctx, d, machines, o)
	switch {
	case errors.Is(err, errNoObjects):
		return
	case err != nil:
		l.out.line("the objects keep their status, which the next manager replaces: %v", err)
	}
	if result.Stopped > 0 {
		l.out.line("objects in phase Stopped: %d", result.Stopped)
	}
	if len(result.Running) > 0 {
		l.out.line("left alone, because the machine still runs: %s", strings.Join(result.Running, ", "))
	}
}

// errNoObjects means that there is no cluster whose objects describe the lab.
var errNoObjects = errors.New("there is no cluster")

func (l *lab) record(ctx context.Context, d *ownership.Directory, machines machine.Runner, o objects) (labdown.Result, error) {
	if o.missing != "" {
		return labdown.Result{}, errors.New(o.missing)
	}
	if o.kubeconfig == nil {
		return labdown.Result{}, errNoObjects
	}
	c, err := l.connect(ctx, o.kubeconfig, o.server, recordTimeout)
	if err != nil {
		return labdown.Result{}, err
	}
	return l.recordIn(ctx, c, d, machines)
}

// recordIn sets the status of the objects of a cluster.
func (l *lab) recordIn(ctx context.Context, c *cluster, d *ownership.Directory, machines machine.Runner) (labdown.Result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, recordTimeout, fmt.Errorf("the cluster took longer than %s", recordTimeout))
	defer cancel()
	// KUBECONFIG may name the cluster of another lab.
	owns, err := d.Owns(ctx, c.client, ownership.DefaultNamespace)
	if err != nil {
		return labdown.Result{}, err
	}
	if !owns {
		return labdown.Result{}, fmt.Errorf("the cluster at %s is not managed from %s", c.config.Host, l.dirs.Data)
	}
	states, err := machines.List(ctx)
	if err != nil {
		return labdown.Result{}, fmt.Errorf("listing the machines: %w", err)
	}
	return labdown.Record(ctx, labdown.Options{Reader: c.client, Writer: c.client, Machines: states, Now: time.Now()})
}
